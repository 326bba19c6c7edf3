package ratelimit

import (
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

func TestOutagePolicies(t *testing.T) {
	stall := func(s *redistest.Server) (back func()) { s.Stall(); return s.Resume }
	kill := func(s *redistest.Server) (back func()) { s.Kill(); return s.Run }
	for name, strike := range map[string]func(*redistest.Server) func(){"killed": kill, "stalled": stall} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			shared := NewRedis(newClient(t, server), RedisOptions{})
			local := NewMemory()
			with := func(o Outage) Fallback { return Fallback{Shared: shared, Local: local, Outage: o} }
			l := Limit{Name: "chat", Events: 3, Window: time.Hour, Algorithm: SlidingCounter}
			restored(t, with(OutageLocal), l) // the first call dials, which a busy machine may not do in time

			back := strike(server)
			for i := range 10 {
				d := mustAllow(t, with(OutageLocal), l, "local")
				if d.Allowed != (i < l.Events) || !d.Local || (d.RetryAfter > 0) == d.Allowed {
					t.Errorf("local, event %d: %+v", i, d)
				}
				if d := mustAllow(t, Fallback{Shared: shared, Local: local}, l, "default"); d.Allowed != (i < l.Events) || !d.Local {
					t.Errorf("no policy, event %d: %+v", i, d)
				}
				if d := mustAllow(t, with(OutageAllow), l, "allow"); !d.Allowed || !d.Local || d.RetryAfter != 0 {
					t.Errorf("allow, event %d: %+v", i, d)
				}
				if d := mustAllow(t, with(OutageDeny), l, "deny"); d.Allowed || !d.Local || d.RetryAfter != breakFor {
					t.Errorf("deny, event %d: %+v", i, d)
				}
			}
			back()
			restored(t, with(OutageLocal), l)
		})
	}
}

// restored waits until the shared limiter of f decides.
func restored(t *testing.T, f Fallback, l Limit) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for mustAllow(t, f, l, "probe").Local {
		if time.Now().After(deadline) {
			t.Fatal("the shared limiter does not decide")
		}
		<-time.After(20 * time.Millisecond)
	}
}

func TestOutageWords(t *testing.T) {
	for _, o := range Outages {
		if err := o.Validate(); err != nil {
			t.Error(err)
		}
	}
	const want = `unknown outage policy "open" (allowed: local, allow, deny)`
	if err := Outage("open").Validate(); err == nil || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
}
