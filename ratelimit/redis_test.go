package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// calls is a hook that counts the commands of a client.
type calls struct{ atomic.Int64 }

func (c *calls) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *calls) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.Add(1)
		return next(ctx, cmd)
	}
}

func (c *calls) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.Add(int64(len(cmds)))
		return next(ctx, cmds)
	}
}

// patient is for tests that are not about time: a busy machine is no outage.
var patient = RedisOptions{Prefix: "rooms:{default}", Timeout: 20 * time.Second}

func TestAFloodCostsFewCalls(t *testing.T) {
	for _, a := range Algorithms {
		for _, events := range []int{2, 10, 100} {
			t.Run(fmt.Sprint(a, events), func(t *testing.T) {
				client := newClient(t, redistest.Start(t))
				r, set := virtualRedis(t, client)
				l := Limit{Name: "flood", Events: events, Window: 10 * time.Hour, Algorithm: a}
				mustAllow(t, r, l, "connects and loads the script")
				var made calls
				client.AddHook(&made)
				const windows = 5
				messages := windows * 10 * events
				allowed := 0
				for i := range messages {
					set((time.Duration(i) * l.Window / time.Duration(10*events)).Truncate(time.Microsecond))
					if mustAllow(t, r, l, "key").Allowed {
						allowed++
					}
				}
				if most := 0.15 * float64(messages); float64(made.Load()) > most {
					t.Errorf("%d calls for %d messages, want at most %.0f", made.Load(), messages, most)
				}
				if int(made.Load()) != allowed {
					t.Errorf("%d calls for %d allowed events, want one each", made.Load(), allowed)
				}
			})
		}
	}
}

func TestDenialsAreBounded(t *testing.T) {
	d := newDenials(100)
	for i := range 1000 {
		d.put(fmt.Sprint(i), Decision{Next: time.Second, Reset: time.Minute}, 0, 0, 0)
	}
	if len(d.byKey) != 100 {
		t.Errorf("%d denials, want 100", len(d.byKey))
	}
	if _, ok, _ := d.get("999", 0); !ok {
		t.Error("the latest denial is forgotten")
	}
	if _, ok, _ := d.get("999", time.Second); ok || len(d.byKey) != 99 {
		t.Error("a denial that is over is kept")
	}
}

// A denial lasts as if Redis had spoken when it was asked, and tells to wait as if it had spoken when it answered.
func TestADenialAllowsForTheRoundTrip(t *testing.T) {
	d := newDenials(1)
	const asked, answered = 100 * time.Millisecond, 140 * time.Millisecond
	d.put("key", Decision{Next: time.Second, Reset: 2 * time.Second}, asked, answered, 0)
	got, ok, _ := d.get("key", time.Second)
	want := Decision{RetryAfter: 140 * time.Millisecond, Next: 140 * time.Millisecond, Reset: 1140 * time.Millisecond}
	if !ok || got != want {
		t.Errorf("%+v, %t, want %+v", got, ok, want)
	}
	if _, ok, _ := d.get("key", asked+time.Second); ok {
		t.Error("denied although Redis may allow by now")
	}
}

// recording makes r write the Redis time of each event that it allows into a list.
func recording(t testing.TB, r *Redis) {
	replaceTime(t, r, "clock()", `
local time
local function clock()
  time = redis.call('TIME')
  return time
end
local function check()
%s
end
local reply = check()
if reply[1] == 1 then
  redis.call('RPUSH', 'allowed', string.format('%%.0f', time[1] * 1000000 + time[2]))
end
return reply`)
}

