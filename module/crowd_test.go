package module

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
)

// TestCrowd lets 5,000 clients join, publish and leave, and expects the process to be what it was.
func TestCrowd(t *testing.T) {
	if testing.Short() {
		t.Skip("opens 5,000 connections")
	}
	const n, perRoom = 5000, 50
	c := caddytest.StartText(t, `:{$PORT} {
	rooms /ws {
		anonymous
		no_default_limits
	}
}`)
	// What the first connections make grow is not the crowd's.
	crowd(t, c, 200, perRoom)
	settle(t, c, 0)
	before := goroutines(t, c)
	memory := heap(t, c)
	crowd(t, c, n, perRoom)
	settle(t, c, before)
	// A tenth of what the crowd needed would be 5 MB; maps and pools keep some of it.
	c.Wait("the heap to shrink", func() bool { return heap(t, c) < memory+8<<20 })
}

// crowd opens n connections, lets them talk in rooms of perRoom, and ends them in the three ways there are.
func crowd(t *testing.T, c *caddytest.Caddy, n, perRoom int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	conns := make([]*websocket.Conn, n)
	// Everyone is in before anyone speaks, so that each message has a known number of recipients.
	each(n, func(i int) {
		conn, _, err := websocket.Dial(ctx, c.URL("/ws"), &websocket.DialOptions{HTTPClient: client(i)})
		if err != nil {
			t.Errorf("dialing: %v", err)
			return
		}
		conns[i] = conn
		send(ctx, t, conn, `{"type":"join","id":1,"room":"r%d","presence":"count"}`, i/perRoom)
		until(ctx, t, conn, `"type":"ack"`, 1)
	})
	if t.Failed() {
		t.FailNow()
	}
	each(n, func(i int) { send(ctx, t, conns[i], `{"type":"publish","room":"r%d","data":%d}`, i/perRoom, i) })
	each(n, func(i int) { until(ctx, t, conns[i], `"type":"message"`, perRoom-1) })
	each(n, func(i int) {
		switch i % 3 {
		case 0:
			send(ctx, t, conns[i], `{"type":"leave","id":2,"room":"r%d"}`, i/perRoom)
			until(ctx, t, conns[i], `"id":2`, 1)
			_ = conns[i].CloseNow()
		case 1:
			_ = conns[i].Close(websocket.StatusNormalClosure, "")
		case 2:
			_ = conns[i].CloseNow()
		}
	})
}

// each calls f for 0 to n-1, 64 at a time.
func each(n int, f func(i int)) {
	var wg sync.WaitGroup
	for worker := range 64 {
		wg.Go(func() {
			for i := worker; i < n; i += 64 {
				f(i)
			}
		})
	}
	wg.Wait()
}

// client dials from one of several addresses, since one has too few ports for connections that end and come again.
func client(i int) *http.Client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i%4))}}
	return &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext}}
}

func send(ctx context.Context, t *testing.T, c *websocket.Conn, format string, args ...any) {
	if err := c.Write(ctx, websocket.MessageText, fmt.Appendf(nil, format, args...)); err != nil {
		t.Errorf("sending: %v", err)
	}
}

// until reads until n frames have had text in them.
func until(ctx context.Context, t *testing.T, c *websocket.Conn, text string, n int) {
	for n > 0 {
		_, b, err := c.Read(ctx)
		if err != nil {
			t.Errorf("waiting for %s: %v", text, err)
			return
		}
		if strings.Contains(string(b), text) {
			n--
		}
	}
}

// settle waits until no more than a few goroutines above before are left, or with 0, until no session is.
func settle(t *testing.T, c *caddytest.Caddy, before int) {
	t.Helper()
	c.Wait("the sessions to end", func() bool {
		profile := get(t, c, "/debug/pprof/goroutine?debug=1")
		return !strings.Contains(profile, "hub.(*Session).run") && (before == 0 || goroutines(t, c) <= before+10)
	})
}

func goroutines(t *testing.T, c *caddytest.Caddy) int {
	t.Helper()
	// goroutine profile: total 42
	first, _, _ := strings.Cut(get(t, c, "/debug/pprof/goroutine?debug=1"), "\n")
	n, err := strconv.Atoi(first[strings.LastIndex(first, " ")+1:])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// heap returns the bytes in use after a garbage collection.
func heap(t *testing.T, c *caddytest.Caddy) int {
	t.Helper()
	for line := range strings.Lines(get(t, c, "/debug/pprof/heap?gc=1&debug=1")) {
		if value, ok := strings.CutPrefix(line, "# HeapAlloc = "); ok {
			n, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("the heap profile does not tell the size of the heap")
	return 0
}

func get(t *testing.T, c *caddytest.Caddy, path string) string {
	t.Helper()
	resp, err := http.Get("http://" + c.Admin + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
