package hub

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/bus"
	"github.com/caddyrooms/caddy-rooms/internal/moderation"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
	"github.com/caddyrooms/caddy-rooms/presence"
)

// company is a hub in whose company other instances are whose answers a test decides about. It is used in a bubble.
type company struct {
	*house
	orders []string // numbers of those that were sent
	now    []string // who answers at once
}

func newCompany(t *testing.T, nodes ...string) *company {
	c := &company{house: unbound(t), now: nodes}
	c.bind(defaultPolicy())
	c.store.instances = append([]string{"n1"}, nodes...)
	c.bus.answer = func(payload string) {
		c.orders = append(c.orders, strings.Fields(payload)[2])
		for _, node := range c.now {
			c.answers(node, len(c.orders)-1)
		}
	}
	t.Cleanup(func() {
		if err := c.Close(exiting); err != nil {
			t.Error(err)
		}
	})
	return c
}

// answers has a node answer the n-th order.
func (c *company) answers(node string, n int) {
	c.Receive("rooms:{test}:ctl:n1", fmt.Appendf(nil, "a%s\n{\"node\":%q,\"connections\":1}", c.orders[n], node))
}

// TestSilentInstances has an instance not answer: it is waited for once, until something comes from it again.
func TestSilentInstances(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCompany(t, "n2", "n3")
		ask := func(ctx context.Context, what string, connections int, degraded bool, wait time.Duration) {
			t.Helper()
			began := time.Now()
			done := c.Do(ctx, Order{Do: Disconnect, User: "ann"})
			if took := time.Since(began); took != wait || done != (Done{Connections: connections, Degraded: degraded}) {
				t.Errorf("%s: %+v after %s, want %d connections, degraded %t, after %s", what, done, took, connections, degraded, wait)
			}
		}
		ask(t.Context(), "all answer", 2, false, 0)
		c.now = []string{"n2"}
		short, cancel := context.WithTimeout(t.Context(), askTime/2)
		defer cancel()
		ask(short, "the asker goes", 1, true, askTime/2)
		ask(t.Context(), "n3 does not answer", 1, true, askTime)
		ask(t.Context(), "n3 does not answer again", 1, true, 0)
		c.now = nil
		ask(t.Context(), "n2 does not either", 0, true, askTime)
		ask(t.Context(), "nobody is awaited", 0, true, 0)
		c.now = []string{"n3", "n2"}
		ask(t.Context(), "both are there in time", 2, false, 0)

		c.now = []string{"n2"}
		ask(t.Context(), "n3 does not answer", 1, true, askTime)
		c.answers("n3", 0) // too late for that, but it is alive
		ask(t.Context(), "n3 is awaited", 1, true, askTime)
		c.store.instances = []string{"n1", "n2"}
		ask(t.Context(), "n3 is gone", 1, false, 0)
		c.store.instances = []string{"n1", "n2", "n3"}
		ask(t.Context(), "another n3 is awaited", 1, true, askTime)
	})
}

// TestAnswerAtTheLastMoment has an answer come when nobody takes answers any more, and before it is noted who has given none.
func TestAnswerAtTheLastMoment(t *testing.T) {
	var q questions
	number, come, end := q.ask()
	defer end()
	q.answered(number, answer{Node: "n2"})
	rest := q.rest(come, []string{"n2", "n3"})
	if len(rest) != 1 || rest[0].Node != "n2" {
		t.Errorf("the rest is %v", rest)
	}
	equal(t, "awaited", q.awaited([]string{"n2", "n3"}), []string{"n2"})
}

// TestBanHoldsAtOnce has an instance take its time to say how many connections it closes.
func TestBanHoldsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCompany(t, "n2")
		c.now = nil
		done := make(chan Done)
		go func() {
			_, d, err := c.Ban(t.Context(), "ann", time.Hour)
			if err != nil {
				t.Error(err)
			}
			done <- d
		}()
		synctest.Wait() // until it waits
		if _, banned := c.Banned("ann"); !banned {
			t.Error("she is not banned before all have counted")
		}
		c.answers("n2", 0)
		equal(t, "ban", <-done, Done{Connections: 1})
	})
}

// TestBanIsToldBehindItsCount has it take some time until the other instances are asked how many connections the ban closes.
func TestBanIsToldBehindItsCount(t *testing.T) {
	redis := redistest.Start(t).Client()
	stalled := make(chan struct{})
	h := unbound(t)
	h.bus.stalled = stalled
	fakes := h.opts.Open
	h.opts.Open = func(o presence.Observer, r bus.Receiver) Backend {
		b := fakes(o, r)
		b.Moderation = moderation.New(moderation.Options{Client: redis, Base: h.opts.Base})
		return b
	}
	h.bind(defaultPolicy())
	defer h.Close(exiting)
	began, done := time.Now(), make(chan Done)
	go func() {
		_, d, err := h.Ban(t.Context(), "ann", time.Hour)
		if err != nil {
			t.Error(err)
		}
		done <- d
	}()
	h.waitFor("the ban to hold here", func() bool { _, banned := h.Banned("ann"); return banned })
	for range 100 { // time enough for another exchange with Redis
		n := redis.HExists(t.Context(), h.opts.Base+":mod", "bann").Val()
		if time.Since(began) < askTime && n {
			t.Fatal("others may hear of the ban before they are asked")
		}
	}
	close(stalled)
	<-done
	if !redis.HExists(t.Context(), h.opts.Base+":mod", "bann").Val() {
		t.Error("others have not heard of the ban")
	}
}