func TestManyClientsOfOneKey(t *testing.T) {
	for _, a := range Algorithms {
		t.Run(string(a), func(t *testing.T) {
			server := redistest.Start(t)
			l := Limit{Name: "shared", Events: 50, Window: 200 * time.Millisecond, Algorithm: a}
			ctx, cancel := context.WithTimeout(t.Context(), 6*l.Window)
			defer cancel()
			var wg sync.WaitGroup
			var allowed atomic.Int64
			for range 4 {
				r := NewRedis(newClient(t, server), patient)
				recording(t, r)
				for range 4 {
					wg.Go(func() {
						for ctx.Err() == nil {
							// Not ctx: an event whose answer nobody awaits is in the list all the same.
							d, err := r.Allow(context.Background(), l, "key")
							if err != nil {
								t.Error(err)
								return
							}
							if d.Allowed {
								allowed.Add(1)
							} else {
								<-time.After(min(d.RetryAfter, time.Millisecond))
							}
						}
					})
				}
			}
			wg.Wait()

			var us []int64
			if err := newClient(t, server).LRange(t.Context(), "allowed", 0, -1).ScanSlice(&us); err != nil {
				t.Fatal(err)
			}
			if len(us) != int(allowed.Load()) || len(us) < 2*l.Events {
				t.Fatalf("%d events recorded, %d allowed, want the same and at least %d", len(us), allowed.Load(), 2*l.Events)
			}
			slices.Sort(us)
			times := make([]time.Duration, len(us))
			for i := range us {
				times[i] = time.Duration(us[i]-us[0]) * time.Microsecond
			}
			if where := broken(times, l); where != "" {
				t.Error(where)
			}
		})
	}
}

func TestRetryAfterByTheClockOfRedis(t *testing.T) {
	server := redistest.Start(t)
	for _, a := range Algorithms {
		t.Run(string(a), func(t *testing.T) {
			l := Limit{Name: "retry", Events: 5, Window: 300 * time.Millisecond, Algorithm: a}
			r := NewRedis(newClient(t, server), patient)
			for range 3 {
				var d Decision
				for d = mustAllow(t, r, l, "key"); d.Allowed; d = mustAllow(t, r, l, "key") {
				}
				// The answer of somebody else's instance, which knows no denials.
				other := NewRedis(r.client, patient)
				<-time.After(d.RetryAfter)
				if again := mustAllow(t, other, l, "key"); !again.Allowed {
					t.Fatalf("denied with %+v after the %s of %+v", again, d.RetryAfter, d)
				}
			}
		})
	}
}

func TestKeysExpireWithTheirEvents(t *testing.T) {
	client := newClient(t, redistest.Start(t))
	r := NewRedis(client, patient)
	for _, a := range Algorithms {
		l := Limit{Name: "expiry", Events: 3, Window: time.Hour, Algorithm: a}
		d := mustAllow(t, r, l, "key")
		key := redisKey(patient.Prefix, l, "key")
		ttl, err := client.PTTL(t.Context(), key).Result()
		if err != nil {
			t.Fatal(err)
		}
		const slow = 30 * time.Second // since the answer
		if ttl > d.Reset+2*time.Millisecond || ttl < d.Reset-slow {
			t.Errorf("%s: the key expires in %s, the limit is free in %s", a, ttl, d.Reset)
		}
		if !strings.HasPrefix(key, "rooms:{default}:rl:expiry:") || !strings.HasSuffix(key, ":key") {
			t.Errorf("unexpected key %q", key)
		}
	}
}

func TestRedisClockSetBack(t *testing.T) {
	client := newClient(t, redistest.Start(t))
	r, set := virtualRedis(t, client)
	for _, a := range Algorithms {
		for name, step := range map[string]time.Duration{"a little": time.Minute, "far": 1000 * time.Hour} {
			t.Run(string(a)+"/"+name, func(t *testing.T) {
				l := Limit{Name: name, Events: 5, Window: 10 * time.Hour, Algorithm: a}
				set(0)
				for range l.Events {
					if !mustAllow(t, r, l, "key").Allowed {
						t.Fatal("denied")
					}
				}
				r.denied = newDenials(maxDenials)
				set(-step)
				d := mustAllow(t, r, l, "key")
				if d.Allowed {
					t.Error("what happened is forgotten")
				}
				if most := l.Window * (buckets + 1) / buckets; d.RetryAfter > most || d.Reset > most {
					t.Errorf("%+v, want no wait over %s", d, most)
				}
				r.denied = newDenials(maxDenials)
				set(-step + d.RetryAfter)
				if again := mustAllow(t, r, l, "key"); !again.Allowed {
					t.Errorf("denied with %+v after the %s of %+v", again, d.RetryAfter, d)
				}
				r.denied = newDenials(maxDenials)
			})
		}
	}
}

