package bus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// record is a Receiver that keeps what it is told.
type record struct {
	mu       sync.Mutex
	messages []message
	lost     [][]string
}

type message struct{ channel, payload string }

func (r *record) Receive(channel string, payload []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.messages = append(r.messages, message{channel, string(payload)})
}

func (r *record) Lost(channels []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = append(r.lost, slices.Sorted(slices.Values(channels)))
}

func (r *record) received() []message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.messages)
}

func (r *record) losses() [][]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lost)
}

func (r *record) hasLost(channel string) bool {
	return slices.Contains(slices.Concat(r.losses()...), channel)
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

var instances atomic.Int32

// start runs a bus on the Redis at addr until the test ends.
func start(t *testing.T, addr string, receiver Receiver, opts RedisOptions) (*Redis, *redisdb.DB) {
	t.Helper()
	db := redisdb.Open(redisdb.Options{Addr: addr, Timeout: time.Second}, zap.NewNop())
	opts.Control = redisdb.ControlChannel("rooms:{test}", fmt.Sprint("i", instances.Add(1)))
	b := NewRedis(db, receiver, zap.NewNop(), opts)
	db.Start()
	b.Start()
	t.Cleanup(func() {
		if err := errors.Join(b.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	})
	return b, db
}

func subscribe(t *testing.T, b *Redis, channels ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var all sync.WaitGroup
	for _, channel := range channels {
		all.Go(func() {
			if err := b.Subscribe(ctx, channel); err != nil {
				t.Errorf("subscribing to %s: %v", channel, err)
			}
		})
	}
	all.Wait()
}

// publish waits for the outcome.
func publish(b *Redis, channel, payload string) error {
	done := make(chan error, 1)
	b.Publish(channel, []byte(payload), func(err error) { done <- err })
	return <-done
}

func TestOrderAcrossTwoBuses(t *testing.T) {
	server := redistest.Start(t)
	var here, there record
	a, _ := start(t, server.Addr, &here, RedisOptions{})
	b, _ := start(t, server.Addr, &there, RedisOptions{})
	subscribe(t, a, "x", "y")
	subscribe(t, b, "x", "y")

	const publishers, each = 4, 2500
	var outcomes atomic.Int32
	var publishing sync.WaitGroup
	for p := range publishers {
		publishing.Go(func() {
			from, channel := []*Redis{a, b}[p%2], []string{"x", "y"}[p/2]
			for i := range each {
				from.Publish(channel, fmt.Appendf(nil, "%d:%d", p, i), func(err error) {
					if err != nil {
						t.Errorf("publishing: %v", err)
					}
					outcomes.Add(1)
				})
			}
		})
	}
	publishing.Wait()
	eventually(t, "all outcomes", func() bool { return outcomes.Load() == publishers*each })
	for name, r := range map[string]*record{"a": &here, "b": &there} {
		eventually(t, "all messages", func() bool { return len(r.received()) == publishers*each })
		next := make([]int, publishers)
		for _, m := range r.received() {
			var p, i int
			if _, err := fmt.Sscanf(m.payload, "%d:%d", &p, &i); err != nil {
				t.Fatal(err)
			}
			if i != next[p] {
				t.Fatalf("%s got message %d of publisher %d instead of %d", name, i, p, next[p])
			}
			next[p]++
		}
		if lost := r.losses(); lost != nil {
			t.Errorf("%s was told of losses: %v", name, lost)
		}
	}
}

func TestLargePayload(t *testing.T) {
	server := redistest.Start(t)
	var r record
	b, _ := start(t, server.Addr, &r, RedisOptions{MaxBytes: 1 << 10})
	subscribe(t, b, "x")
	payload := strings.Repeat("0123456789abcdef", 4<<20/16)
	if err := publish(b, "x", payload); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the message", func() bool { return len(r.received()) == 1 })
	if got := r.received()[0].payload; got != payload {
		t.Errorf("got %d bytes that differ from the %d sent", len(got), len(payload))
	}
}

func TestConnectionKilled(t *testing.T) {
	server := redistest.Start(t)
	var r record
	b, _ := start(t, server.Addr, &r, RedisOptions{})
	subscribe(t, b, "x", "y", "z")
	b.Unsubscribe("z")

	stop := make(chan struct{})
	var traffic sync.WaitGroup
	traffic.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if err := publish(b, "x", "traffic"); err != nil {
					t.Errorf("publishing: %v", err)
				}
			}
		}
	})
	eventually(t, "traffic", func() bool { return len(r.received()) > 10 })
	admin := server.Client()
	for n := 1; n <= 3; n++ {
		if err := admin.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Err(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the loss", func() bool { return len(r.losses()) == n })
		if got, want := r.losses()[n-1], []string{"x", "y"}; !slices.Equal(got, want) {
			t.Errorf("lost %v, want %v", got, want)
		}
		before := len(r.received())
		eventually(t, "traffic after the loss", func() bool { return len(r.received()) > before })
	}
	close(stop)
	traffic.Wait()
}

