package hub

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/bus"
	"github.com/caddyrooms/caddy-rooms/internal/moderation"
	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
	"github.com/caddyrooms/caddy-rooms/presence"
	"github.com/caddyrooms/caddy-rooms/ratelimit"
)

// openShared opens a hub on a Redis, as one of several instances, with a limit of one message an hour for each user and room.
func openShared(t *testing.T, addr string) *house {
	t.Helper()
	const base = "rooms:{test}"
	db := redisdb.Open(redisdb.Options{Addr: addr, Timeout: time.Second}, zap.NewNop())
	shared := ratelimit.NewRedis(db.Commands(), ratelimit.RedisOptions{Prefix: base, Timeout: time.Second})
	limiter := ratelimit.Fallback{Shared: shared, Local: ratelimit.NewMemory()}
	h := &house{t: t}
	node := NewNodeID()
	h.Hub = New(Options{
		Node: node, Base: base, Timeout: time.Second, Logger: zap.NewNop(), Limiter: limiter,
		Open: func(o presence.Observer, r bus.Receiver) Backend {
			db.Start()
			store := presence.NewRedis(db.Commands(), presence.Options{Prefix: base, Node: node, Timeout: time.Second}, o)
			b := bus.NewRedis(db, r, zap.NewNop(), bus.RedisOptions{Control: redisdb.ControlChannel(base, node)})
			b.Start()
			store.Start()
			table := moderation.New(moderation.Options{Client: db.Commands(), Base: base, Timeout: time.Second})
			return Backend{Store: store, Bus: b, Feed: store, Shared: true, Up: db.Up, Moderation: table}
		},
	})
	p := defaultPolicy()
	p.Limits = []Limit{{
		Limit: ratelimit.Limit{Name: "chat", Events: 1, Window: time.Hour, Algorithm: ratelimit.SlidingLog},
		On:    OnPublish, Key: NewKey("{rooms.room}/{rooms.user}", false), Limiter: limiter,
	}}
	h.endpoint = h.bind(p)
	h.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !h.endpoint.Admit() {
			http.Error(w, "no", http.StatusServiceUnavailable)
			return
		}
		if err := h.endpoint.Accept(w, r, Client{Conn: NewConnID(), User: r.URL.Query().Get("user")}); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(func() {
		h.server.Close()
		_ = h.Close(exiting) // Redis may be gone
		for _, end := range []func() error{shared.Close, db.Close} {
			if err := end(); err != nil {
				t.Error(err)
			}
		}
	})
	return h
}

// meets waits until so many instances answer, this one among them.
func (h *house) meets(instances int) {
	h.t.Helper()
	h.waitFor("all instances to answer", func() bool {
		s, err := h.Stats(h.t.Context())
		return err == nil && !s.Degraded && len(s.Nodes) == instances
	})
}

// kickedAsBanned expects that a client is told that it is banned.
func kickedAsBanned(t *testing.T, c *client) {
	t.Helper()
	bye := c.Next("bye")
	if _, in := bye["reconnect_in"]; bye["code"] != 4005.0 || bye["reason"] != "banned" || in {
		t.Errorf("bye %v", bye)
	}
	equal(t, "close code", c.Closed(), 4005)
}

// sends publishes and returns the answer.
func sends(c *client, room string) object {
	c.Send(`{"type":"publish","id":1,"room":%q,"data":1}`, room)
	for {
		if frame := c.Next("ack", "error", "message"); frame["type"] != "message" {
			return frame
		}
	}
}

func TestBanClosesConnectionsEverywhere(t *testing.T) {
	server := redistest.Start(t)
	a, b := openShared(t, server.Addr), openShared(t, server.Addr)
	a.meets(2)
	ann, annThere, bob := a.dial("ann"), b.dial("ann"), b.dial("bob")
	until, done, err := a.Ban(t.Context(), "ann", time.Hour)
	if left := time.Until(until).Round(time.Minute); left != time.Hour || done != (Done{Connections: 2}) || err != nil {
		t.Errorf("banned for %s, %+v, %v", left, done, err)
	}
	kickedAsBanned(t, ann)
	kickedAsBanned(t, annThere)
	bob.Join("lobby")
	for _, h := range []*house{a, b} {
		if _, banned := h.Banned("ann"); !banned {
			t.Error("not banned")
		}
	}
	// The upgrade was decided before the ban.
	kickedAsBanned(t, b.dial("ann"))

	// An instance that comes late, one that misses the ban, and one without Redis.
	c := openShared(t, server.Addr)
	c.waitFor("the table to be read", func() bool { _, banned := c.Banned("ann"); return banned })
	if degraded, err := b.Unban(t.Context(), "ann"); degraded || err != nil {
		t.Errorf("lifted: degraded %t, %v", degraded, err)
	}
	c.waitFor("the ban to be lifted", func() bool { _, banned := c.Banned("ann"); return !banned })
	server.Kill()
	a.waitFor("Redis to be missed", func() bool { return !a.backend.Up() })
	ann = a.dial("ann")
	if _, done, err := a.Ban(t.Context(), "ann", time.Hour); done != (Done{Connections: 1, Degraded: true}) || err != nil {
		t.Errorf("banned without Redis: %+v, %v", done, err)
	}
	kickedAsBanned(t, ann)
	_, banned := b.Banned("ann")
	equal(t, "banned elsewhere without Redis", banned, false)
	annThere = b.dial("ann")
	server.Run()
	kickedAsBanned(t, annThere)
}

