package idempotency

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const base = "rooms:{default}"

var one, other = Fingerprint{1}, Fingerprint{2}

// begin begins a request and expects an outcome, and an answer if it is Replayed.
func begin(t *testing.T, s Store, key string, f Fingerprint, want Outcome, answer string) *Attempt {
	t.Helper()
	a := s.Begin(t.Context(), key, f)
	if a.Outcome != want || string(a.Answer) != answer || a.Degraded {
		t.Errorf("%s: %s, %q, degraded %t; want %s, %q", key, a.Outcome, a.Answer, a.Degraded, want, answer)
	}
	return a
}

func newClient(t *testing.T, server *redistest.Server) *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: server.Addr, MaxRetries: -1, ContextTimeoutEnabled: true})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// stores are two Redis stores on one Redis, which are patient: a busy machine is no outage.
func stores(t *testing.T) (client *redis.Client, a, b *Redis) {
	server := redistest.Start(t)
	client = newClient(t, server)
	return client, NewRedis(client, base, 20*time.Second, zap.NewNop()), NewRedis(newClient(t, server), base, 20*time.Second, zap.NewNop())
}

// each runs test with stores that share what they know: one in this process, two on a Redis, and twice the same one on a Redis.
func each(t *testing.T, test func(t *testing.T, a, b Store)) {
	t.Run("memory", func(t *testing.T) {
		m := NewMemory()
		test(t, m, m)
	})
	t.Run("redis", func(t *testing.T) {
		_, a, b := stores(t)
		test(t, a, b)
	})
	t.Run("one on redis", func(t *testing.T) {
		_, a, _ := stores(t)
		test(t, a, a)
	})
}

func TestLife(t *testing.T) {
	each(t, func(t *testing.T, a, b Store) {
		ctx := t.Context()
		first := begin(t, a, "k", one, Started, "")
		for _, s := range []Store{a, b} {
			busy := begin(t, s, "k", one, Busy, "")
			if err := busy.Finish(ctx, []byte("not its own")); err != nil {
				t.Error(err)
			}
			if err := busy.Abandon(ctx); err != nil {
				t.Error(err)
			}
			begin(t, s, "k", other, Conflict, "")
		}
		elsewhere := begin(t, b, "l", other, Started, "")
		canceled, cancel := context.WithCancel(ctx)
		cancel()
		answer := "{\"a\":\"\x00\xff\"}\n"
		if err := first.Finish(canceled, []byte(answer)); err != nil {
			t.Error(err)
		}
		if err := first.Finish(ctx, []byte("again")); err != nil {
			t.Error(err)
		}
		if err := first.Abandon(ctx); err != nil {
			t.Error(err)
		}
		for _, s := range []Store{a, b} {
			begin(t, s, "k", one, Replayed, answer)
			begin(t, s, "k", other, Conflict, "")
			begin(t, s, "l", other, Busy, "")
		}
		if err := elsewhere.Abandon(ctx); err != nil {
			t.Error(err)
		}
		again := begin(t, a, "l", one, Started, "")
		begin(t, b, "l", one, Busy, "")
		if err := again.Finish(ctx, nil); err != nil {
			t.Error(err)
		}
		begin(t, b, "l", one, Replayed, "")
	})
}

// TestHungUp has a client send a request again and hang up: what was done or begun elsewhere is known nevertheless, and what is begun now is known
// elsewhere.
func TestHungUp(t *testing.T) {
	each(t, func(t *testing.T, a, b Store) {
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if err := begin(t, a, "k", one, Started, "").Finish(gone, []byte("answer")); err != nil {
			t.Error(err)
		}
		if again := b.Begin(gone, "k", one); again.Outcome != Replayed {
			t.Errorf("done, and sent again by who hangs up: %s, degraded %t", again.Outcome, again.Degraded)
		}
		if first := b.Begin(gone, "l", one); first.Outcome != Started || first.Degraded {
			t.Errorf("sent by who hangs up: %s, degraded %t", first.Outcome, first.Degraded)
		}
		begin(t, a, "l", one, Busy, "")
	})
}

// TestOneIsStarted sends one request a hundred times at the same moment.
func TestOneIsStarted(t *testing.T) {
	each(t, func(t *testing.T, a, b Store) { oneIsStarted(t, "k", a, b) })
}

