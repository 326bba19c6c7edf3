package faults

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// footprint is what an instance takes.
type footprint struct {
	goroutines int // besides those of clients
	heap       int // in bytes, after a garbage collection
}

func (c *cluster) footprint(node int) footprint {
	c.Helper()
	return footprint{c.goroutines(node) - len(c.on(node)), c.heap(node)}
}

func (c *cluster) goroutines(node int) int {
	c.Helper()
	// goroutine profile: total 42
	first, _, _ := strings.Cut(c.get(node, "/debug/pprof/goroutine?debug=1"), "\n")
	return c.number(first[strings.LastIndex(first, " ")+1:])
}

func (c *cluster) heap(node int) int {
	c.Helper()
	for line := range strings.Lines(c.get(node, "/debug/pprof/heap?gc=1&debug=1")) {
		if value, ok := strings.CutPrefix(line, "# HeapAlloc = "); ok {
			return c.number(strings.TrimSpace(value))
		}
	}
	c.Fatal("the heap profile does not tell the size of the heap")
	return 0
}

func (c *cluster) number(s string) int {
	c.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		c.Fatal(err)
	}
	return n
}

// get reads from the admin endpoint of an instance.
func (c *cluster) get(node int, path string) string {
	c.Helper()
	resp, err := http.Get("http://" + c.nodes[node].Admin + path)
	if err != nil {
		c.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.Fatal(err)
	}
	return string(b)
}

// links returns how many connections to Redis the instances have.
func (c *cluster) links() int {
	c.Helper()
	list, err := c.store.ClientList(c.Context()).Result()
	if err != nil {
		c.Fatal(err)
	}
	return strings.Count(list, " name=caddy-rooms:")
}

// flat waits until no instance takes more than before, but for what Caddy and the garbage collector may have under way, nor do all
// together have many more connections to Redis.
func (c *cluster) flat(before []footprint, links int) {
	c.Helper()
	now, linked := make([]footprint, len(before)), 0
	c.settled(func() error {
		for i, b := range before {
			// A few goroutines of the last requests come and go.
			now[i] = c.footprint(i)
			if now[i].goroutines > b.goroutines+10 {
				return fmt.Errorf("instance %d has %d goroutines besides those of clients, and had %d", i, now[i].goroutines, b.goroutines)
			}
			if now[i].heap > b.heap+2<<20 {
				return fmt.Errorf("instance %d has %d bytes of heap, and had %d", i, now[i].heap, b.heap)
			}
		}
		// A pool grows with what comes at once.
		if linked = c.links(); linked > links+3*len(before) {
			return fmt.Errorf("the instances have %d connections to Redis, and had %d", linked, links)
		}
		return nil
	})
	c.Logf("figure: goroutines besides those of clients, and bytes of heap, of each instance: %v, before %v; connections to Redis: %d, before %d",
		now, before, linked, links)
}