// TestBanThatIsRead has an instance read of a ban whose message it has missed.
func TestBanThatIsRead(t *testing.T) {
	server := redistest.Start(t)
	a := openShared(t, server.Addr)
	ann := a.dial("ann")
	enter(ann, "lobby")
	redis := server.Client()
	other := moderation.New(moderation.Options{Client: redis, Base: "rooms:{elsewhere}"})
	defer other.Close()
	if _, degraded, err := other.Ban(t.Context(), "ann", time.Hour, nil); degraded || err != nil {
		t.Fatal(degraded, err)
	}
	if err := redis.Copy(t.Context(), "rooms:{elsewhere}:mod", "rooms:{test}:mod", 0, false).Err(); err != nil {
		t.Fatal(err)
	}
	a.Lost([]string{redisdb.RoomChannel("rooms:{test}", "lobby")})
	ann.Next("gap")
	if _, banned := a.Banned("ann"); banned {
		t.Error("read because of a room's channel")
	}
	lost := time.Now()
	a.Lost([]string{redisdb.UsersChannel("rooms:{test}")})
	kickedAsBanned(t, ann)
	if took := time.Since(lost); took > 10*time.Second {
		t.Errorf("read after %s, as it is every 15 to 30 seconds in any case", took)
	}
}

// TestBanEndsHeldPlaces bans a user whose connection was lost.
func TestBanEndsHeldPlaces(t *testing.T) {
	h := open(t, func(p *Policy) { p.Grace = time.Hour })
	ann, bob := h.dial("ann"), h.dial("bob")
	ann.Join("lobby")
	bob.Join("lobby")
	equal(t, "ann sees", ann.Events(), []string{"join bob"})
	_ = bob.WS.CloseNow()
	h.waitFor("the connection to end", func() bool { return h.Connections() == 1 })
	if _, _, err := h.Ban(t.Context(), "bob", time.Hour); err != nil {
		t.Fatal(err)
	}
	equal(t, "ann sees", ann.Events(), []string{"leave bob kicked"})
}

func TestBadDecisions(t *testing.T) {
	h := open(t, nil)
	for _, test := range []struct {
		name string
		do   func(context.Context) error
		is   error
		want string
	}{
		{"anonymous", func(ctx context.Context) error { _, _, err := h.Ban(ctx, "anon:c1", time.Hour); return err }, ErrBadBan, "anon:c1"},
		{"no user", func(ctx context.Context) error { _, _, err := h.Ban(ctx, "", time.Hour); return err }, ErrBadBan, `user ""`},
		{"too short", func(ctx context.Context) error { _, _, err := h.Ban(ctx, "ann", 999*time.Millisecond); return err }, ErrBadBan, "allowed: 1s to 720h"},
		{"too long", func(ctx context.Context) error { _, _, err := h.Ban(ctx, "ann", 721*time.Hour); return err }, ErrBadBan, "721h"},
		{"unban", func(ctx context.Context) error { _, err := h.Unban(ctx, "a\nb"); return err }, ErrBadBan, `a\nb`},
		{"room", func(ctx context.Context) error { _, err := h.SetSlowMode(ctx, "a b", nil); return err }, ErrBadSlowMode, "a b"},
		{"events", func(ctx context.Context) error {
			_, err := h.SetSlowMode(ctx, "lobby", &SlowMode{Events: 0, Window: time.Second})
			return err
		}, ErrBadSlowMode, "events 0"},
		{"window", func(ctx context.Context) error {
			_, err := h.SetSlowMode(ctx, "lobby", &SlowMode{Events: 1, Window: time.Millisecond})
			return err
		}, ErrBadSlowMode, "window 1ms"},
	} {
		if err := test.do(t.Context()); !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one with %s", test.name, err, test.want)
		}
	}
	idle := New(Options{Logger: zap.NewNop()})
	if _, _, err := idle.Ban(t.Context(), "ann", time.Hour); !errors.Is(err, moderation.ErrClosed) {
		t.Errorf("a ban before the hub is bound: %v", err)
	}
	if _, banned := idle.Banned("ann"); banned || idle.SlowMode("lobby") != nil {
		t.Error("something holds before the hub is bound")
	}
}

