package idempotency

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// waitTold waits until r has told Redis all that it did.
func waitTold(t *testing.T, r *Redis) {
	t.Helper()
	told := func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.untold) == 0 && r.bytes == 0 && !r.telling
	}
	for deadline := time.Now().Add(20 * time.Second); !told(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("Redis is not told")
		}
	}
}

// alone begins a request without Redis.
func alone(t *testing.T, r *Redis, key string, f Fingerprint) *Attempt {
	t.Helper()
	a := r.Begin(t.Context(), key, f)
	if a.Outcome != Started || !a.Degraded {
		t.Fatalf("%s: %s, degraded %t", key, a.Outcome, a.Degraded)
	}
	return a
}

// TestOthersGoOn cuts off one of two instances. What it did is told when it is back, but not where another has done or begun the same.
func TestOthersGoOn(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	a := NewRedis(newClient(t, &redistest.Server{Addr: proxy.Addr}), base, 20*time.Second, zap.NewNop())
	t.Cleanup(func() { _ = a.Close() })
	b, c := NewRedis(newClient(t, server), base, 20*time.Second, zap.NewNop()), NewRedis(newClient(t, server), base, 20*time.Second, zap.NewNop())
	untold := map[string]*Attempt{}
	for _, key := range []string{"over", "over and begun"} {
		untold[key] = begin(t, a, key, one, Started, "")
	}
	if err := server.Client().FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"claimed", "given up"} {
		untold[key] = begin(t, a, key, one, Started, "")
	}

	proxy.Cut()
	for _, key := range []string{"new", "done", "begun", "begun, given up"} {
		untold[key] = alone(t, a, key, one)
	}
	for key, attempt := range untold {
		end := func() error { return attempt.Finish(t.Context(), []byte("of a")) }
		if strings.HasSuffix(key, "given up") {
			end = func() error { return attempt.Abandon(t.Context()) }
		}
		if end() == nil {
			t.Errorf("%s: Redis was told", key)
		}
	}
	if err := begin(t, b, "done", one, Started, "").Finish(t.Context(), []byte("of b")); err != nil {
		t.Error(err)
	}
	begun := map[string]*Attempt{}
	for _, key := range []string{"begun", "begun, given up", "over and begun"} {
		begun[key] = begin(t, b, key, one, Started, "")
	}

	proxy.Restore()
	waitTold(t, a)
	for key, answer := range map[string]string{"new": "of a", "claimed": "of a", "over": "of a", "done": "of b"} {
		begin(t, c, key, one, Replayed, answer)
	}
	begin(t, c, "given up", one, Started, "")
	for key, attempt := range begun {
		begin(t, c, key, one, Busy, "")
		if err := attempt.Finish(t.Context(), []byte("of b")); err != nil {
			t.Error(err)
		}
		begin(t, c, key, one, Replayed, "of b")
	}
}

// lossy is a hook of a client that loses commands.
type lossy struct {
	lose func(cmd redis.Cmder) bool // called from many goroutines
}

var errLost = errors.New("lost")

func (lossy) DialHook(next redis.DialHook) redis.DialHook { return next }

func (l lossy) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if l.lose(cmd) {
			return errLost
		}
		return next(ctx, cmd)
	}
}

func (lossy) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// TestClaimsComeLate has Redis come to claims that were given up, after it was told that they are over.
func TestClaimsComeLate(t *testing.T) {
	client, _, b := stores(t)
	var claims [][]any // of those that are lost; written by Begin only
	asked, arrived := make(chan struct{}, 1), make(chan struct{})
	slow := newClient(t, &redistest.Server{Addr: client.Options().Addr})
	slow.AddHook(lossy{func(cmd redis.Cmder) bool {
		switch cmd.Name() {
		case "set":
			claims = append(claims, cmd.Args())
			return true
		case "ping": // it is answered behind what Redis had in its sockets
			asked <- struct{}{}
			<-arrived
		}
		return false
	}})
	a := NewRedis(slow, base, 20*time.Second, zap.NewNop())
	t.Cleanup(func() { _ = a.Close() })

	for _, key := range []string{"k", "l"} {
		if err := alone(t, a, key, one).Abandon(t.Context()); !errors.Is(err, errLate) {
			t.Errorf("%s: %v", key, err)
		}
	}
	select {
	case <-asked:
	case <-time.After(20 * time.Second):
		t.Fatal("told without having asked")
	}
	again := alone(t, a, "l", other)
	for _, args := range claims {
		_ = client.Do(t.Context(), args...).Err() // nil as they had no value
	}
	if err := again.Finish(t.Context(), []byte("answer")); !errors.Is(err, errLate) {
		t.Errorf("its first claim has the key: %v", err)
	}
	begin(t, b, "k", one, Busy, "")
	begin(t, b, "l", one, Busy, "")
	close(arrived)
	waitTold(t, a)
	begin(t, b, "k", one, Started, "")
	begin(t, b, "l", other, Replayed, "answer")
}

// TestKeptFromWhenGiven tells late of an answer, which is kept for what is left of its time.
func TestKeptFromWhenGiven(t *testing.T) {
	client, r, _ := stores(t)
	t.Cleanup(func() { _ = r.Close() })
	r.later(&ending{"name", make([]byte, header), []byte("answer"), true, time.Now().Add(Keep / 2)})
	r.later(&ending{"ended", make([]byte, header), []byte("answer"), true, time.Now()})
	waitTold(t, r)
	if left := client.PTTL(t.Context(), "name").Val(); left <= 0 || left > Keep/2 {
		t.Errorf("kept for %s", left)
	}
	if n := client.DBSize(t.Context()).Val(); n != 1 {
		t.Errorf("%d keys", n)
	}
}

// TestUntoldIsBounded has nothing but the latest wait for a Redis that never comes back, and that not for longer than it is kept.
func TestUntoldIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}) // a name would be looked up
		defer client.Close()
		client.AddHook(lossy{func(redis.Cmder) bool { return true }})
		r := NewRedis(client, base, 0, zap.NewNop())
		end := func(answer []byte) {
			t.Helper()
			if alone(t, r, "k", one).Finish(t.Context(), answer) == nil {
				t.Error("Redis was told")
			}
			r.local = NewMemory()
		}
		check := func(least, most int) {
			t.Helper()
			r.mu.Lock()
			defer r.mu.Unlock()
			bytes := 0
			for _, e := range r.untold {
				bytes += e.size()
			}
			if n := len(r.untold); n < least || n > most || r.bytes != bytes || bytes > maxBytes || r.telling != (n > 0) {
				t.Errorf("%d untold of %d bytes, want %d to %d, %d bytes; told: %t", n, r.bytes, least, most, bytes, r.telling)
			}
		}
		for range maxEntries + 10 {
			end(nil)
		}
		check(maxEntries, maxEntries)
		for range 70 {
			end(make([]byte, 1<<20))
		}
		check(60, 64)
		time.Sleep(Keep - time.Nanosecond)
		check(60, 64)
		time.Sleep(2 * retryAfter)
		check(0, 0)
		end([]byte("then"))
		check(1, 1)
		closing := time.Now()
		_ = r.Close()
		if took := time.Since(closing); took != 0 {
			t.Errorf("closed in %s", took)
		}
		end([]byte("later"))
		check(1, 1)
	})
}
