package ratelimit

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// limits are those of the property tests. The windows are long because a virtual Redis forgets by real time.
func limits() []Limit {
	var all []Limit
	for _, a := range Algorithms {
		for _, events := range []int{1, 3, 10, 100} {
			all = append(all, Limit{Name: fmt.Sprint(a, events), Events: events, Window: 10 * time.Hour, Algorithm: a})
		}
	}
	return all
}

// admit returns at which times the limiter allows an event.
func admit(t testing.TB, r rig, l Limit, key string, times []time.Duration) (admitted []time.Duration) {
	t.Helper()
	for _, at := range times {
		r.set(at)
		if mustAllow(t, r, l, key).Allowed {
			admitted = append(admitted, at)
		}
	}
	return admitted
}

func TestNeverAboveTheLimit(t *testing.T) {
	eachImplementation(t, func(t *testing.T, r rig) {
		for _, l := range limits() {
			t.Run(l.Name, func(t *testing.T) {
				for seed := range uint64(4) {
					random := rand.New(rand.NewPCG(seed, uint64(l.Events)))
					admitted := admit(t, r, l, fmt.Sprint(seed), arrivals(random, 400+4*l.Events, l))
					if len(admitted) < l.Events {
						t.Errorf("seed %d: %d allowed in all, want at least %d", seed, len(admitted), l.Events)
					}
					if where := broken(admitted, l); where != "" {
						t.Errorf("seed %d: %s", seed, where)
					}
				}
			})
		}
	})
}

// fixedWindow is the limiter that everyone writes first.
type fixedWindow struct {
	Limiter // what is not asked here
	now     time.Duration
	start   time.Duration
	count   int
}

func (f *fixedWindow) Allow(_ context.Context, l Limit, _ string) (Decision, error) {
	if start := f.now.Truncate(l.Window); start != f.start {
		f.start, f.count = start, 0
	}
	f.count++
	return Decision{Allowed: f.count <= l.Events}, nil
}

func (f *fixedWindow) Close() error { return nil }

func TestTheCheckFindsWhatIsAbove(t *testing.T) {
	const seeds = 20
	for name, newRig := range map[string]func() rig{
		"fixed window": func() rig {
			f := &fixedWindow{}
			return rig{f, func(t time.Duration) { f.now = t }}
		},
		// A token bucket that holds a whole limit decides as GCRA does.
		"token bucket": func() rig { return memoryRig(t) },
	} {
		t.Run(name, func(t *testing.T) {
			found := 0
			for seed := range uint64(seeds) {
				l := Limit{Events: 10, Window: time.Hour, Algorithm: GCRA}
				random := rand.New(rand.NewPCG(seed, 0))
				if overrun(admit(t, newRig(), l, "", arrivals(random, 1000, l)), l) != "" {
					found++
				}
			}
			if found != seeds {
				t.Errorf("found in %d of %d runs", found, seeds)
			}
		})
	}
	t.Run("rate", func(t *testing.T) {
		l := Limit{Events: 10, Window: time.Hour, Algorithm: GCRA}
		f := &fixedWindow{}
		r := rig{f, func(t time.Duration) { f.now = t }}
		times := make([]time.Duration, 20)
		for i := range times {
			times[i] = time.Hour - 10*time.Second + time.Duration(i)*time.Second
		}
		if overrunRate(admit(t, r, l, "", times), l) == "" {
			t.Error("twenty events in twenty seconds pass as ten an hour")
		}
	})
}

func FuzzNeverAboveTheLimit(f *testing.F) {
	f.Add(uint8(0), uint8(3), []byte{0, 0, 0, 0, 255, 100, 0, 0, 0})
	f.Add(uint8(1), uint8(1), []byte{200, 1, 0, 129, 0, 7})
	f.Add(uint8(2), uint8(9), []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0})
	f.Fuzz(func(t *testing.T, algorithm, events uint8, gaps []byte) {
		l := Limit{Events: 1 + int(events)%20, Window: time.Second, Algorithm: Algorithms[int(algorithm)%len(Algorithms)]}
		times := make([]time.Duration, len(gaps))
		now := time.Duration(0)
		for i, gap := range gaps {
			now += time.Duration(gap&15) * time.Duration(1<<(gap>>4)) * time.Microsecond * 3 // up to 1.5 windows
			times[i] = now
		}
		if where := broken(admit(t, memoryRig(t), l, "", times), l); where != "" {
			t.Error(where)
		}
	})
}

