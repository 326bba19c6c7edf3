package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/bus"
	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/internal/ws"
	"github.com/caddyrooms/caddy-rooms/presence"
	"github.com/caddyrooms/caddy-rooms/ratelimit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// house is a hub behind a real server. The user's name is the query's.
type house struct {
	*Hub
	t        *testing.T
	server   *httptest.Server
	endpoint *Endpoint
	bus      *recordingBus
	store    *companyStore
}

// companyStore is a store of an instance that is not alone.
type companyStore struct {
	presence.Store
	instances []string
	err       error
	late      bool              // the others do not hear of who joins or leaves
	joining   func(room string) // called by who joins; nil: nothing is
}

func (s *companyStore) Join(ctx context.Context, room, id string, state presence.State, admit func(presence.View, bool)) error {
	if s.joining != nil {
		s.joining(room)
	}
	if !s.late {
		return s.Store.Join(ctx, room, id, state, admit)
	}
	return s.Store.Join(ctx, room, id, state, func(v presence.View, _ bool) { admit(v, true) })
}

func (s *companyStore) Leave(ctx context.Context, room, id string, reason presence.Reason, depart func(bool)) error {
	return s.Store.Leave(ctx, room, id, reason, func(bool) { depart(s.late) })
}

func (s *companyStore) Instances(context.Context) ([]string, error) {
	return slices.Clone(s.instances), s.err
}

// recordingBus is a bus whose other side is the test.
type recordingBus struct {
	bus.Local
	mu        sync.Mutex
	published [][2]string
	told      [][2]string
	fail      error
	stalled   chan struct{}        // closed when the outcomes of publishes come; nil: at once
	answer    func(payload string) // of the other instances to what is published
}

func (b *recordingBus) Tell(channel string, payload []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told = append(b.told, [2]string{channel, string(payload)})
}

func (b *recordingBus) Publish(channel string, payload []byte, done func(error)) {
	b.mu.Lock()
	b.published = append(b.published, [2]string{channel, string(payload)})
	err, answer, stalled := b.fail, b.answer, b.stalled
	b.mu.Unlock()
	if answer != nil && err == nil {
		answer(string(payload))
	}
	if done == nil {
		return
	}
	go func() {
		if stalled != nil {
			<-stalled
		}
		done(err)
	}()
}

// exiting is the exit of a process that has begun.
var exiting = func() <-chan struct{} { c := make(chan struct{}); close(c); return c }()

func defaultPolicy() *Policy {
	return &Policy{
		Transport: ws.Limits{MaxFrame: 4 << 10, SendQueue: 1 << 20, WriteTimeout: 10 * time.Second},
		Grace:     50 * time.Millisecond, Ping: 25 * time.Second, Drain: 100 * time.Millisecond, MaxRooms: 4, MaxConnections: -1,
	}
}

func open(t *testing.T, change func(*Policy)) *house {
	t.Helper()
	h := unbound(t)
	p := defaultPolicy()
	if change != nil {
		change(p)
	}
	h.endpoint = h.bind(p)
	h.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !h.endpoint.Accepting() || !h.endpoint.Admit() {
			http.Error(w, "no", http.StatusServiceUnavailable)
			return
		}
		c := Client{Conn: NewConnID(), User: r.URL.Query().Get("user"), Rooms: r.URL.Query()["room"]}
		if err := h.endpoint.Accept(w, r, c); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(func() {
		h.server.Close()
		if err := h.Close(exiting); err != nil {
			t.Error(err)
		}
	})
	return h
}

// unbound returns a hub that nobody can come to, and that is not bound yet.
func unbound(t *testing.T) *house {
	h := &house{t: t, bus: &recordingBus{}}
	h.Hub = New(Options{
		Node: "n1", Base: "rooms:{test}", Timeout: 10 * time.Second, Logger: zap.NewNop(),
		Open: func(o presence.Observer, _ bus.Receiver) Backend {
			h.store = &companyStore{Store: presence.NewMemory(presence.Options{}, o), instances: []string{"n1"}}
			return Backend{Store: h.store, Bus: h.bus, Shared: true}
		},
	})
	return h
}

