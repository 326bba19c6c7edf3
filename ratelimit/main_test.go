package ratelimit

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a limiter whose time stands still until it is set. The times of a rig are whole microseconds, as in Redis.
type rig struct {
	Limiter
	set func(now time.Duration)
}

// epoch makes the times of rigs as large as those of a real Redis.
const epoch = 1_795_000_000 * time.Second

func memoryRig(testing.TB) rig {
	now := epoch
	return rig{newMemory(func() time.Duration { return now }), func(t time.Duration) { now = epoch + t }}
}

// redisRig is a limiter on an empty Redis of its own.
func redisRig(t testing.TB) rig {
	c := newClient(t, redistest.Start(t))
	r, set := virtualRedis(t, c)
	return rig{r, set}
}

// virtualRedis is a limiter that takes all time from set. Keys still expire by the clock of the server: a test of it needs
// windows much longer than itself.
func virtualRedis(t testing.TB, c *redis.Client) (*Redis, func(time.Duration)) {
	r := NewRedis(c, RedisOptions{Timeout: 20 * time.Second})
	replaceTime(t, r, "redis.call('MGET', 'clock:seconds', 'clock:microseconds')", "%s")
	now := epoch
	r.now = func() time.Duration { return now }
	setter := redis.NewClient(&redis.Options{Addr: c.Options().Addr}) // without the hooks of c
	t.Cleanup(func() { _ = setter.Close() })
	set := func(at time.Duration) {
		t.Helper()
		now = epoch + at
		us := now.Microseconds()
		if err := setter.MSet(context.Background(), "clock:seconds", us/1e6, "clock:microseconds", us%1e6).Err(); err != nil {
			t.Fatal(err)
		}
	}
	set(0)
	return r, set
}

// replaceTime makes the scripts of r read the time by other code, and puts them into a frame.
func replaceTime(t testing.TB, r *Redis, code, frame string) {
	t.Helper()
	for algorithm, source := range map[Algorithm]string{
		SlidingCounter: slidingCounterScript, SlidingLog: slidingLogScript, GCRA: gcraScript,
	} {
		const call = "redis.call('TIME')"
		if strings.Count(source, call) != 1 {
			t.Fatalf("the script of %s reads the time %d times, want once", algorithm, strings.Count(source, call))
		}
		r.scripts[algorithm] = redis.NewScript(fmt.Sprintf(frame, strings.Replace(source, call, code, 1)))
	}
}

func newClient(t testing.TB, s *redistest.Server) *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.Addr, ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// eachImplementation runs test with an empty limiter in this process, and with one in Redis.
func eachImplementation(t *testing.T, test func(t *testing.T, r rig)) {
	for name, newRig := range map[string]func(testing.TB) rig{"memory": memoryRig, "redis": redisRig} {
		t.Run(name, func(t *testing.T) { test(t, newRig(t)) })
	}
}

func mustAllow(t testing.TB, l Limiter, limit Limit, key string) Decision {
	t.Helper()
	d, err := l.Allow(context.Background(), limit, key)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// arrivals returns n times at which events come: steady, in bursts, around the edges of windows and buckets, after pauses.
func arrivals(random *rand.Rand, n int, l Limit) []time.Duration {
	times := make([]time.Duration, n)
	now := time.Duration(random.Int64N(int64(l.Window)))
	fair := float64(l.Window) / float64(l.Events)
	for i := range times {
		switch random.IntN(20) {
		case 0:
			now += l.Window/time.Duration(1+random.IntN(11)) + time.Duration(random.IntN(3)-1)*time.Microsecond
		case 1: // to the next edge, or just before or after it
			width := l.Window / buckets
			now = (now/width+1)*width + time.Duration(random.IntN(3)-1)*time.Microsecond
		case 2, 3, 4, 5, 6, 7, 8, 9: // a burst
		default:
			now += time.Duration(random.ExpFloat64() * fair / 2)
		}
		now = now.Truncate(time.Microsecond)
		if i > 0 {
			now = max(now, times[i-1])
		}
		times[i] = now
	}
	return times
}

// overrun tells where more than l.Events of times, which are in order, lie in a window.
func overrun(times []time.Duration, l Limit) string {
	for i := l.Events; i < len(times); i++ {
		if span := times[i] - times[i-l.Events]; span < l.Window {
			return fmt.Sprintf("%d events within %s of %s, limit %d per %s", l.Events+1, span, times[i-l.Events], l.Events, l.Window)
		}
	}
	return ""
}

// overrunRate tells where times exceed l.Events and the rate of l in any span: what GCRA promises.
func overrunRate(times []time.Duration, l Limit) string {
	for j := range times {
		for i := range j {
			over, span := j-i+1-l.Events, times[j]-times[i]
			if float64(over)*float64(l.Window) > float64(span)*float64(l.Events)*(1+1e-12) {
				return fmt.Sprintf("%d events within %s of %s, limit %d per %s", j-i+1, span, times[i], l.Events, l.Window)
			}
		}
	}
	return ""
}

// broken tells where times break the promise of l's algorithm.
func broken(times []time.Duration, l Limit) string {
	if l.Algorithm == GCRA {
		return overrunRate(times, l)
	}
	return overrun(times, l)
}
