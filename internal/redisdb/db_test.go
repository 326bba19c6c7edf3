package redisdb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// watched is a DB with what it has told.
type watched struct {
	*DB
	logs *observer.ObservedLogs

	mu   sync.Mutex
	told []bool
}

func start(t *testing.T, opts Options) *watched {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	w := &watched{DB: Open(opts, zap.New(core)), logs: logs}
	w.OnChange(func(up bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.told = append(w.told, up)
	})
	w.Start()
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *watched) changes() []bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.told)
}

func (w *watched) messages() []string {
	var messages []string
	for _, entry := range w.logs.All() {
		messages = append(messages, entry.Message)
	}
	return messages
}

func (w *watched) waitTold(t *testing.T, want ...bool) {
	t.Helper()
	eventually(t, "changes to be told", func() bool { return len(w.changes()) >= len(want) })
	if got := w.changes(); !slices.Equal(got, want) {
		t.Fatalf("told %v, want %v", got, want)
	}
}

func TestKillAndRestart(t *testing.T) {
	get := func(db *watched) error { return db.Commands().Get(context.Background(), "k").Err() }
	publish := func(db *watched) error { return db.Publisher().Publish(context.Background(), "c", "m").Err() }
	for _, test := range []struct {
		name     string
		poolSize int
		notice   func(db *watched) error
	}{
		{"noticed by a command", 0, get},
		{"noticed by a publish", 0, publish},
		// A pool of one repeats its first failure to dial for a while.
		{"noticed by a command, pool of one", 1, get},
		{"noticed by a publish, pool of one", 1, publish},
	} {
		t.Run(test.name, func(t *testing.T) { testKillAndRestart(t, test.poolSize, test.notice) })
	}
}

func testKillAndRestart(t *testing.T, poolSize int, notice func(db *watched) error) {
	server := redistest.Start(t)
	db := start(t, Options{Addr: server.Addr, PoolSize: poolSize})
	db.waitTold(t, true)

	server.Kill()
	// Either the first of these is refused, or the monitor was faster.
	for range 2 {
		if err := notice(db); err == nil {
			t.Fatal("a command succeeded without Redis")
		}
	}
	if db.Up() {
		t.Error("up after a refused dial")
	}
	for name, err := range map[string]error{
		"command":   db.Commands().Get(t.Context(), "k").Err(),
		"publisher": db.Publisher().Publish(t.Context(), "c", "m").Err(),
		"pipeline":  pipelined(t.Context(), db.Commands()),
	} {
		if !errors.Is(err, ErrDown) {
			t.Errorf("%s while down: %v, want ErrDown", name, err)
		}
	}
	db.waitTold(t, true, false)

	server.Run()
	db.waitTold(t, true, false, true)
	if err := db.Commands().Get(t.Context(), "k").Err(); !errors.Is(err, redis.Nil) {
		t.Errorf("first command after the restart: %v, want redis.Nil", err)
	}
	if err := db.Publisher().Publish(t.Context(), "c", "m").Err(); err != nil {
		t.Errorf("first publish after the restart: %v", err)
	}
	if got, want := db.messages(), []string{"redis connected", "redis connection lost", "redis connection restored"}; !slices.Equal(got, want) {
		t.Errorf("logged %q, want %q", got, want)
	}
	for _, entry := range db.logs.All() {
		if got, want := entry.ContextMap()["address"], "redis://"+server.Addr; got != want {
			t.Errorf("%q with address %v, want %v", entry.Message, got, want)
		}
	}
}

// pipelined returns the error of a command in a pipeline.
func pipelined(ctx context.Context, c *redis.Client) error {
	pipe := c.Pipeline()
	get := pipe.Get(ctx, "k")
	_, _ = pipe.Exec(ctx)
	return get.Err()
}