// bind makes p the policy of the one endpoint.
func (h *house) bind(p *Policy) *Endpoint { return h.Bind([]Binding{{Policy: p}})[0] }

// client is a client whose frames are expected one by one.
type client = roomstest.Client

type object = roomstest.Object

// waitFor polls for what happens without a frame.
func (h *house) waitFor(what string, done func() bool) {
	h.t.Helper()
	deadline := time.Now().Add(roomstest.Patience)
	for !done() {
		if time.Now().After(deadline) {
			h.t.Fatalf("waited in vain for %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

func (h *house) dial(user string, rooms ...string) *client {
	h.t.Helper()
	url := h.server.URL + "?user=" + user
	for _, r := range rooms {
		url += "&room=" + r
	}
	return roomstest.Dial(h.t, url, nil)
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestTwoClientsTalk(t *testing.T) {
	h := open(t, nil)
	ann, bob := h.dial("ann"), h.dial("bob")
	equal(t, "members", roomstest.Words(ann.Join("lobby")["members"]), []string{"ann"})
	equal(t, "members", roomstest.Words(bob.Join("lobby")["members"]), []string{"ann", "bob"})
	// A newcomer's own join is in its snapshot, not among its events.
	equal(t, "events", ann.Events(), []string{"join bob"})
	bob.Quiet()

	bob.Send(`{"type":"publish","id":1,"room":"lobby","event":"chat","data":{"text": "hi"}}`)
	ack := bob.Next("ack")
	equal(t, "ack", ack, object{"type": "ack", "id": 1.0, "room": "lobby"})
	m := ann.Next("message")
	equal(t, "event", m["event"], "chat")
	equal(t, "data", m["data"], object{"text": "hi"})
	equal(t, "from", m["from"], object{"user": "bob", "conn": bob.Conn})
	bob.Quiet()

	bob.Send(`{"type":"publish","room":"lobby","data":1,"echo":true}`)
	equal(t, "echo", bob.Next("message")["data"], 1.0)
	ann.Next("message")

	bob.Send(`{"type":"status","id":2,"room":"lobby","status":"away","state":{"typing":true}}`)
	bob.Next("ack", "presence")
	bob.Next("ack", "presence")
	e := ann.Next("presence")["events"].([]any)[0].(object)
	equal(t, "update", e, object{"op": "update", "user": "bob", "status": "away", "state": object{"typing": true}})

	bob.Send(`{"type":"leave","id":3,"room":"lobby"}`)
	equal(t, "leave", bob.Next("ack"), object{"type": "ack", "id": 3.0, "room": "lobby"})
	equal(t, "events", ann.Events(), []string{"leave bob left"})
	ann.Send(`{"type":"publish","room":"lobby","data":"gone?"}`)
	ann.Quiet()
	bob.Quiet()
}

func TestLeaveReasonsFollowTheCloseCode(t *testing.T) {
	for name, c := range map[string]struct {
		end    func(*client)
		reason string
	}{
		"normal":     {func(c *client) { _ = c.WS.Close(1000, "") }, "left"},
		"going away": {func(c *client) { _ = c.WS.Close(1001, "") }, "timeout"},
		"cut":        {func(c *client) { _ = c.WS.CloseNow() }, "timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, nil)
			ann, bob := h.dial("ann"), h.dial("bob")
			ann.Join("lobby")
			bob.Join("lobby")
			ann.Next("presence")
			c.end(bob)
			equal(t, "events", ann.Events(), []string{"leave bob " + c.reason})
		})
	}
}

func TestWhoComesBackInTimeWasNeverAway(t *testing.T) {
	h := open(t, func(p *Policy) { p.Grace = time.Minute })
	ann, bob := h.dial("ann"), h.dial("bob")
	ann.Join("lobby")
	bob.Join("lobby")
	ann.Next("presence")
	_ = bob.WS.CloseNow()
	h.waitFor("the connection to end", func() bool { return h.Connections() == 1 })
	again := h.dial("bob")
	member := again.Join("lobby")["members"].([]any)[1].(object)
	equal(t, "conns", member["conns"], 1.0)
	again.Send(`{"type":"publish","room":"lobby","data":"back"}`)
	ann.Next("message") // and no presence before it
	ann.Quiet()
}

func TestAnonymousClientsAreUsersOfTheirOwn(t *testing.T) {
	h := open(t, func(p *Policy) { p.Grace = time.Hour })
	a, b := h.dial(""), h.dial("")
	equal(t, "user", a.User, "anon:"+a.Conn)
	a.Join("lobby")
	b.Join("lobby")
	a.Next("presence")
	_ = b.WS.CloseNow() // its id can't come back, so nothing is held for it
	equal(t, "events", a.Events(), []string{"leave " + b.User + " timeout"})
}

func TestRefusals(t *testing.T) {
	pattern := func(s string) Pattern {
		p, err := ParsePattern(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	h := open(t, func(p *Policy) {
		p.Rooms = []RoomRule{
			{Pattern: pattern("closed"), Join: Nobody, Publish: Members, Presence: wire.PresenceFull},
			{Pattern: pattern("users:*"), Join: Users, Publish: Members, Presence: wire.PresenceFull},
			{Pattern: pattern("news"), Publish: Nobody, Presence: wire.PresenceCount},
			{Pattern: pattern("wall"), Publish: Everyone, Presence: wire.PresenceNone},
			{Pattern: pattern("small"), Publish: Members, Presence: wire.PresenceFull, MaxMembers: 1},
			{Pattern: pattern("open*"), Publish: Members, Presence: wire.PresenceFull},
		}
	})
	ann, anon := h.dial("ann"), h.dial("")
	ann.Send(`{"type":"join","id":1,"room":"closed"}`)
	equal(t, "answer", ann.Refused("forbidden")["id"], 1.0)
	ann.Send(`{"type":"join","id":1,"room":"nowhere"}`)
	ann.Refused("forbidden")
	anon.Send(`{"type":"join","id":1,"room":"users:1"}`)
	anon.Refused("forbidden")

	ann.Join("users:1")
	ann.Send(`{"type":"publish","id":1,"room":"open"}`)
	ann.Refused("not_joined")
	ann.Send(`{"type":"leave","id":1,"room":"open"}`)
	ann.Refused("not_joined")
	ann.Send(`{"type":"members","id":1,"room":"open"}`)
	ann.Refused("not_joined")
	ann.Send(`{"type":"status","id":1,"room":"open","status":"away"}`)
	ann.Refused("not_joined")

	told := anon.Join("news")
	delete(told, "pseq")
	equal(t, "presence", told, object{"count": 1.0})
	anon.Send(`{"type":"publish","id":1,"room":"news"}`)
	anon.Refused("forbidden")
	anon.Send(`{"type":"members","id":1,"room":"news"}`)
	anon.Refused("forbidden")

	equal(t, "presence", ann.Join("wall"), object(nil))
	anon.Send(`{"type":"publish","id":1,"room":"wall","data":1}`)
	anon.Next("ack")
	ann.Next("message")

	ann.Join("small")
	anon.Send(`{"type":"join","id":1,"room":"small"}`)
	anon.Refused("room_full")
	again := h.dial("ann") // another connection of who is in takes no place
	again.Join("small")

	ann.Join("open1")
	ann.Send(`{"type":"join","id":1,"room":"open2"}`)
	ann.Refused("too_many_rooms")
	ann.Join("open1") // in already

	for _, frame := range []string{`{`, `[]`, `{"type":"dance"}`, `{"type":"join","room":" "}`, "{\"type\":\"ping\",\"x\":\"\xff\"}"} {
		ann.Send("%s", frame)
		ann.Refused("bad_request")
	}
	if err := ann.WS.Write(t.Context(), websocket.MessageBinary, []byte(`{"type":"ping"}`)); err != nil {
		t.Fatal(err)
	}
	ann.Refused("bad_request")
	ann.Send(`{"type":"publish","id":7,"room":"users:1","data":%q}`, strings.Repeat("x", 4<<10))
	equal(t, "answer", ann.Refused("too_large")["id"], 7.0)
	ann.Quiet() // all of this has not cost the connection
	ann.Send(`{"type":"publish","room":"users:1","data":%q}`, strings.Repeat("x", 9<<10))
	equal(t, "bye", ann.Next("bye")["code"], 4004.0)
	equal(t, "code", ann.Closed(), 4004)
}

func TestServerJoins(t *testing.T) {
	h := open(t, func(p *Policy) {
		inbox, _ := ParsePattern("inbox:*")
		p.Rooms = []RoomRule{{Pattern: inbox, Join: Nobody, Publish: Nobody, Presence: wire.PresenceNone}}
	})
	ann := h.dial("ann", "inbox:ann", "bad%20name", "unlisted")
	equal(t, "ack", ann.Next("ack"), object{"type": "ack", "room": "inbox:ann"})
	ann.Refused("bad_request")
	equal(t, "room", ann.Next("ack")["room"], "unlisted")
}

func TestMembersArePaged(t *testing.T) {
	h := open(t, nil)
	const n = wire.MaxPage + 5
	store := h.backend.Store
	ctx := t.Context()
	ann := h.dial("ann")
	ann.Send(`{"type":"join","id":1,"room":"big","presence":"none"}`)
	ann.Next("ack")
	for i := range n - 1 {
		id := fmt.Sprintf("c%d", i)
		if _, _, err := store.Connect(ctx, presence.Conn{ID: id, User: fmt.Sprintf("u%05d", i)}); err != nil {
			t.Fatal(err)
		}
		if err := store.Join(ctx, "big", id, presence.State{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	ann.Send(`{"type":"members","id":2,"room":"big"}`)
	p := ann.Next("ack")["presence"].(object)
	equal(t, "count", p["count"], float64(n))
	equal(t, "first page", len(p["members"].([]any)), wire.MaxPage)
	ann.Send(`{"type":"members","id":3,"room":"big","cursor":%q}`, p["next"])
	p = ann.Next("ack")["presence"].(object)
	equal(t, "last page", len(p["members"].([]any)), 5)
	equal(t, "next", p["next"], nil)
}

func TestWhoCountsIsToldOfComingAndGoing(t *testing.T) {
	h := open(t, nil)
	ann, bob := h.dial("ann"), h.dial("bob")
	ann.Send(`{"type":"join","id":1,"room":"lobby","presence":"count"}`)
	ann.Next("ack")
	bob.Join("lobby")
	e := ann.Next("presence")
	equal(t, "count", e["count"], 2.0)
	equal(t, "events", e["events"], []any{})
	bob.Send(`{"type":"status","room":"lobby","status":"away"}`)
	bob.Next("presence")
	ann.Quiet()
	bob.Send(`{"type":"leave","room":"lobby"}`)
	equal(t, "count", ann.Next("presence")["count"], 1.0)
}

func TestStatusEverywhere(t *testing.T) {
	h := open(t, nil)
	ann, bob := h.dial("ann"), h.dial("bob")
	for _, room := range []string{"a", "b"} {
		ann.Join(room)
		bob.Join(room)
		ann.Next("presence")
	}
	bob.Send(`{"type":"status","id":1,"status":"busy"}`)
	for range 2 {
		equal(t, "status", ann.Next("presence")["events"].([]any)[0].(object)["status"], "busy")
	}
}

// limiter allows the first n events of each key.
type limiter struct {
	ratelimit.Limiter // what is not asked here
	mu                sync.Mutex
	n                 int
	keys              map[string]int
}

func (l *limiter) Allow(_ context.Context, limit ratelimit.Limit, key string) (ratelimit.Decision, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keys == nil {
		l.keys = make(map[string]int)
	}
	l.keys[key]++
	if l.keys[key] > l.n {
		return ratelimit.Decision{Reset: limit.Window, RetryAfter: limit.Window}, nil
	}
	return ratelimit.Decision{Allowed: true, Remaining: l.n - l.keys[key]}, nil
}

func (*limiter) Close() error { return nil }

func TestLimits(t *testing.T) {
	keys := &limiter{n: 1000}
	publish := ratelimit.Limit{Name: "publish", Events: 2, Window: time.Hour}
	h := open(t, func(p *Policy) {
		p.Limits = []Limit{
			{Limit: publish, On: OnPublish, Key: NewKey("{rooms.conn}", false), Limiter: &limiter{n: 2}},
			{Limit: ratelimit.Limit{Name: "watch", Events: 1, Window: time.Hour}, On: OnPublish, Key: NewKey("{rooms.user}", false), Limiter: &limiter{}, Observe: true},
			{Limit: ratelimit.Limit{Name: "join", Events: 9, Window: time.Minute}, On: OnJoin, Key: NewKey("{rooms.user}/{rooms.room}", false), Limiter: keys},
		}
	})
	ann := roomstest.Connect(t, h.server.URL+"?user=ann", nil)
	equal(t, "limits", ann.Next("welcome")["limits"], []any{
		object{"name": "publish", "on": "publish", "events": 2.0, "window": 3600000.0},
		object{"name": "join", "on": "join", "events": 9.0, "window": 60000.0},
	})
	ann.Join("lobby")
	equal(t, "keys", keys.keys, map[string]int{"ann/lobby": 1})
	for i := range 2 {
		ann.Send(`{"type":"publish","id":%d,"room":"lobby"}`, i)
		ann.Next("ack")
	}
	ann.Send(`{"type":"publish","id":9,"room":"lobby"}`)
	e := ann.Refused("rate_limited")
	equal(t, "id", e["id"], 9.0)
	equal(t, "retry_after", e["retry_after"], 3600000.0)
	equal(t, "limit", e["limit"], object{"name": "publish", "events": 2.0, "window": 3600000.0, "remaining": 0.0, "reset": 3600000.0})
	// Further ones within the second are not answered; who goes on regardless is closed.
	for range floodFactor*2 - 2 {
		ann.Send(`{"type":"publish","room":"lobby"}`)
	}
	ann.Quiet()
	ann.Send(`{"type":"publish","room":"lobby"}`)
	bye := ann.Next("bye")
	equal(t, "bye", bye["code"], 4100.0)
	if in := bye["reconnect_in"].(float64); in < 5000 {
		t.Errorf("a flooding client may come back in %v ms", in)
	}
	equal(t, "code", ann.Closed(), 4100)
}

func TestFromOtherInstances(t *testing.T) {
	h := open(t, nil)
	ann, bob := h.dial("ann"), h.dial("bob")
	ann.Join("lobby")
	bob.Join("lobby")
	ann.Next("presence")
	channel := h.channel("lobby")
	frame := `{"type":"message","room":"lobby","event":"x","data":1,"from":null,"ts":1}`
	h.Receive(channel, []byte("mother-1 \n"+frame))
	ann.Next("message")
	bob.Next("message")
	h.Receive(channel, []byte(`mother-1 {"except_conn":"`+bob.Conn+`"}`+"\n"+frame))
	ann.Next("message")
	h.Receive(channel, []byte(`{"event":"cron","data":{"n":1},"from":{"user":"root"}}`))
	for _, c := range []*client{ann, bob} {
		m := c.Next("message")
		equal(t, "event", m["event"], "cron")
		equal(t, "from", m["from"], nil)
	}
	for _, junk := range []string{
		"", "m", "mother", "m" + h.id + " \n" + frame, `{"event":1}`, `{"data":`, "zzz", `{"data":"` + strings.Repeat("x", 4<<10) + `"}`, "{\"data\":\"\xff\"}",
	} {
		h.Receive(channel, []byte(junk))
	}
	h.Receive(h.channel("empty"), []byte(`{}`))
	h.Receive("elsewhere", []byte(`{}`))
	ann.Quiet()
	bob.Quiet()

	h.Lost([]string{channel})
	equal(t, "gap", ann.Next("gap"), object{"type": "gap", "room": "lobby", "reason": "bus"})
	bob.Next("gap")

	// Of messages of another hub that failed; not of its own, which were delivered before.
	h.Receive(channel, h.LossNotice())
	h.Receive(channel, []byte("gother-1"))
	ann.Next("gap")
	h.Receive(redisdb.UsersChannel("rooms:{test}"), []byte("gother-1"))
	ann.Next("gap")
	ann.Quiet()
	bob.Next("gap")
	bob.Next("gap")
	bob.Quiet()

	bob.Send(`{"type":"publish","id":1,"room":"lobby","data":"out"}`)
	bob.Next("ack")
	m := ann.Next("message")
	h.bus.mu.Lock()
	out := h.bus.published[0]
	h.bus.fail = bus.ErrDown
	h.bus.mu.Unlock()
	equal(t, "channel", out[0], channel)
	head, body, _ := strings.Cut(out[1], "\n")
	equal(t, "header", head, "m"+h.id+" ")
	var sent object
	if err := json.Unmarshal([]byte(body), &sent); err != nil {
		t.Fatal(err)
	}
	equal(t, "message on the bus", sent, m)

	bob.Send(`{"type":"publish","id":2,"room":"lobby","data":"out"}`)
	equal(t, "degraded", bob.Next("ack")["degraded"], true)
	ann.Next("message") // all the same
}

func TestMaxConnections(t *testing.T) {
	h := open(t, func(p *Policy) { p.MaxConnections = 1 })
	ann := h.dial("ann")
	if _, _, err := websocket.Dial(t.Context(), h.server.URL, nil); err == nil {
		t.Fatal("a second connection was admitted")
	}
	_ = ann.WS.Close(1000, "")
	h.waitFor("the connection to end", func() bool { return h.Connections() == 0 })
	h.dial("bob")
}

func TestCloseSaysWhenToComeBack(t *testing.T) {
	h := open(t, nil)
	clients := make([]*client, 20)
	for i := range clients {
		clients[i] = h.dial(fmt.Sprint("user", i))
		clients[i].Send(`{"type":"join","room":"lobby","presence":"none"}`)
		clients[i].Next("ack")
	}
	done := make(chan error)
	go func() { done <- h.Close(exiting) }()
	for _, c := range clients {
		bye := c.Next("bye")
		equal(t, "code", bye["code"], 4200.0)
		if _, ok := bye["reconnect_in"]; !ok {
			t.Error("bye does not say when to come back")
		}
		equal(t, "code", c.Closed(), 4200)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := h.Connections(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
	if h.endpoint.Accepting() {
		t.Error("a closed hub takes connections")
	}
}

func TestPolicyBindsOpenConnections(t *testing.T) {
	h := open(t, nil)
	ann := h.dial("ann")
	ann.Join("lobby")
	p := defaultPolicy()
	closed, _ := ParsePattern("*")
	p.Rooms = []RoomRule{{Pattern: closed, Publish: Nobody}}
	p.CloseOnRebind = true
	h.bind(p)
	ann.Send(`{"type":"publish","id":1,"room":"lobby"}`)
	ann.Refused("forbidden")
	h.bind(defaultPolicy())
	equal(t, "bye", ann.Next("bye")["code"], 4200.0)
}

func TestMaxConnectionAge(t *testing.T) {
	h := open(t, func(p *Policy) { p.MaxAge = 50 * time.Millisecond })
	equal(t, "bye", h.dial("ann").Next("bye")["code"], 4200.0)
}

// TestMaxConnectionAgeOfOpenConnections changes the age under connections: none is closed by the old one, all are by the new one.
func TestMaxConnectionAgeOfOpenConnections(t *testing.T) {
	h := open(t, func(p *Policy) { p.MaxAge = time.Hour })
	ann, bob := h.dial("ann"), h.dial("bob")
	ann.Join("lobby")
	p := defaultPolicy()
	p.MaxAge = 50 * time.Millisecond
	h.Bind([]Binding{{Policy: p, Config: "changed"}})
	for _, c := range []*client{ann, bob} {
		equal(t, "bye", c.Next("bye")["reason"], "max_connection_age")
	}
	// And none at all again.
	h.Bind([]Binding{{Policy: p, Config: "short"}})
	h.Bind([]Binding{{Policy: defaultPolicy(), Config: "none"}})
	h.dial("ann").Quiet()
}

// TestEmptyRoomsAreGivenUp checks that a room without members goes away, and that entering it again meanwhile keeps it.
func TestEmptyRoomsAreGivenUp(t *testing.T) {
	h := open(t, nil)
	h.linger.Store(int64(time.Millisecond))
	ann := h.dial("ann")
	for range 50 {
		ann.Join("lobby")
		ann.Send(`{"type":"leave","id":1,"room":"lobby"}`)
		ann.Next("ack")
	}
	h.waitFor("the empty room to go", func() bool { return h.room("lobby") == nil })
	equal(t, "members", roomstest.Words(ann.Join("lobby")["members"]), []string{"ann"})
}

// TestChurn lets many clients come, talk and go at once, and then expects nothing of them to be left.
func TestChurn(t *testing.T) {
	h := open(t, func(p *Policy) { p.Grace = 0; p.Coalesce = time.Millisecond })
	h.linger.Store(int64(time.Millisecond))
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			c, _, err := websocket.Dial(t.Context(), fmt.Sprintf("%s?user=u%d", h.server.URL, i%10), nil)
			if err != nil {
				t.Error(err)
				return
			}
			c.SetReadLimit(-1)
			reading := make(chan struct{})
			go func() {
				defer close(reading)
				for {
					if _, _, err := c.Read(context.Background()); err != nil {
						return
					}
				}
			}()
			for j := range 30 {
				room := fmt.Sprintf("r%d", (i+j)%3)
				for _, f := range []string{`{"type":"join","id":1,"room":%q}`, `{"type":"publish","id":2,"room":%q,"data":1,"echo":true}`,
					`{"type":"status","room":%q,"status":"away"}`, `{"type":"members","id":3,"room":%q}`, `{"type":"leave","id":4,"room":%q}`} {
					if j == 29 && strings.Contains(f, "leave") {
						continue // go with a room joined
					}
					if err := c.Write(t.Context(), websocket.MessageText, fmt.Appendf(nil, f, room)); err != nil {
						return
					}
				}
			}
			if i%2 == 0 {
				_ = c.Close(1000, "")
			} else {
				_ = c.CloseNow()
			}
			<-reading
		})
	}
	wg.Wait()
	h.waitFor("sessions, connections and rooms to go", func() bool {
		h.mu.RLock()
		defer h.mu.RUnlock()
		sessions := 0
		h.eachSession(func(*Session) { sessions++ })
		return sessions+len(h.rooms) == 0 && h.Occupancy() == Occupancy{}
	})
	if n, err := h.backend.Store.OnlineCount(t.Context()); n != 0 || err != nil {
		t.Errorf("%d users are still online (%v)", n, err)
	}
}
