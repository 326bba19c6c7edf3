package ratelimit

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func (m *Memory) keys() int {
	n := 0
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		n += len(s.states)
		s.mu.Unlock()
	}
	return n
}

func TestMemoryForgetsIdleKeys(t *testing.T) {
	const many = 20_000
	for _, a := range Algorithms {
		t.Run(string(a), func(t *testing.T) {
			r := memoryRig(t)
			m := r.Limiter.(*Memory)
			brief := Limit{Name: "brief", Events: 2, Window: time.Second, Algorithm: a}
			long := Limit{Name: "long", Events: 1, Window: time.Hour, Algorithm: a}
			mustAllow(t, m, long, "held")
			for i := range many {
				mustAllow(t, m, brief, fmt.Sprint(i))
			}
			if n := m.keys(); n != many+1 {
				t.Fatalf("%d keys, want %d", n, many+1)
			}
			for i := range 2 * shards {
				r.set(2*time.Second + time.Duration(i)*sweepEvery/shards)
				mustAllow(t, m, brief, "the one that stays")
			}
			if n := m.keys(); n != 2 {
				t.Errorf("%d keys after all shards were swept, want 2", n)
			}
			if mustAllow(t, m, long, "held").Allowed {
				t.Error("the sweep forgot an event that counts")
			}
		})
	}
}

// Forgetting an idle key changes no decision.
func TestIdleMeansAsNew(t *testing.T) {
	for _, l := range limits() {
		t.Run(l.Name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(5, uint64(l.Events)))
			st, idle := newState(l.Algorithm), 0
			// Fewer events than the limit allows, so that there are pauses.
			sparse := Limit{Events: l.Events, Window: 8 * l.Window}
			for _, at := range arrivals(random, 1000, sparse) {
				wasIdle := st.idle(l, at)
				got := st.take(l, at)
				if !wasIdle {
					continue
				}
				idle++
				if want := newState(l.Algorithm).take(l, at); got != want {
					t.Fatalf("at %s: idle, but decides %+v, want %+v", at, got, want)
				}
			}
			if idle == 0 {
				t.Error("never idle")
			}
		})
	}
}

func TestEventLogGrowsInOrder(t *testing.T) {
	l := Limit{Events: 100, Window: time.Minute, Algorithm: SlidingLog}
	var e eventLog
	for i := range 8 {
		e.take(l, time.Duration(i)*time.Second)
	}
	for i := range 20 { // the oldest four are over, then the ring grows twice
		e.take(l, time.Minute+3*time.Second+time.Duration(i)*time.Millisecond)
	}
	if e.count != 24 {
		t.Fatalf("%d events, want 24", e.count)
	}
	for i := 1; i < e.count; i++ {
		if e.at(i) < e.at(i-1) {
			t.Fatalf("event %d at %s, the one before it at %s", i, e.at(i), e.at(i-1))
		}
	}
	if e.at(0) != 4*time.Second {
		t.Errorf("the oldest event is of %s, want 4s", e.at(0))
	}
}

func TestMemoryKeepsLongKeysShort(t *testing.T) {
	m := NewMemory()
	l := Limit{Events: 1, Window: time.Hour, Algorithm: SlidingCounter}
	long := strings.Repeat("x", 1<<20)
	mustAllow(t, m, l, long)
	if mustAllow(t, m, l, long).Allowed {
		t.Error("a long key is not counted")
	}
	if !mustAllow(t, m, l, long+"y").Allowed {
		t.Error("two long keys are counted as one")
	}
	for i := range m.shards {
		for k := range m.shards[i].states {
			if len(k.key) > maxSubject {
				t.Errorf("a key of %d bytes is stored", len(k.key))
			}
		}
	}
}

func TestInvalidLimit(t *testing.T) {
	good := Limit{Name: "n", Events: 1, Window: time.Second, Algorithm: SlidingLog}
	for want, l := range map[string]Limit{
		`unknown algorithm "leaky"`: {Events: 1, Window: time.Second, Algorithm: "leaky"},
		"events 0 out of range":     {Window: time.Second, Algorithm: GCRA},
		"events 10001 out of range": {Events: 10_001, Window: time.Second, Algorithm: SlidingLog},
		"window 1ms out of range":   {Events: 1, Window: time.Millisecond, Algorithm: SlidingCounter},
	} {
		for name, limiter := range map[string]Limiter{
			"memory": NewMemory(), "redis": NewRedis(nil, RedisOptions{}),
			"fallback": Fallback{Shared: NewMemory(), Local: NewMemory(), Outage: OutageAllow},
		} {
			if _, err := limiter.Allow(t.Context(), l, "key"); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v, want %q", name, err, want)
			}
		}
	}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
}

func TestMemoryFromManyGoroutines(t *testing.T) {
	for _, a := range Algorithms {
		m := NewMemory()
		l := Limit{Events: 1000, Window: time.Hour, Algorithm: a}
		if a == GCRA {
			l.Window = MaxWindow // nothing comes back while the test runs
		}
		var allowed atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 500 {
					if d, err := m.Allow(context.Background(), l, "key"); err == nil && d.Allowed {
						allowed.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if allowed.Load() != 1000 {
			t.Errorf("%s: %d allowed, want 1000", a, allowed.Load())
		}
	}
}

func TestMemoryDoesNotAllocateForAKnownKey(t *testing.T) {
	for _, a := range Algorithms {
		r := memoryRig(t)
		l := Limit{Name: "publish", Events: 64, Window: time.Second, Algorithm: a}
		now := time.Duration(0)
		take := func() {
			now += l.Window / 32
			r.set(now)
			if d, _ := r.Allow(t.Context(), l, "key"); !d.Allowed {
				t.Error("denied")
			}
		}
		for range 100 {
			take()
		}
		if n := testing.AllocsPerRun(1000, take); n != 0 {
			t.Errorf("%s: %v allocations", a, n)
		}
	}
}

func BenchmarkMemory(b *testing.B) {
	for _, a := range Algorithms {
		l := Limit{Name: "publish", Events: 1000, Window: time.Millisecond * 10, Algorithm: a}
		b.Run(string(a)+"/one key", func(b *testing.B) {
			m := NewMemory()
			b.ReportAllocs()
			for b.Loop() {
				_, _ = m.Allow(b.Context(), l, "key")
			}
		})
		b.Run(string(a)+"/many keys", func(b *testing.B) {
			m := NewMemory()
			keys := make([]string, 10_000)
			for i := range keys {
				keys[i] = fmt.Sprint("connection", i)
				_, _ = m.Allow(b.Context(), l, keys[i])
			}
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					_, _ = m.Allow(context.Background(), l, keys[i%len(keys)])
				}
			})
		})
		b.Run(string(a)+"/denied", func(b *testing.B) {
			m := NewMemory()
			once := Limit{Events: 1, Window: time.Hour, Algorithm: a}
			b.ReportAllocs()
			for b.Loop() {
				_, _ = m.Allow(b.Context(), once, "key")
			}
		})
	}
}
