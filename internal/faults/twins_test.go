package faults

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
)

// TestTwins takes away, one by one, the mechanisms that hold the promises: the trial of the promise must fail then, and say what it says here.
func TestTwins(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program for each mechanism")
	}
	s := size(600, 30)
	s.ttl, s.grace, s.patience = 3*time.Second, time.Second, 14*time.Second
	for _, twin := range []struct {
		name  string
		edits []caddytest.Edit
		trial func(t testing.TB, s scale, program string)
		fault string // part of what the trial says
	}{
		{
			"nobody removes the dead",
			[]caddytest.Edit{{File: "presence/redis_reap.go", Old: "busy := s.reaping[dead] || s.healing", New: "busy := true"}},
			killedInstance, "too many",
		},
		{
			"the dead may write",
			[]caddytest.Edit{{File: "presence/scripts/change.lua", Old: "if w == 1 then", New: "if false then"}},
			instanceCutOff, "without a lease",
		},
		{
			"a message that could not be published is forgotten",
			[]caddytest.Edit{{File: "internal/bus/publisher.go", Old: "		p.miss(m, outcome)\n", New: ""}},
			instanceCutOff, "neither heard",
		},
		{
			"a lost subscription is not told",
			[]caddytest.Edit{{File: "internal/bus/registry.go", Old: "s.lost = s.lost || s.confirmed()", New: ""}},
			pubSubKilled, "no gap",
		},
		{
			"what comes back is not asked for",
			[]caddytest.Edit{{File: "internal/bus/subscriber.go", Old: "return errNotDelivered", New: "sent = nil"}},
			pubSubSilent, "no gap",
		},
		{
			"writes are not counted",
			[]caddytest.Edit{{File: "presence/redis_writer.go", Old: "if w != s.w {", New: "if s.w = w; false {"}},
			replicaPromoted, "was told",
		},
		{
			"an instance does not notice that it is gone",
			[]caddytest.Edit{
				{File: "presence/redis_writer.go", Old: "		return errGone\n", New: "		for _, o := range c.ops {\n			o.finish(nil)\n		}\n		s.renewed = sent\n		return nil\n"},
			},
			redisFlushed, "leases of []",
		},
		{
			"vanished scripts are not loaded again",
			[]caddytest.Edit{{File: "presence/redis_writer.go", Old: `redis.HasErrorPrefix(err, "NOSCRIPT")`, New: `redis.HasErrorPrefix(err, "NOSCRIPTS")`}},
			scriptsFlushed, "degraded true",
		},
		{
			"policies hold before the configuration does",
			[]caddytest.Edit{{
				File: "module/handler.go", Old: "	h.policy, err = h.buildPolicy()\n",
				New: "	if h.policy, err = h.buildPolicy(); err == nil {\n		shared.Bind([]hub.Binding{h.binding()})\n	}\n",
			}},
			hasty(reloadRejected), "refused: forbidden",
		},
		{
			"limits are part of what a hub is",
			[]caddytest.Edit{{
				File: "module/handler.go", Old: "redis: redis.identity()}\n",
				New: "redis: redis.identity()}\n	key.redis.secrets += fmt.Sprint(h.Limits)\n",
			}},
			hasty(reloadUnderTraffic), "guests were on",
		},
		{
			"members of a stopping instance leave one by one",
			[]caddytest.Edit{{File: "internal/hub/session.go", Old: "s.hub.backend.Store.Disconnect(s.id, hold, reason)", New: "s.hub.backend.Store.Disconnect(s.id, 0*hold, reason)"}},
			hasty(rollingRestart), "events [leave",
		},
	} {
		t.Run(twin.name, func(t *testing.T) {
			t.Parallel()
			program := caddytest.Mutant(t, twin.edits...)
			faults := failing(t, func(t testing.TB) { twin.trial(t, s, program) })
			if !strings.Contains(strings.Join(faults, "\n"), twin.fault) {
				t.Errorf("without its mechanism the trial says %.1000q, want %q", faults, twin.fault)
			}
		})
	}
}

// hasty is a trial that gives up soon, and whose clients have the time to come back.
func hasty(trial func(t testing.TB, s scale, program string)) func(t testing.TB, s scale, program string) {
	return func(t testing.TB, s scale, program string) {
		s.grace, s.patience = 6*time.Second, 10*time.Second
		trial(t, s, program)
	}
}

// failing runs a trial and returns what it failed with.
func failing(t *testing.T, trial func(t testing.TB)) []string {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		trial(r)
	}()
	<-done
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.faults
}

// recorder is a test that is meant to fail.
type recorder struct {
	testing.TB
	mu     sync.Mutex
	faults []string
}

func (r *recorder) add(fault string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, fault)
}

func (r *recorder) Error(args ...any)                 { r.add(fmt.Sprint(args...)) }
func (r *recorder) Errorf(format string, args ...any) { r.add(fmt.Sprintf(format, args...)) }
func (r *recorder) Log(...any)                        {}
func (r *recorder) Logf(string, ...any)               {}
func (r *recorder) Fail()                             { r.add("failed") }

func (r *recorder) FailNow() {
	r.Fail()
	runtime.Goexit()
}

func (r *recorder) Fatal(args ...any) {
	r.Error(args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.faults) > 0
}