func TestScriptFlushInTraffic(t *testing.T) {
	server := redistest.Start(t)
	r := NewRedis(newClient(t, server), patient)
	admin := newClient(t, server)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 300 {
				l := Limit{Name: "flush", Events: 1, Window: time.Hour, Algorithm: Algorithms[i%len(Algorithms)]}
				if d, err := r.Allow(context.Background(), l, fmt.Sprint(g, i)); err != nil || !d.Allowed {
					t.Errorf("%+v, %v", d, err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			if err := admin.ScriptFlush(context.Background()).Err(); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
}

func TestLimitsOfOneNameDoNotCollide(t *testing.T) {
	eachImplementation(t, func(t *testing.T, r rig) {
		for _, a := range Algorithms {
			for _, l := range []Limit{
				{Events: 1, Window: time.Hour},
				{Events: 2, Window: time.Hour},
				{Events: 1, Window: 2 * time.Hour},
			} {
				l.Name, l.Algorithm = "same", a
				for range l.Events {
					if d := mustAllow(t, r, l, "key"); !d.Allowed {
						t.Errorf("%+v: %+v", l, d)
					}
				}
				if d := mustAllow(t, r, l, "key"); d.Allowed {
					t.Errorf("%+v: %+v", l, d)
				}
			}
		}
	})
}

func TestLongSubjects(t *testing.T) {
	long := strings.Repeat("é", 1000)
	hashed := subject(long)
	if len(hashed) > maxSubject || subject(long) != hashed || subject(long+"x") == hashed {
		t.Errorf("subject of a long key is %q", hashed)
	}
	if subject(hashed) == hashed {
		t.Error("a subject may be named as another's hash")
	}
	if short := strings.Repeat("x", maxSubject); subject(short) != short {
		t.Error("a short subject is changed")
	}
}

func TestBreaker(t *testing.T) {
	var b breaker
	for range breakAfter {
		if !b.allow(0) {
			t.Fatal("open after too few failures")
		}
		b.failed(0)
	}
	if b.allow(breakFor - 1) {
		t.Error("closed too early")
	}
	if !b.allow(breakFor) || b.allow(breakFor) {
		t.Error("want exactly one call to try again")
	}
	b.failed(breakFor)
	if b.allow(2*breakFor-1) || !b.allow(2*breakFor) {
		t.Error("a failed try does not open it again")
	}
	b.succeeded()
	for range 2 {
		if !b.allow(2 * breakFor) {
			t.Error("open after a success")
		}
	}
}

func TestASuccessEndsAnOutage(t *testing.T) {
	r := NewRedis(newClient(t, redistest.Start(t)), patient)
	now := time.Duration(0)
	r.now = func() time.Duration { return now }
	l := Limit{Name: "n", Events: 10, Window: time.Hour, Algorithm: GCRA}
	for range breakAfter {
		r.breaker.failed(now)
	}
	if _, err := r.Allow(t.Context(), l, "key"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("error %v, want %v", err, ErrUnavailable)
	}
	now = breakFor
	mustAllow(t, r, l, "key")
	mustAllow(t, r, l, "key")
}

func TestACallerWhoGivesUpIsNoOutage(t *testing.T) {
	r := NewRedis(newClient(t, redistest.Start(t)), patient)
	l := Limit{Name: "n", Events: 1, Window: time.Hour, Algorithm: GCRA}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for range 2 * breakAfter {
		if _, err := r.Allow(canceled, l, "key"); !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v, want %v", err, context.Canceled)
		}
	}
	mustAllow(t, r, l, "key")
}

// A stalled server is one that accepts and never answers.
func TestRedisTimeout(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client := redis.NewClient(&redis.Options{Addr: listener.Addr().String(), ContextTimeoutEnabled: true})
	defer client.Close()
	var made calls
	client.AddHook(&made)
	r := NewRedis(client, RedisOptions{})
	l := Limit{Name: "n", Events: 1, Window: time.Hour, Algorithm: SlidingCounter}
	for range breakAfter {
		if _, err := r.Allow(t.Context(), l, "key"); !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
			t.Errorf("error %v, want a timeout", err)
		}
	}
	asked := made.Load()
	for range 100 {
		if _, err := r.Allow(t.Context(), l, "key"); err != nil && !errors.Is(err, ErrUnavailable) && !isTimeout(err) {
			t.Errorf("error %v, want %v", err, ErrUnavailable)
		}
	}
	// One call a second may try again, however slow the machine is; it must not be one each time.
	if more := made.Load() - asked; more > 20 {
		t.Errorf("%d of 100 calls asked a Redis that does not answer", more)
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