func TestRestart(t *testing.T) {
	server := redistest.Start(t)
	var r record
	b, db := start(t, server.Addr, &r, RedisOptions{})
	subscribe(t, b, "x")

	var calls, outcomes, failures, twice atomic.Int64
	burst := func(n int) {
		for range n {
			calls.Add(1)
			var once atomic.Bool
			b.Publish("x", []byte("m"), func(err error) {
				if once.Swap(true) {
					twice.Add(1)
				}
				if err != nil {
					failures.Add(1)
					if !errors.Is(err, ErrDown) && !errors.Is(err, ErrFull) {
						t.Errorf("outcome %v", err)
					}
				}
				outcomes.Add(1)
			})
		}
	}
	burst(5000)
	server.Kill()
	burst(5000)
	eventually(t, "all outcomes across the kill", func() bool { return outcomes.Load() == calls.Load() })
	eventually(t, "down", func() bool { return !db.Up() })

	called := false
	b.Publish("x", nil, func(err error) {
		called = true
		if !errors.Is(err, ErrDown) {
			t.Errorf("publishing while down: %v, want ErrDown", err)
		}
	})
	if !called {
		t.Error("publishing while down did not answer at once")
	}
	eventually(t, "a subscription refused", func() bool {
		err := b.Subscribe(t.Context(), "late")
		if err != nil && !errors.Is(err, ErrDown) {
			t.Fatalf("subscribing while down: %v, want ErrDown", err)
		}
		return err != nil
	})

	server.Run()
	eventually(t, "up", db.Up)
	eventually(t, "the loss", func() bool { return len(r.losses()) == 1 })
	if got, want := r.losses()[0], []string{"late", "x"}; !slices.Equal(got, want) {
		t.Errorf("lost %v, want %v", got, want)
	}
	before := len(r.received())
	if err := publish(b, "late", "again"); err != nil {
		t.Errorf("publishing after the restart: %v", err)
	}
	eventually(t, "a message after the restart", func() bool { return len(r.received()) == before+1 })
	if calls.Load() != outcomes.Load() || twice.Load() != 0 {
		t.Errorf("%d publishes, %d outcomes, %d told twice", calls.Load(), outcomes.Load(), twice.Load())
	}
	if failures.Load() == 0 {
		t.Error("no publish failed: the test has tested nothing")
	}
}

func TestStartWithoutRedis(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	var r record
	b, _ := start(t, server.Addr, &r, RedisOptions{})
	if err := b.Subscribe(t.Context(), "x"); !errors.Is(err, ErrDown) {
		t.Errorf("subscribing without Redis: %v, want ErrDown", err)
	}
	server.Run()
	eventually(t, "the subscription to be told", func() bool { return len(r.losses()) == 1 })
	if err := b.Subscribe(t.Context(), "x"); err != nil {
		t.Errorf("subscribing again: %v", err)
	}
}

