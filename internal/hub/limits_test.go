package hub

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyrooms/caddy-rooms/ratelimit"
)

// TestTurns sends clients away: each is told another moment, at a pace that leaves room for newcomers, and none is told to wait for ever.
func TestTurns(t *testing.T) {
	h := New(Options{Logger: zap.NewNop()})
	now := time.Now()
	const pace = 100
	limit := &Limit{Limit: ratelimit.Limit{Name: "accept", Events: pace, Window: time.Second}}
	last := time.Duration(0)
	for n := range 1000 {
		in := h.turn(now, limit, 200*time.Millisecond)
		if in <= last || in < 200*time.Millisecond {
			t.Fatalf("client %d comes in %s, the one before in %s", n, in, last)
		}
		last = in
	}
	if want := 200*time.Millisecond + 999*time.Second/pace*5/4; last != want {
		t.Errorf("the last comes in %s, want %s", last, want)
	}
	for range 3000 {
		if in := h.turn(now, limit, 0); in > longestTurn {
			t.Fatalf("a client comes in %s, at most are %s", in, longestTurn)
		}
	}
	other := &Limit{Limit: ratelimit.Limit{Name: "other", Events: 1, Window: time.Hour}}
	if in, want := h.turn(now, other, time.Hour), time.Hour; in != want {
		t.Errorf("the first who waits for a slow limit comes in %s, want %s", in, want)
	}
	if in := h.turn(now.Add(24*time.Hour), limit, 0); in > time.Second {
		t.Errorf("when nobody waits any more: in %s", in)
	}
}

// TestObservationsAreLogged refuses a burst, then one at a time: each is in one count, also when nothing comes behind it.
func TestObservationsAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		h := New(Options{Logger: zap.New(core)})
		limit := &Limit{Limit: ratelimit.Limit{Name: "chat"}, On: OnPublish}
		for range 5 {
			h.observe(limit)
		}
		time.Sleep(observeEvery + time.Second)
		for range 25 {
			h.observe(limit)
			time.Sleep(time.Second)
		}
		h.tellObserved("chat")
		var counts []int64
		for _, entry := range logs.FilterMessage("limit would refuse").All() {
			fields := entry.ContextMap()
			if fields["limit"] != "chat" || fields["on"] != "publish" {
				t.Errorf("logged %v", fields)
			}
			counts = append(counts, fields["count"].(int64))
		}
		if len(counts) != 4 || counts[0] != 5 || counts[1]+counts[2]+counts[3] != 25 {
			t.Errorf("logged counts of %v, want 5, and 25 in all after it", counts)
		}
	})
}
