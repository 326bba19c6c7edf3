package ws

import (
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/caddyrooms/caddy-rooms/internal/metrics"
)

// TestABroadcastToManyHoldsUpNobody has a message for one connection come behind a broadcast to many, at a worker that does one thing at a time.
func TestABroadcastToManyHoldsUpNobody(t *testing.T) {
	pool := newPool(zaptest.NewLogger(t), metrics.New("test"), time.Hour)
	pool.workers = pool.workers[:1] // and it isn't started
	w := pool.workers[0]
	var limits atomic.Pointer[Limits]
	limits.Store(&Limits{MaxFrame: 1 << 10, SendQueue: 1 << 20, WriteTimeout: time.Minute})
	conn := func() *Conn {
		here, there := tcpPair(t)
		t.Cleanup(func() { _ = here.Close(); _ = there.Close() })
		return &Conn{pool: pool, owner: mute{}, worker: w, limits: &limits, nc: here, socket: here, raw: rawConn(here), slot: -1}
	}
	member, other := conn(), conn()
	b := pool.Batch()
	for range many + 10*turn {
		b.Send(member, text("to many"))
		member.busy = false // as if it were another one each time
	}
	b.End()
	if w.ready.len() != many || w.bulk.len() != 10*turn {
		t.Fatalf("%d connections stand among all and %d behind them, want %d and %d", w.ready.len(), w.bulk.len(), many, 10*turn)
	}
	for w.ready.len() > 0 {
		w.serveSome(pool, &w.ready)
	}
	other.Send(text("to one"))
	w.serveSome(pool, &w.ready)
	w.serveSome(pool, &w.bulk)
	if other.isBusy() || w.bulk.len() != 9*turn {
		t.Errorf("not served in turns: %d left of many", w.bulk.len())
	}
}

func TestFIFO(t *testing.T) {
	var q fifo
	conns := make([]*Conn, 10*maxQueue)
	for i := range conns {
		conns[i] = &Conn{slot: i}
	}
	into := make([]*Conn, turn)
	next, pushed := 0, 0
	for next < len(conns) {
		n := min(1+pushed%300, len(conns)-pushed)
		q.push(conns[pushed : pushed+n])
		pushed += n
		for range 2 {
			for _, c := range into[:q.pop(into)] {
				if c.slot != next {
					t.Fatalf("popped %d, want %d", c.slot, next)
				}
				next++
			}
		}
		if q.len() != pushed-next {
			t.Fatalf("%d are left, want %d", q.len(), pushed-next)
		}
	}
}
