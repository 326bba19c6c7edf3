package bus

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// closing returns a bus that the test closes.
func closing(t *testing.T, addr string, opts RedisOptions) (*Redis, *redisdb.DB) {
	t.Helper()
	db := redisdb.Open(redisdb.Options{Addr: addr}, zap.NewNop())
	opts.Control = "closing"
	b := NewRedis(db, new(record), zap.NewNop(), opts)
	db.Start()
	b.Start()
	return b, db
}

// TestCloseSendsWhatIsQueued closes a bus right after a burst: whoever stays gets all of it.
func TestCloseSendsWhatIsQueued(t *testing.T) {
	server := redistest.Start(t)
	var r record
	stays, _ := start(t, server.Addr, &r, RedisOptions{})
	subscribe(t, stays, "x")
	b, db := closing(t, server.Addr, RedisOptions{})
	const n = 5 * batchMessages
	var want []message
	outcomes := make(chan error, n)
	for i := range n {
		text := fmt.Sprint(i)
		want = append(want, message{"x", text})
		b.Publish("x", []byte(text), func(err error) { outcomes <- err })
	}
	if err := errors.Join(b.Close(), db.Close()); err != nil {
		t.Fatal(err)
	}
	for range n {
		if err := <-outcomes; err != nil {
			t.Fatalf("published before Close: %v", err)
		}
	}
	eventually(t, "all messages", func() bool { return slices.Equal(r.received(), want) })
}

// TestCloseTellsOfLosses closes a bus before the time has come to tell that a message may be missing.
func TestCloseTellsOfLosses(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	var r record
	stays, _ := start(t, server.Addr, &r, RedisOptions{})
	subscribe(t, stays, "x")
	b, db := closing(t, proxy.Addr, RedisOptions{LossNotice: []byte("lost"), LossChannel: "all"})
	eventually(t, "the first message", func() bool { return publish(b, "y", "") == nil })
	proxy.Cut()
	if publish(b, "x", "missed") == nil {
		t.Fatal("a message was published through a cut")
	}
	proxy.Restore()
	eventually(t, "redis to be back", db.Up)
	if err := errors.Join(b.Close(), db.Close()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the notice", func() bool { return slices.Equal(r.received(), []message{{"x", "lost"}}) })
}
