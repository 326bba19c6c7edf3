package ratelimit

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// TestReset has a key at its limit be free again, and no other.
func TestReset(t *testing.T) {
	long := strings.Repeat("x", 3*maxSubject)
	eachImplementation(t, func(t *testing.T, r rig) {
		for _, a := range Algorithms {
			l := Limit{Name: "chat", Events: 2, Window: time.Hour, Algorithm: a}
			other := l
			other.Name = "other"
			exhaust := func(l Limit, key string) {
				for mustAllow(t, r, l, key).Allowed {
				}
			}
			for _, key := range []string{"ann", long} {
				exhaust(l, key)
				exhaust(other, key)
				exhaust(l, "bob")
				if err := r.Reset(t.Context(), l, key); err != nil {
					t.Fatal(err)
				}
				if d := mustAllow(t, r, l, key); !d.Allowed || d.Remaining != 1 {
					t.Errorf("%s, %.10s: %+v after a reset", a, key, d)
				}
				if mustAllow(t, r, other, key).Allowed || mustAllow(t, r, l, "bob").Allowed {
					t.Errorf("%s, %.10s: more than that was reset", a, key)
				}
			}
			if err := r.Reset(t.Context(), l, "nobody"); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestForget resets a key that another process has denied.
func TestForget(t *testing.T) {
	server := redistest.Start(t)
	a, b := NewRedis(newClient(t, server), patient), NewRedis(newClient(t, server), patient)
	l := Limit{Name: "chat", Events: 1, Window: time.Hour, Algorithm: SlidingLog}
	mustAllow(t, a, l, "ann")
	if mustAllow(t, b, l, "ann").Allowed {
		t.Fatal("allowed twice")
	}
	if err := a.Reset(t.Context(), l, "ann"); err != nil {
		t.Fatal(err)
	}
	if mustAllow(t, b, l, "ann").Allowed {
		t.Error("a denial was forgotten by itself: this test shows nothing")
	}
	b.Forget(l, "ann")
	if !mustAllow(t, b, l, "ann").Allowed {
		t.Error("denied after a reset")
	}
}

// TestResetUnderACheck has the answer to a check of before a reset arrive behind it.
func TestResetUnderACheck(t *testing.T) {
	d := newDenials(10)
	_, _, resets := d.get("ann", 0)
	d.forget("ann")
	d.put("ann", Decision{Next: time.Hour, Reset: time.Hour}, 0, 0, resets)
	if _, denied, _ := d.get("ann", 0); denied {
		t.Error("denied by what was before the reset")
	}
}

func TestResetWithoutRedis(t *testing.T) {
	server := redistest.Start(t)
	shared := NewRedis(newClient(t, server), RedisOptions{})
	local := NewMemory()
	f := Fallback{Shared: shared, Local: local}
	l := Limit{Name: "chat", Events: 1, Window: time.Hour, Algorithm: SlidingCounter}
	server.Kill()
	for range 2 {
		mustAllow(t, f, l, "ann")
	}
	if err := f.Reset(t.Context(), l, "ann"); err == nil {
		t.Error("no error without Redis")
	}
	if d := mustAllow(t, f, l, "ann"); !d.Allowed || !d.Local {
		t.Errorf("%+v after a reset", d)
	}
	f.Forget(l, "ann")
	if d := mustAllow(t, f, l, "ann"); !d.Allowed {
		t.Errorf("%+v after a reset elsewhere", d)
	}
	for range breakAfter {
		_, _ = shared.Allow(t.Context(), l, "ann")
	}
	if err := shared.Reset(t.Context(), l, "ann"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("error %v, want ErrUnavailable", err)
	}
}