// TestSlowMode has two instances count together, from one moment to the next, each user and room for itself.
func TestSlowMode(t *testing.T) {
	server := redistest.Start(t)
	a, b := openShared(t, server.Addr), openShared(t, server.Addr)
	for _, h := range []*house{a, b} {
		h.bind(defaultPolicy()) // slow mode is the only limit
	}
	ann, annThere, bob := a.dial("ann"), b.dial("ann"), b.dial("bob")
	for _, c := range []*client{ann, annThere, bob} {
		enter(c, "lobby")
		enter(c, "den")
	}
	set := func(m *SlowMode) {
		t.Helper()
		if degraded, err := a.SetSlowMode(t.Context(), "lobby", m); degraded || err != nil {
			t.Fatalf("degraded %t, %v", degraded, err)
		}
		b.waitFor("slow mode to be known", func() bool { got := b.SlowMode("lobby"); return (got == nil) == (m == nil) && (m == nil || *got == *m) })
	}
	set(&SlowMode{Events: 2, Window: time.Hour})
	equal(t, "first", sends(ann, "lobby")["type"], "ack")
	equal(t, "second, there", sends(annThere, "lobby")["type"], "ack")
	refusal := sends(ann, "lobby")
	limit, _ := refusal["limit"].(object)
	if refusal["code"] != "rate_limited" || limit["name"] != "slow_mode" || limit["events"] != 2.0 || limit["window"] != 3600_000.0 || refusal["room"] != "lobby" {
		t.Errorf("refused with %v", refusal)
	}
	equal(t, "there", sends(annThere, "lobby")["code"], "rate_limited")
	equal(t, "in another room", sends(ann, "den")["type"], "ack")
	equal(t, "another user", sends(bob, "lobby")["type"], "ack")
}

// TestSlowModeIsLifted changes a slow mode and takes it away.
func TestSlowModeIsLifted(t *testing.T) {
	h := open(t, nil)
	ann := h.dial("ann")
	enter(ann, "lobby")
	set := func(m *SlowMode) {
		t.Helper()
		if _, err := h.SetSlowMode(t.Context(), "lobby", m); err != nil {
			t.Fatal(err)
		}
	}
	set(&SlowMode{Events: 1, Window: time.Hour})
	equal(t, "first", sends(ann, "lobby")["type"], "ack")
	equal(t, "second", sends(ann, "lobby")["code"], "rate_limited")
	set(&SlowMode{Events: 2, Window: time.Hour})
	equal(t, "with another one", sends(ann, "lobby")["type"], "ack")
	set(nil)
	for range 5 {
		equal(t, "without", sends(ann, "lobby")["type"], "ack")
	}
	equal(t, "slow mode", h.SlowMode("lobby"), (*SlowMode)(nil))
}

// TestSlowModeIsPatient has somebody try again and again over a long window, and then flood.
func TestSlowModeIsPatient(t *testing.T) {
	h := open(t, nil)
	ann := h.dial("ann")
	enter(ann, "lobby")
	if _, err := h.SetSlowMode(t.Context(), "lobby", &SlowMode{Events: 1, Window: time.Hour}); err != nil {
		t.Fatal(err)
	}
	send := func(times int) {
		for range times {
			ann.Send(`{"type":"publish","room":"lobby"}`)
		}
	}
	for range 4 {
		send(floodFactor - 2)
		ann.Send(`{"type":"ping","id":1}`)
		for ann.Next("error", "pong")["type"] != "pong" {
		}
		h.eachSession(func(s *Session) {
			s.work.Lock()
			defer s.work.Unlock()
			r := s.refusals[SlowModeLimit]
			r.since = r.since.Add(-slowFlood)
		})
	}
	send(2 * floodFactor)
	for ann.Next("error", "bye")["type"] != "bye" {
	}
	equal(t, "close code", ann.Closed(), 4100)
}