// Every field of every decision of Redis is that of the same algorithm in this process.
func TestRedisDecidesAsMemory(t *testing.T) {
	here, there := memoryRig(t), redisRig(t)
	for _, l := range limits() {
		t.Run(l.Name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(7, uint64(l.Events)))
			for i, at := range arrivals(random, 600+4*l.Events, l) {
				if random.IntN(2) == 0 { // what another instance knows of denials
					there.Limiter.(*Redis).denied = newDenials(maxDenials)
				}
				here.set(at)
				there.set(at)
				want, got := mustAllow(t, here, l, "key"), mustAllow(t, there, l, "key")
				for _, d := range []*time.Duration{&want.Reset, &want.Next, &want.RetryAfter} {
					*d = time.Duration(ceil(*d, time.Microsecond)) * time.Microsecond
				}
				if got != want {
					t.Fatalf("event %d at %s: redis says %+v, memory %+v", i, at, got, want)
				}
			}
		})
	}
}

func TestThroughputUnderOverload(t *testing.T) {
	const (
		windows = 22
		load    = 300 // events a window
	)
	eachImplementation(t, func(t *testing.T, r rig) {
		for _, l := range limits() {
			if _, slow := r.Limiter.(*Redis); slow && l.Events != 10 {
				continue
			}
			t.Run(l.Name, func(t *testing.T) {
				times := make([]time.Duration, windows*load)
				for i := range times {
					times[i] = time.Duration(i) * l.Window / load
				}
				got := len(admit(t, r, l, "key", times))
				want := float64(windows*l.Events) * buckets / (buckets + 1)
				if float64(got) < want {
					t.Errorf("%d allowed in %d windows, want at least %.0f", got, windows, want)
				}
			})
		}
	})
}

func TestRetryAfterIsExact(t *testing.T) {
	eachImplementation(t, func(t *testing.T, r rig) {
		for _, l := range limits() {
			t.Run(l.Name, func(t *testing.T) {
				random := rand.New(rand.NewPCG(3, uint64(l.Events)))
				denied := 0
				// Waiting moves the clock, so that what is left of the arrivals may be in the past by then.
				now := time.Duration(0)
				crowded := Limit{Events: l.Events, Window: l.Window / 4}
				for _, at := range arrivals(random, 100+4*l.Events, crowded) {
					now = max(now, at)
					r.set(now)
					d := mustAllow(t, r, l, "key")
					if d.Allowed {
						if d.RetryAfter != 0 {
							t.Fatalf("allowed, but told to wait: %+v", d)
						}
						continue
					}
					denied++
					if d.RetryAfter <= 0 || d.RetryAfter != d.Next || d.Remaining != 0 {
						t.Fatalf("denied with %+v", d)
					}
					if again := mustAllow(t, r, l, "key"); again != d {
						t.Fatalf("denied with %+v, then with %+v", d, again)
					}
					for _, early := range []time.Duration{time.Millisecond, time.Microsecond} {
						if early >= d.RetryAfter {
							continue
						}
						r.set(now + d.RetryAfter - early)
						if again := mustAllow(t, r, l, "key"); again.Allowed {
							t.Fatalf("at %s: allowed %s before %s are over", now, early, d.RetryAfter)
						}
					}
					now += d.RetryAfter.Truncate(time.Microsecond)
					if d.RetryAfter%time.Microsecond != 0 {
						now += time.Microsecond
					}
					r.set(now)
					if again := mustAllow(t, r, l, "key"); !again.Allowed {
						t.Fatalf("at %s: denied with %+v although %s are over", now, again, d.RetryAfter)
					}
				}
				if denied == 0 {
					t.Error("nothing was denied")
				}
			})
		}
	})
}

func TestRemainingAndReset(t *testing.T) {
	eachImplementation(t, func(t *testing.T, r rig) {
		for _, a := range Algorithms {
			t.Run(string(a), func(t *testing.T) {
				l := Limit{Name: string(a), Events: 4, Window: time.Hour, Algorithm: a}
				for want := 3; want >= 0; want-- {
					if d := mustAllow(t, r, l, "key"); !d.Allowed || d.Remaining != want {
						t.Fatalf("%+v, want %d remaining", d, want)
					}
				}
				d := mustAllow(t, r, l, "key")
				if d.Allowed || d.Remaining != 0 {
					t.Fatalf("%+v, want a denial", d)
				}
				r.set(d.Reset - time.Millisecond)
				if early := mustAllow(t, r, l, "key"); early.Allowed && early.Remaining == 3 {
					t.Errorf("all is free a millisecond before the reset: %+v", early)
				}
				r.set(0)
				if d := mustAllow(t, r, l, "other"); !d.Allowed || d.Remaining != 3 {
					t.Errorf("another key: %+v", d)
				}
			})
		}
		t.Run("next is when more remains", func(t *testing.T) {
			for _, a := range Algorithms {
				l := Limit{Name: "next", Events: 5, Window: time.Hour, Algorithm: a}
				at := 10 * time.Hour
				r.set(at)
				mustAllow(t, r, l, "key")
				d := mustAllow(t, r, l, "key")
				r.set(at + d.Next)
				if later := mustAllow(t, r, l, "key"); later.Remaining < d.Remaining {
					t.Errorf("%s: %d remain, after %s and one event more %d", a, d.Remaining, d.Next, later.Remaining)
				}
			}
		})
	})
}