func oneIsStarted(t *testing.T, key string, stores ...Store) {
	t.Helper()
	const n = 100
	attempts := make([]*Attempt, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { attempts[i] = stores[i%len(stores)].Begin(t.Context(), key, one) })
	}
	wg.Wait()
	outcomes := map[Outcome]int{}
	for _, a := range attempts {
		outcomes[a.Outcome]++
	}
	if outcomes[Started] != 1 || outcomes[Busy] != n-1 {
		t.Errorf("outcomes %v", outcomes)
	}
}

func TestMemoryForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory()
		lost := begin(t, m, "k", one, Started, "")
		time.Sleep(Hold - time.Nanosecond)
		begin(t, m, "k", one, Busy, "")
		time.Sleep(time.Nanosecond)
		next := begin(t, m, "k", other, Started, "")
		// Who comes late takes nothing from who came after.
		_ = lost.Finish(t.Context(), []byte("late"))
		begin(t, m, "k", other, Busy, "")
		time.Sleep(Hold - time.Nanosecond)
		_ = next.Finish(t.Context(), []byte("next"))
		time.Sleep(Keep - time.Nanosecond)
		begin(t, m, "k", other, Replayed, "next")
		time.Sleep(time.Nanosecond)
		late := begin(t, m, "k", one, Started, "")
		time.Sleep(2 * Hold)
		begin(t, m, "l", one, Started, "")
		if len(m.entries) != 1 || m.order.Len() != 1 {
			t.Errorf("%d entries, in order %d", len(m.entries), m.order.Len())
		}
		_ = late.Finish(t.Context(), []byte("late")) // better than to do it again
		begin(t, m, "k", one, Replayed, "late")
		// One that ended behind one that is kept is over too.
		begin(t, m, "behind", one, Started, "")
		time.Sleep(Hold)
		begin(t, m, "k", one, Replayed, "late")
		begin(t, m, "behind", one, Started, "")
	})
}

func TestMemoryIsBounded(t *testing.T) {
	m := NewMemory()
	for i := range maxEntries + 10 {
		begin(t, m, fmt.Sprint(i), one, Started, "")
	}
	if len(m.entries) != maxEntries || m.order.Len() != maxEntries {
		t.Errorf("%d entries, in order %d", len(m.entries), m.order.Len())
	}
	begin(t, m, "10", one, Busy, "")
	begin(t, m, "9", one, Started, "")

	m = NewMemory()
	answer := []byte(strings.Repeat("x", 1<<20))
	for i := range 70 {
		_ = begin(t, m, fmt.Sprint(i), one, Started, "").Finish(t.Context(), answer)
	}
	begin(t, m, "69", one, Replayed, string(answer))
	begin(t, m, "6", one, Started, "")
	if n := len(m.entries); m.bytes > maxBytes || n < 60 {
		t.Errorf("%d entries of %d bytes", n, m.bytes)
	}
	_ = begin(t, m, "large", one, Started, "").Finish(t.Context(), make([]byte, maxBytes))
	if m.bytes != 0 || len(m.entries) != 0 || m.order.Len() != 0 {
		t.Errorf("%d entries of %d bytes", len(m.entries), m.bytes)
	}
}

// TestRedisForgets has Redis forget what is over: that an instance died with a request, and answers.
func TestRedisForgets(t *testing.T) {
	client, a, b := stores(t)
	ctx := t.Context()
	key := func() string {
		t.Helper()
		keys := client.Keys(ctx, "*").Val()
		if len(keys) != 1 || !strings.HasPrefix(keys[0], base+":idem:") || len(keys[0]) != len(base+":idem:")+64 {
			t.Fatalf("keys %q", keys)
		}
		return keys[0]
	}
	ends := func(within time.Duration) {
		t.Helper()
		if left := client.PTTL(ctx, key()).Val(); left > within || left < within-20*time.Second {
			t.Errorf("it ends in %s, want %s", left, within)
		}
	}
	over := func() {
		t.Helper()
		if n := client.Del(ctx, key()).Val(); n != 1 {
			t.Fatal("it is over already")
		}
	}
	lost := begin(t, a, "k\x00?", one, Started, "")
	ends(Hold)
	over()
	next := begin(t, b, "k\x00?", other, Started, "")
	if err := lost.Finish(ctx, []byte("late")); err != nil {
		t.Error(err)
	}
	begin(t, NewRedis(client, base, 0, zap.NewNop()), "k\x00?", other, Busy, "")
	if err := next.Finish(ctx, []byte("next")); err != nil {
		t.Error(err)
	}
	ends(Keep)
	begin(t, NewRedis(client, base, 0, zap.NewNop()), "k\x00?", other, Replayed, "next")
	over()
	lost = begin(t, NewRedis(client, base, 0, zap.NewNop()), "k\x00?", one, Started, "")
	over()
	begin(t, NewRedis(client, base, 0, zap.NewNop()), "k\x00?", one, Started, "")
	if err := lost.Abandon(ctx); err != nil {
		t.Error(err)
	}
	begin(t, NewRedis(client, base, 0, zap.NewNop()), "k\x00?", one, Busy, "")
	over()
	if err := lost.Finish(ctx, nil); err != nil { // it has ended
		t.Error(err)
	}
	if n := client.DBSize(ctx).Val(); n != 0 {
		t.Errorf("%d keys", n)
	}
}