func TestStartWithoutRedis(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	db := start(t, Options{Addr: server.Addr, Password: "hunter2"})
	db.waitTold(t, false)
	server.Run()
	if err := server.Client().ConfigSet(t.Context(), "requirepass", "hunter2").Err(); err != nil {
		t.Fatal(err)
	}
	db.waitTold(t, false, true)
	if err := db.Commands().Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Error(err)
	}
	if got, want := db.messages(), []string{"redis is out of reach, going on without it", "redis connected"}; !slices.Equal(got, want) {
		t.Errorf("logged %q, want %q", got, want)
	}
	for _, entry := range db.logs.All() {
		for key, value := range entry.ContextMap() {
			if s, ok := value.(string); ok && strings.Contains(s, "hunter2") {
				t.Errorf("%q gives the password away in %s", entry.Message, key)
			}
		}
	}
}

func TestStalledWhileIdle(t *testing.T) {
	server := redistest.Start(t)
	db := start(t, Options{Addr: server.Addr, Timeout: 200 * time.Millisecond})
	db.waitTold(t, true)
	server.Stall()
	defer server.Resume()
	db.waitTold(t, true, false)
	if err := db.Commands().Get(t.Context(), "k").Err(); !errors.Is(err, ErrDown) {
		t.Errorf("command while stalled: %v, want ErrDown", err)
	}
	server.Resume()
	db.waitTold(t, true, false, true)
	if err := db.Commands().Get(t.Context(), "k").Err(); !errors.Is(err, redis.Nil) {
		t.Errorf("command after the stall: %v, want redis.Nil", err)
	}
}

func TestPingEndsSuspicions(t *testing.T) {
	server := redistest.Start(t)
	db := start(t, Options{Addr: server.Addr})
	db.waitTold(t, true)
	db.breaker.suspect()
	eventually(t, "a ping to clear the suspicion", func() bool { return db.breaker.suspicions.Load() == 0 })
}

