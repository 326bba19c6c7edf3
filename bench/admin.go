package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// admin is the host:port of a Caddy's admin endpoint.
type admin string

// goroutines returns how many the process has.
func (a admin) goroutines(ctx context.Context) (float64, error) {
	text, err := a.get(ctx, "/debug/pprof/goroutine?debug=1")
	if err != nil {
		return 0, err
	}
	// goroutine profile: total 42
	return number(text, "goroutine profile: total ")
}

// collected is what is left after a garbage collection.
type collected struct {
	memory  float64 // bytes of live objects and of stacks
	mallocs float64 // objects allocated since the process was started
}

// collect has the process collect its garbage.
func (a admin) collect(ctx context.Context) (c collected, err error) {
	text, err := a.get(ctx, "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		return c, err
	}
	heap, err := number(text, "# HeapAlloc = ")
	if err != nil {
		return c, err
	}
	stack, err := number(text, "# Stack = ")
	if err != nil {
		return c, err
	}
	c.memory = heap + stack
	c.mallocs, err = number(text, "# Mallocs = ")
	return c, err
}

func (a admin) get(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+string(a)+path, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s", path, resp.Status)
	}
	return string(b), err
}

// number returns what stands behind name at the beginning of a line.
func number(text, name string) (float64, error) {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name); ok {
			value, _, _ = strings.Cut(strings.TrimSpace(value), " ")
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("the profile does not tell %q", strings.TrimSpace(name))
}