// TestRedisGone takes Redis away: each instance decides for itself, does nothing again when it is back, and tells the others what it did.
func TestRedisGone(t *testing.T) {
	for name, test := range map[string]struct{ strike, back func(*redistest.Server) }{
		"killed":  {(*redistest.Server).Kill, (*redistest.Server).Run},
		"stalled": {(*redistest.Server).Stall, (*redistest.Server).Resume},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			open := func() *Redis {
				db := redisdb.Open(redisdb.Options{Addr: server.Addr, Prefix: base, Timeout: 10 * time.Second}, zap.NewNop())
				db.Start()
				t.Cleanup(func() { _ = db.Close() })
				r := NewRedis(db.Commands(), base, 300*time.Millisecond, zap.NewNop())
				t.Cleanup(func() { _ = r.Close() })
				return r
			}
			a, b := open(), open()
			ctx := t.Context()
			for i := 0; ; i++ { // connecting may take longer on a busy machine
				if first := a.Begin(ctx, fmt.Sprint("warm", i), one); !first.Degraded && first.Finish(ctx, []byte("warm")) == nil {
					begin(t, a, fmt.Sprint("warm", i), one, Replayed, "warm")
					break
				}
			}

			test.strike(server)
			given := a.Begin(ctx, "given up", one) // a stalled Redis comes to its claim when it goes on
			if given.Outcome != Started || !given.Degraded {
				t.Fatalf("%s, degraded %t", given.Outcome, given.Degraded)
			}
			started := a.Begin(ctx, "k", one)
			if started.Outcome != Started || !started.Degraded {
				t.Fatalf("%s, degraded %t", started.Outcome, started.Degraded)
			}
			begin(t, a, "k", one, Busy, "")
			begin(t, a, "k", other, Conflict, "")
			if err := started.Finish(ctx, []byte("answer")); err == nil {
				t.Error("Redis was told")
			}
			begin(t, a, "k", one, Replayed, "answer")
			if given.Abandon(ctx) == nil {
				t.Error("Redis was told")
			}
			if abandoned := a.Begin(ctx, "l", one); abandoned.Outcome != Started || abandoned.Abandon(ctx) == nil {
				t.Errorf("%s, or Redis was told", abandoned.Outcome)
			}
			if again := a.Begin(ctx, "l", other); again.Outcome != Started || !again.Degraded {
				t.Errorf("abandoned, and %s, degraded %t", again.Outcome, again.Degraded)
			}
			spanning := a.Begin(ctx, "m", one)
			oneIsStarted(t, "many", a)

			test.back(server)
			for i, r := range []*Redis{a, b} {
				deadline := time.Now().Add(20 * time.Second)
				for k := 0; r.Begin(ctx, fmt.Sprint("probe", i, k), one).Degraded; k++ {
					if time.Now().After(deadline) {
						t.Fatal("Redis does not come back")
					}
					<-time.After(20 * time.Millisecond)
				}
			}
			if err := spanning.Finish(ctx, []byte("kept")); err != nil {
				t.Error(err)
			}
			begin(t, a, "k", one, Replayed, "answer")
			begin(t, b, "m", one, Replayed, "kept")
			waitTold(t, a)
			begin(t, b, "k", one, Replayed, "answer")
			begin(t, b, "given up", other, Started, "")
		})
	}
}
