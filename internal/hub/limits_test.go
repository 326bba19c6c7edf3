package hub

import (
	"testing"
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
	last := time.Duration(0)
	for n := range 1000 {
		in := h.turn(now, 200*time.Millisecond, time.Second/pace)
		if in <= last || in < 200*time.Millisecond {
			t.Fatalf("client %d comes in %s, the one before in %s", n, in, last)
		}
		last = in
	}
	if want := 200*time.Millisecond + 1000*time.Second/pace*5/4; last != want {
		t.Errorf("the last comes in %s, want %s", last, want)
	}
	for range 3000 {
		if in := h.turn(now, 0, time.Second/pace); in > longestTurn {
			t.Fatalf("a client comes in %s, at most are %s", in, longestTurn)
		}
	}
	if in := h.turn(now, time.Hour, time.Second/pace); in != time.Hour {
		t.Errorf("before the limit is free: in %s", in)
	}
	if in := h.turn(now.Add(24*time.Hour), 0, time.Second/pace); in > time.Second {
		t.Errorf("when nobody waits any more: in %s", in)
	}
}

func TestObservationsAreLogged(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	h := New(Options{Logger: zap.New(core)})
	limit := &Limit{Limit: ratelimit.Limit{Name: "chat"}, On: OnPublish}
	now := time.Now()
	for n := range 25 {
		h.observe(now.Add(time.Duration(n)*time.Second), limit)
	}
	var counts []int64
	for _, entry := range logs.FilterMessage("limit would refuse").All() {
		fields := entry.ContextMap()
		if fields["limit"] != "chat" || fields["on"] != "publish" {
			t.Errorf("logged %v", fields)
		}
		counts = append(counts, fields["count"].(int64))
	}
	if len(counts) != 3 || counts[0] != 1 || counts[1] != 10 || counts[2] != 10 {
		t.Errorf("logged counts of %v, want 1, 10 and 10", counts)
	}
}