func TestSlowModeIsExactForFew(t *testing.T) {
	for events, want := range map[int]ratelimit.Algorithm{1: ratelimit.SlidingLog, 10: ratelimit.SlidingLog, 11: ratelimit.SlidingCounter, ratelimit.MaxEvents: ratelimit.SlidingCounter} {
		if l := slowLimit(SlowMode{Events: events, Window: time.Minute}); l.Algorithm != want || l.Validate() != nil {
			t.Errorf("%d events: %+v, %v", events, l, l.Validate())
		}
	}
}

// TestSlowModeIsCounted expects the decisions of slow modes among the metrics once there is one.
func TestSlowModeIsCounted(t *testing.T) {
	h := open(t, nil)
	registry := prometheus.NewRegistry()
	registry.MustRegister(h.metrics)
	counted := func() map[string]float64 {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				labels := map[string]string{}
				for _, l := range m.GetLabel() {
					labels[l.GetName()] = l.GetValue()
				}
				if f.GetName() == "caddy_rooms_limit_decisions_total" && labels["limit"] == "slow_mode" && m.GetCounter().GetValue() > 0 {
					got[labels["outcome"]] = m.GetCounter().GetValue()
				}
			}
		}
		return got
	}
	ann := h.dial("ann")
	enter(ann, "lobby")
	sends(ann, "lobby")
	equal(t, "without slow mode", counted(), map[string]float64{})
	if _, err := h.SetSlowMode(t.Context(), "lobby", &SlowMode{Events: 1, Window: time.Hour}); err != nil {
		t.Fatal(err)
	}
	sends(ann, "lobby")
	sends(ann, "lobby")
	equal(t, "with slow mode", counted(), map[string]float64{"allowed": 1, "refused": 1})
}

// TestResetLimit has two instances deny a user, and one of them reset that.
func TestResetLimit(t *testing.T) {
	server := redistest.Start(t)
	a, b := openShared(t, server.Addr), openShared(t, server.Addr)
	ann, annThere, bob := a.dial("ann"), b.dial("ann"), b.dial("bob")
	for _, c := range []*client{ann, annThere, bob} {
		enter(c, "a:b")
	}
	equal(t, "first", sends(ann, "a:b")["type"], "ack")
	equal(t, "bob's first", sends(bob, "a:b")["type"], "ack")
	for _, c := range []*client{ann, annThere, bob} {
		equal(t, "second", sends(c, "a:b")["code"], "rate_limited")
	}
	reset := func(name, key string, want bool) {
		t.Helper()
		if known, degraded := a.ResetLimit(t.Context(), name, key); known != want || degraded {
			t.Errorf("%s: known %t, degraded %t, want known %t", name, known, degraded, want)
		}
	}
	reset("none", "a:b/ann", false)
	reset("chat", "ann", true)
	reset("chat", "a:b/ann", true)
	b.sync(a)
	equal(t, "there after a reset", sends(annThere, "a:b")["type"], "ack")
	if d, err := b.endpoint.Policy().Limits[0].Limiter.Allow(t.Context(), b.endpoint.Policy().Limits[0].Limit, "a:b/bob"); err != nil || d.Allowed {
		t.Errorf("bob: %+v, %v", d, err)
	}

	for _, h := range []*house{a, b} {
		h.bind(defaultPolicy())
	}
	for _, room := range []string{"a", "a:b"} {
		if _, err := a.SetSlowMode(t.Context(), room, &SlowMode{Events: 1, Window: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	b.waitFor("slow mode to be known", func() bool { return b.SlowMode("a:b") != nil })
	equal(t, "first in slow mode", sends(ann, "a:b")["type"], "ack")
	equal(t, "second in slow mode", sends(annThere, "a:b")["code"], "rate_limited")
	reset("slow_mode", "a:b ann", true)
	b.sync(a)
	equal(t, "there after a reset", sends(annThere, "a:b")["type"], "ack")
	reset("slow_mode", "a b:ann", true)
	b.sync(a)
	equal(t, "after a reset of others", sends(ann, "a:b")["code"], "rate_limited")
	reset("slow_mode", "nowhere nobody", true)

	server.Kill()
	a.waitFor("Redis to be missed", func() bool { return !a.backend.Up() })
	if known, degraded := a.ResetLimit(t.Context(), "slow_mode", "a:b ann"); !known || !degraded {
		t.Errorf("without Redis: known %t, degraded %t", known, degraded)
	}
}

// sync returns when there has arrived what a has published before.
func (h *house) sync(a *house) {
	h.t.Helper()
	room := "sync-" + randomID(4)
	if _, err := a.SetSlowMode(h.t.Context(), room, &SlowMode{Events: 1, Window: time.Second}); err != nil {
		h.t.Fatal(err)
	}
	h.waitFor("what was published before", func() bool { return h.SlowMode(room) != nil })
}