func TestStall(t *testing.T) {
	server := redistest.Start(t)
	var r record
	b, db := start(t, server.Addr, &r, RedisOptions{ProbeInterval: 200 * time.Millisecond})
	subscribe(t, b, "x")
	server.Stall()
	defer server.Resume()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := b.Subscribe(ctx, "late"); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, ErrDown) {
		t.Errorf("subscribing while Redis is stalled: %v", err)
	}
	eventually(t, "down", func() bool { return !db.Up() })
	eventually(t, "the connection given up", func() bool {
		b.subscriber.mu.Lock()
		defer b.subscriber.mu.Unlock()
		return b.subscriber.failing
	})
	server.Resume()
	eventually(t, "up", db.Up)
	eventually(t, "the loss", func() bool { return r.hasLost("late") && r.hasLost("x") })
	if err := publish(b, "late", "again"); err != nil {
		t.Error(err)
	}
	eventually(t, "a message", func() bool { return len(r.received()) == 1 })
}

func TestManyChannelsRestored(t *testing.T) {
	server := redistest.Start(t)
	var r record
	b, _ := start(t, server.Addr, &r, RedisOptions{})
	channels := make([]string, 20_000)
	for i := range channels {
		channels[i] = fmt.Sprintf("rooms:{test}:e:%05d", i)
	}
	subscribe(t, b, channels...)
	admin := server.Client()
	commands := subscribeCommands(t, admin)
	if commands > len(channels)/4 {
		t.Errorf("%d SUBSCRIBE commands for %d concurrent subscriptions", commands, len(channels))
	}
	if err := admin.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the loss", func() bool { return len(r.losses()) > 0 })
	if got := r.losses()[0]; !slices.Equal(got, channels) {
		t.Errorf("told of %d lost channels, want all %d at once", len(got), len(channels))
	}
	if n := subscribeCommands(t, admin) - commands; n > len(channels)/subscribeBatch+1 {
		t.Errorf("%d SUBSCRIBE commands to restore", n)
	}
	for _, channel := range channels[len(channels)-3:] {
		if err := publish(b, channel, ""); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "messages", func() bool { return len(r.received()) == 3 })
}