// Commands that can't be written are no use, though a replica answers pings.
func TestReplicaIsDown(t *testing.T) {
	server := redistest.Start(t)
	db := start(t, Options{Addr: server.Addr})
	db.waitTold(t, true)
	admin := server.Client()
	if err := admin.ReplicaOf(t.Context(), "127.0.0.1", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if err := db.Commands().Set(t.Context(), "k", "v", 0).Err(); !redis.IsReadOnlyError(err) {
		t.Fatalf("writing to a replica: %v, want READONLY", err)
	}
	if db.Up() {
		t.Error("up after READONLY")
	}
	db.waitTold(t, true, false)
	if m := (&monitor{db: db.DB}); m.ping(t.Context()) != nil || m.test(t.Context()) == nil {
		t.Error("a replica should answer a ping and fail the test")
	}
	if err := admin.ReplicaOf(t.Context(), "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	db.waitTold(t, true, false, true)
}

func TestWrongPassword(t *testing.T) {
	server := redistest.Start(t)
	if err := server.Client().ConfigSet(t.Context(), "requirepass", "hunter2").Err(); err != nil {
		t.Fatal(err)
	}
	db := start(t, Options{Addr: server.Addr, Password: "hunter3"})
	db.waitTold(t, false)
	reason, _ := db.logs.All()[0].ContextMap()["error"].(string)
	if !strings.Contains(reason, "WRONGPASS") || strings.Contains(reason, "hunter") {
		t.Errorf("logged the error %q, want WRONGPASS without a password", reason)
	}
}

func TestRestrictedUser(t *testing.T) {
	server := redistest.Start(t)
	if err := server.Client().Do(t.Context(), "ACL", "SETUSER", "limited", "on", ">hunter2", "+@all", "-ping", "~other:*").Err(); err != nil {
		t.Fatal(err)
	}
	db := start(t, Options{Addr: server.Addr, Username: "limited", Password: "hunter2"})
	db.waitTold(t, true)
	db.breaker.cut(errors.New("on purpose"))
	db.waitTold(t, true, false, true)
}

func TestUnixSocket(t *testing.T) {
	socket := t.TempDir() + "/redis.sock"
	redistest.Start(t, "--unixsocket", socket)
	opts, err := ParseURL("unix://" + socket + "?db=3")
	if err != nil {
		t.Fatal(err)
	}
	db := start(t, opts)
	db.waitTold(t, true)
	info, err := db.Commands().ClientInfo(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	if info.DB != 3 || info.Name != "caddy-rooms:commands" {
		t.Errorf("connected to database %d as %q", info.DB, info.Name)
	}
}

// TestRoundTripsAreTold runs commands of all kinds, and expects each exchange once, by what it was for.
func TestRoundTripsAreTold(t *testing.T) {
	server := redistest.Start(t)
	db := Open(Options{Addr: server.Addr}, zap.NewNop())
	defer db.Close()
	got := make(map[string]int)
	db.OnRoundTrip(func(operation string, took time.Duration, failed bool) {
		if took <= 0 {
			t.Errorf("%s took %s", operation, took)
		}
		if failed {
			operation += " failed"
		}
		got[operation]++
	})
	ctx := t.Context()
	db.Commands().Get(ctx, "nothing")                            // nil is an answer
	db.Commands().EvalSha(For(ctx, "limit"), "none", []string{}) // so is NOSCRIPT
	db.Commands().Do(For(ctx, "limit"), "NONSENSE")
	pipe := db.Publisher().Pipeline()
	for range 10 {
		pipe.Publish(ctx, "x", "y")
	}
	if _, err := pipe.Exec(ctx); err != nil {
		t.Fatal(err)
	}
	pipe.Publish(ctx, "x", "y")
	pipe.Do(ctx, "NONSENSE")
	_, _ = pipe.Exec(ctx)
	server.Kill()
	db.Commands().Get(ctx, "nothing")
	db.breaker.cut(errors.New("down"))
	db.Commands().Get(ctx, "not tried")
	want := map[string]int{"presence": 1, "limit": 1, "limit failed": 1, "publish": 1, "publish failed": 1, "presence failed": 1}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestNoDial(t *testing.T) {
	server := redistest.Start(t)
	db := start(t, Options{Addr: server.Addr})
	db.waitTold(t, true)
	sub := db.Subscriber().Subscribe(t.Context())
	defer sub.Close()
	if err := sub.Subscribe(NoDial(t.Context()), "c"); !errors.Is(err, errNoDial) {
		t.Errorf("subscribing without a connection: %v, want errNoDial", err)
	}
	if !db.Up() {
		t.Error("a dial that was not made counts as failed")
	}
}

func TestJudge(t *testing.T) {
	limited, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	timeout := &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}
	for _, test := range []struct {
		name string
		ctx  context.Context
		err  error
		want verdict
	}{
		{"success", limited, nil, answered},
		{"nil reply", limited, redis.Nil, answered},
		{"ordinary error", limited, redisError("ERR wrong number of arguments"), answered},
		{"no script", limited, redisError("NOSCRIPT No matching script"), answered},
		{"canceled", limited, context.Canceled, unknown},
		{"closed", limited, redis.ErrClosed, unknown},
		{"pool exhausted", limited, redis.ErrPoolTimeout, unknown},
		{"dial of before", limited, &net.OpError{Op: "dial", Err: errors.New("refused")}, unknown},
		{"reset", limited, &net.OpError{Op: "read", Err: errors.New("reset")}, suspect},
		{"caller's deadline", limited, context.DeadlineExceeded, suspect},
		{"caller's deadline while reading", limited, timeout, suspect},
		{"timeout", t.Context(), timeout, unreachable},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := judge(test.ctx, test.err); got != test.want {
				t.Errorf("verdict %d, want %d", got, test.want)
			}
		})
	}
}

type redisError string

func (e redisError) Error() string { return string(e) }
func (redisError) RedisError()     {}
