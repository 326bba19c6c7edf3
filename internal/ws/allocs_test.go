//go:build unix

package ws

import (
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/metrics"
)

// TestADeliveryAllocatesNothing sends to many connections, one frame and several at once, until all is written.
func TestADeliveryAllocatesNothing(t *testing.T) {
	const members = 100
	pool := NewPool(nil, metrics.New("test"), time.Hour)
	defer pool.Close()
	var limits atomic.Pointer[Limits]
	limits.Store(&Limits{MaxFrame: 1 << 16, SendQueue: 1 << 20, WriteTimeout: time.Minute})
	conns := make([]*Conn, members)
	for i := range conns {
		here, there := tcpPair(t)
		defer there.Close()
		defer here.Close()
		conns[i] = &Conn{pool: pool, owner: mute{}, worker: pool.workers[i%len(pool.workers)], limits: &limits, nc: here, socket: here, raw: rawConn(here), slot: -1}
		go func() { _, _ = io.Copy(io.Discard, there) }()
	}
	for _, messages := range []int{1, 3} {
		send := func() {
			for range messages {
				f := text(strings.Repeat("x", 200))
				b := pool.Batch()
				for _, c := range conns {
					b.Send(c, f)
				}
				b.End()
			}
			for _, c := range conns {
				for c.isBusy() {
					runtime.Gosched()
				}
			}
		}
		if n := testing.AllocsPerRun(200, send) / float64(messages*members); n >= 0.05 {
			t.Errorf("%d messages at once: %.3f allocations a delivery", messages, n)
		}
	}
}

func (c *Conn) isBusy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.busy
}