func subscribeCommands(t *testing.T, c *redis.Client) int {
	t.Helper()
	info, err := c.Info(t.Context(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	_, stat, _ := strings.Cut(info, "cmdstat_subscribe:calls=")
	var n int
	if _, err := fmt.Sscanf(stat, "%d,", &n); err != nil {
		t.Fatalf("no SUBSCRIBE in %q: %v", info, err)
	}
	return n
}

func TestChurn(t *testing.T) {
	server := redistest.Start(t)
	var r record
	b, _ := start(t, server.Addr, &r, RedisOptions{})
	const channels, rounds = 40, 200
	admin := server.Client()
	var churn sync.WaitGroup
	want := make(map[string]int64, channels)
	for c := range channels {
		channel := fmt.Sprint("c", c)
		subscribed := c%2 == 0
		if want[channel] = 0; subscribed {
			want[channel] = 1
		}
		churn.Go(func() {
			for range rounds {
				if rand.N(2) == 0 {
					if err := b.Subscribe(t.Context(), channel); err != nil {
						t.Errorf("subscribing: %v", err)
					}
				} else {
					b.Unsubscribe(channel)
				}
			}
			if !subscribed {
				b.Unsubscribe(channel)
				return
			}
			b.Unsubscribe(channel)
			if err := b.Subscribe(t.Context(), channel); err != nil {
				t.Errorf("subscribing: %v", err)
			}
			// Confirmed means that a message published now arrives.
			if n := admin.Publish(t.Context(), channel, "").Val(); n != 1 {
				t.Errorf("%s is confirmed but has %d subscribers", channel, n)
			}
		})
	}
	churn.Wait()
	names := slices.Collect(maps.Keys(want))
	eventually(t, "the subscriptions to be as wanted", func() bool {
		got, err := admin.PubSubNumSub(t.Context(), names...).Result()
		if err != nil {
			t.Fatal(err)
		}
		for name, n := range want {
			if got[name] != n {
				return false
			}
		}
		return true
	})
	eventually(t, "the registry to forget the rest", func() bool {
		b.subscriber.mu.Lock()
		defer b.subscriber.mu.Unlock()
		return len(b.subscriber.channels) == channels/2
	})
	if lost := r.losses(); lost != nil {
		t.Errorf("told of losses %v", lost)
	}
}

func TestLinkWithoutAnswers(t *testing.T) {
	server := redistest.Start(t)
	link := redistest.StartProxy(t, server.Addr)
	var r record
	b, _ := start(t, link.Addr, &r, RedisOptions{ProbeInterval: 100 * time.Millisecond})
	subscribe(t, b, "x")
	link.Mute()
	eventually(t, "the loss", func() bool { return r.hasLost("x") })
	if err := publish(b, "x", ""); err != nil {
		t.Error(err)
	}
	eventually(t, "a message", func() bool { return len(r.received()) == 1 })
}

// After a failover, a connection may be left on a server that answers but where nobody publishes.
func TestLinkToTheWrongServer(t *testing.T) {
	before, after := redistest.Start(t), redistest.Start(t)
	link := redistest.StartProxy(t, before.Addr)
	var r record
	b, _ := start(t, link.Addr, &r, RedisOptions{ProbeInterval: 100 * time.Millisecond})
	subscribe(t, b, "x")
	link.Failover(after.Addr)
	eventually(t, "the loss", func() bool { return r.hasLost("x") })
	eventually(t, "a message", func() bool { return publish(b, "x", "") == nil && len(r.received()) > 0 })
}

func TestIdleLinkIsKept(t *testing.T) {
	server := redistest.Start(t)
	var r record
	b, _ := start(t, server.Addr, &r, RedisOptions{ProbeInterval: 250 * time.Millisecond})
	subscribe(t, b, "x")
	admin := server.Client()
	eventually(t, "some probes", func() bool {
		info, err := admin.Info(t.Context(), "commandstats").Result()
		if err != nil {
			t.Fatal(err)
		}
		_, stat, _ := strings.Cut(info, "cmdstat_publish:calls=")
		var n int
		_, err = fmt.Sscanf(stat, "%d,", &n)
		return err == nil && n >= 4
	})
	if messages, lost := r.received(), r.losses(); messages != nil || lost != nil {
		t.Errorf("an idle bus told of messages %v and losses %v", messages, lost)
	}
}

func TestQueueIsBounded(t *testing.T) {
	for name, opts := range map[string]RedisOptions{
		"messages": {MaxMessages: 10},
		"bytes":    {MaxBytes: 10 * (len("x") + 8)},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			b, db := closing(t, server.Addr, opts)
			defer db.Close()
			server.Stall()
			outcomes := make(chan error, 13)
			publish := func(i int) {
				b.Publish("x", binary.BigEndian.AppendUint64(nil, uint64(i)), func(err error) { outcomes <- err })
			}
			for i := range 12 {
				publish(i)
			}
			for range 2 {
				if err := <-outcomes; !errors.Is(err, ErrFull) {
					t.Fatalf("outcome %v of 12 publishes with room for 10, want ErrFull", err)
				}
			}
			server.Resume()
			for range 10 {
				if err := <-outcomes; err != nil {
					t.Errorf("outcome %v of a publish that had room", err)
				}
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			publish(12)
			if err := <-outcomes; !errors.Is(err, ErrClosed) {
				t.Errorf("outcome %v after Close, want ErrClosed", err)
			}
			if err := b.Subscribe(t.Context(), "x"); !errors.Is(err, ErrClosed) {
				t.Errorf("subscribing after Close: %v, want ErrClosed", err)
			}
		})
	}
}

// What is published while a batch is under way goes in the next one.
func TestPublishesInFlightGoTogether(t *testing.T) {
	server := redistest.Start(t)
	db := redisdb.Open(redisdb.Options{Addr: server.Addr}, zap.NewNop())
	defer db.Close()
	var trips atomic.Int32
	db.OnRoundTrip(func(operation string, _ time.Duration, _ bool) {
		if operation == "publish" {
			trips.Add(1)
		}
	})
	b := NewRedis(db, new(record), zap.NewNop(), RedisOptions{Control: "control"})
	defer b.Close()
	eventually(t, "the first message", func() bool { return publish(b, "x", "") == nil })
	before := trips.Load()
	const n = 1500
	outcomes := make(chan error, n)
	server.Stall()
	for range n {
		b.Publish("x", nil, func(err error) { outcomes <- err })
	}
	server.Resume()
	for range n {
		if err := <-outcomes; err != nil {
			t.Fatal(err)
		}
	}
	if made := trips.Load() - before; made > 4 {
		t.Errorf("%d messages went in %d round trips, want at most 4", n, made)
	}
}

func TestCloseEndsWaits(t *testing.T) {
	db := redisdb.Open(redisdb.Options{Addr: "127.0.0.1:1"}, zap.NewNop())
	defer db.Close()
	b := NewRedis(db, new(record), zap.NewNop(), RedisOptions{Control: "control"})
	waiting := make(chan error, 1)
	go func() { waiting <- b.Subscribe(context.Background(), "x") }()
	eventually(t, "the wait to begin", func() bool {
		b.subscriber.mu.Lock()
		defer b.subscriber.mu.Unlock()
		return b.subscriber.channels["x"] != nil
	})
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errors.Is(err, ErrClosed) {
		t.Errorf("subscribing ended with %v, want ErrClosed", err)
	}
}

// panicky panics on the first message.
type panicky struct {
	record
	panicked atomic.Bool
}

func (p *panicky) Receive(channel string, payload []byte) {
	if !p.panicked.Swap(true) {
		panic("on purpose")
	}
	p.record.Receive(channel, payload)
}

func TestPanicsAreSurvived(t *testing.T) {
	server := redistest.Start(t)
	var r panicky
	b, _ := start(t, server.Addr, &r, RedisOptions{})
	subscribe(t, b, "x")
	told := make(chan struct{})
	b.Publish("x", nil, func(error) {
		close(told)
		panic("on purpose")
	})
	<-told
	eventually(t, "the loss", func() bool { return len(r.losses()) == 1 })
	if err := publish(b, "x", "next"); err != nil {
		t.Error(err)
	}
	eventually(t, "the next message", func() bool { return len(r.received()) == 1 })
}

func TestSubscriptionRefused(t *testing.T) {
	server := redistest.Start(t)
	admin := server.Client()
	if err := admin.Do(t.Context(), "ACL", "SETUSER", "limited", "on", ">secret", "+@all", "~*", "&allowed*").Err(); err != nil {
		t.Fatal(err)
	}
	db := redisdb.Open(redisdb.Options{Addr: server.Addr, Username: "limited", Password: "secret"}, zap.NewNop())
	defer db.Close()
	b := NewRedis(db, new(record), zap.NewNop(), RedisOptions{Control: "allowed:control"})
	b.Start()
	defer b.Close()
	err := b.Subscribe(t.Context(), "other")
	if !errors.Is(err, ErrDown) || !strings.Contains(err.Error(), "NOPERM") {
		t.Errorf("subscribing to a channel that is not allowed: %v, want ErrDown with the reason", err)
	}
	b.Unsubscribe("other")
	eventually(t, "the others to be subscribed", func() bool { return b.Subscribe(t.Context(), "allowed:x") == nil })
	if err := publish(b, "other", ""); err == nil {
		t.Error("publishing to a channel that is not allowed succeeded")
	}
}

// Redis refuses the connection, not the messages: none of them has an error of its own.
func TestPublishWithoutLogin(t *testing.T) {
	server := redistest.Start(t)
	db := redisdb.Open(redisdb.Options{Addr: server.Addr, Username: "nobody", Password: "secret"}, zap.NewNop())
	defer db.Close()
	b := NewRedis(db, new(record), zap.NewNop(), RedisOptions{Control: "control"})
	b.Start()
	defer b.Close()
	if err := publish(b, "x", ""); !errors.Is(err, ErrDown) || !strings.Contains(err.Error(), "WRONGPASS") {
		t.Errorf("publishing without a login: %v, want ErrDown with the reason", err)
	}
}
