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
}

// recordingBus is a bus whose other side is the test.
type recordingBus struct {
	bus.Local
	mu        sync.Mutex
	published [][2]string
	fail      error
}

func (b *recordingBus) Publish(channel string, payload []byte, done func(error)) {
	b.mu.Lock()
	b.published = append(b.published, [2]string{channel, string(payload)})
	err := b.fail
	b.mu.Unlock()
	if done != nil {
		go done(err)
	}
}

func defaultPolicy() *Policy {
	return &Policy{
		Transport: ws.Limits{MaxFrame: 4 << 10, SendQueue: 1 << 20, WriteTimeout: 10 * time.Second},
		Grace:     50 * time.Millisecond, Ping: 25 * time.Second, Drain: 100 * time.Millisecond, MaxRooms: 4, MaxConnections: -1,
	}
}

func open(t *testing.T, change func(*Policy)) *house {
	t.Helper()
	h := &house{t: t, bus: &recordingBus{}}
	h.Hub = New(Options{
		Node: "n1", Base: "rooms:{test}", Timeout: 10 * time.Second, Logger: zap.NewNop(),
		Open: func(o presence.Observer, _ bus.Receiver) (Backend, error) {
			return Backend{Store: presence.NewMemory(presence.Options{}, o), Bus: h.bus, Shared: true}, nil
		},
	})
	h.endpoint = h.Endpoint(0)
	p := defaultPolicy()
	if change != nil {
		change(p)
	}
	h.endpoint.Bind(p)
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
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := h.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return h
}

// client is a client whose frames are expected one by one.
type client struct {
	t    *testing.T
	c    *websocket.Conn
	conn string // its id
	user string
}

type object = map[string]any

// waitFor polls for what happens without a frame.
func (h *house) waitFor(what string, done func() bool) {
	h.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			h.t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func (h *house) dial(user string, rooms ...string) *client {
	h.t.Helper()
	url := h.server.URL + "?user=" + user
	for _, r := range rooms {
		url += "&room=" + r
	}
	c, _, err := websocket.Dial(h.t.Context(), url, &websocket.DialOptions{Subprotocols: []string{wire.Subprotocol}})
	if err != nil {
		h.t.Fatal(err)
	}
	c.SetReadLimit(-1)
	h.t.Cleanup(func() { _ = c.CloseNow() })
	cl := &client{t: h.t, c: c}
	welcome := cl.next("welcome")
	cl.conn, cl.user = welcome["conn"].(string), welcome["user"].(string)
	return cl
}

func (c *client) send(format string, args ...any) {
	c.t.Helper()
	if err := c.c.Write(c.t.Context(), websocket.MessageText, fmt.Appendf(nil, format, args...)); err != nil {
		c.t.Fatal(err)
	}
}

// read returns the next frame of any type, or the error that ended the connection.
func (c *client) read() (object, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	_, b, err := c.c.Read(ctx)
	if err != nil {
		return nil, err
	}
	var o object
	if err := json.Unmarshal(b, &o); err != nil {
		c.t.Fatalf("frame %s: %v", b, err)
	}
	return o, nil
}

// next returns the next frame, which must be of that type.
func (c *client) next(typ string) object {
	c.t.Helper()
	o, err := c.read()
	if err != nil {
		c.t.Fatalf("waiting for %s: %v", typ, err)
	}
	if o["type"] != typ {
		c.t.Fatalf("got %v, want a frame of type %s", o, typ)
	}
	return o
}

// nextOf returns the next frame, which must be of one of these types.
func (c *client) nextOf(types ...string) object {
	c.t.Helper()
	o, err := c.read()
	if err != nil {
		c.t.Fatalf("waiting for %v: %v", types, err)
	}
	if !slices.Contains(types, o["type"].(string)) {
		c.t.Fatalf("got %v, want a frame of type %v", o, types)
	}
	return o
}

func (c *client) join(room string) object {
	c.t.Helper()
	c.send(`{"type":"join","id":"j","room":%q}`, room)
	return c.next("ack")
}

// quiet checks that nothing but a pong comes.
func (c *client) quiet() {
	c.t.Helper()
	c.send(`{"type":"ping"}`)
	c.next("pong")
}

func (c *client) closed() websocket.CloseError {
	c.t.Helper()
	for {
		if _, err := c.read(); err != nil {
			if code := websocket.CloseStatus(err); code < 0 {
				c.t.Fatalf("closed without a close frame: %v", err)
			} else {
				return websocket.CloseError{Code: code}
			}
		}
	}
}

func (c *client) refused(code string) object {
	c.t.Helper()
	o := c.next("error")
	if o["code"] != code {
		c.t.Fatalf("got %v, want error %s", o, code)
	}
	return o
}

func users(list any) (names []string) {
	for _, m := range list.([]any) {
		m := m.(object)
		s := m["user"].(string)
		if op, ok := m["op"]; ok {
			s = fmt.Sprint(op, " ", s)
		}
		if r, ok := m["reason"]; ok {
			s += fmt.Sprint(" ", r)
		}
		names = append(names, s)
	}
	return names
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
	equal(t, "members", users(ann.join("lobby")["presence"].(object)["members"]), []string{"ann"})
	equal(t, "members", users(bob.join("lobby")["presence"].(object)["members"]), []string{"ann", "bob"})
	// A newcomer's own join is in its snapshot, not among its events.
	equal(t, "events", users(ann.next("presence")["events"]), []string{"join bob"})
	bob.quiet()

	bob.send(`{"type":"publish","id":1,"room":"lobby","event":"chat","data":{"text": "hi"}}`)
	ack := bob.next("ack")
	equal(t, "ack", ack, object{"type": "ack", "id": 1.0, "room": "lobby"})
	m := ann.next("message")
	equal(t, "event", m["event"], "chat")
	equal(t, "data", m["data"], object{"text": "hi"})
	equal(t, "from", m["from"], object{"user": "bob", "conn": bob.conn})
	bob.quiet()

	bob.send(`{"type":"publish","room":"lobby","data":1,"echo":true}`)
	equal(t, "echo", bob.next("message")["data"], 1.0)
	ann.next("message")

	bob.send(`{"type":"status","id":2,"room":"lobby","status":"away","state":{"typing":true}}`)
	bob.nextOf("ack", "presence")
	bob.nextOf("ack", "presence")
	e := ann.next("presence")["events"].([]any)[0].(object)
	equal(t, "update", e, object{"op": "update", "user": "bob", "status": "away", "state": object{"typing": true}})

	bob.send(`{"type":"leave","id":3,"room":"lobby"}`)
	equal(t, "leave", bob.next("ack"), object{"type": "ack", "id": 3.0, "room": "lobby"})
	equal(t, "events", users(ann.next("presence")["events"]), []string{"leave bob left"})
	ann.send(`{"type":"publish","room":"lobby","data":"gone?"}`)
	ann.quiet()
	bob.quiet()
}

func TestLeaveReasonsFollowTheCloseCode(t *testing.T) {
	for name, c := range map[string]struct {
		end    func(*client)
		reason string
	}{
		"normal":     {func(c *client) { _ = c.c.Close(1000, "") }, "left"},
		"going away": {func(c *client) { _ = c.c.Close(1001, "") }, "timeout"},
		"cut":        {func(c *client) { _ = c.c.CloseNow() }, "timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, nil)
			ann, bob := h.dial("ann"), h.dial("bob")
			ann.join("lobby")
			bob.join("lobby")
			ann.next("presence")
			c.end(bob)
			equal(t, "events", users(ann.next("presence")["events"]), []string{"leave bob " + c.reason})
		})
	}
}

func TestWhoComesBackInTimeWasNeverAway(t *testing.T) {
	h := open(t, func(p *Policy) { p.Grace = time.Minute })
	ann, bob := h.dial("ann"), h.dial("bob")
	ann.join("lobby")
	bob.join("lobby")
	ann.next("presence")
	_ = bob.c.CloseNow()
	h.waitFor("the connection to end", func() bool { return h.Connections() == 1 })
	again := h.dial("bob")
	member := again.join("lobby")["presence"].(object)["members"].([]any)[1].(object)
	equal(t, "conns", member["conns"], 1.0)
	again.send(`{"type":"publish","room":"lobby","data":"back"}`)
	ann.next("message") // and no presence before it
	ann.quiet()
}

func TestAnonymousClientsAreUsersOfTheirOwn(t *testing.T) {
	h := open(t, func(p *Policy) { p.Grace = time.Hour })
	a, b := h.dial(""), h.dial("")
	equal(t, "user", a.user, "anon:"+a.conn)
	a.join("lobby")
	b.join("lobby")
	a.next("presence")
	_ = b.c.CloseNow() // its id can't come back, so nothing is held for it
	equal(t, "events", users(a.next("presence")["events"]), []string{"leave " + b.user + " timeout"})
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
	ann.send(`{"type":"join","id":1,"room":"closed"}`)
	equal(t, "answer", ann.refused("forbidden")["id"], 1.0)
	ann.send(`{"type":"join","id":1,"room":"nowhere"}`)
	ann.refused("forbidden")
	anon.send(`{"type":"join","id":1,"room":"users:1"}`)
	anon.refused("forbidden")

	ann.join("users:1")
	ann.send(`{"type":"publish","id":1,"room":"open"}`)
	ann.refused("not_joined")
	ann.send(`{"type":"leave","id":1,"room":"open"}`)
	ann.refused("not_joined")
	ann.send(`{"type":"members","id":1,"room":"open"}`)
	ann.refused("not_joined")
	ann.send(`{"type":"status","id":1,"room":"open","status":"away"}`)
	ann.refused("not_joined")

	equal(t, "presence", anon.join("news")["presence"], object{"pseq": anon.lastPSeq("news"), "count": 1.0})
	anon.send(`{"type":"publish","id":1,"room":"news"}`)
	anon.refused("forbidden")
	anon.send(`{"type":"members","id":1,"room":"news"}`)
	anon.refused("forbidden")

	equal(t, "presence", ann.join("wall")["presence"], nil)
	anon.send(`{"type":"publish","id":1,"room":"wall","data":1}`)
	anon.next("ack")
	ann.next("message")

	ann.join("small")
	anon.send(`{"type":"join","id":1,"room":"small"}`)
	anon.refused("room_full")
	again := h.dial("ann") // another connection of who is in takes no place
	again.join("small")

	ann.join("open1")
	ann.send(`{"type":"join","id":1,"room":"open2"}`)
	ann.refused("too_many_rooms")
	ann.join("open1") // in already

	for _, frame := range []string{`{`, `[]`, `{"type":"dance"}`, `{"type":"join","room":" "}`, "{\"type\":\"ping\",\"x\":\"\xff\"}"} {
		ann.send("%s", frame)
		ann.refused("bad_request")
	}
	if err := ann.c.Write(t.Context(), websocket.MessageBinary, []byte(`{"type":"ping"}`)); err != nil {
		t.Fatal(err)
	}
	ann.refused("bad_request")
	ann.send(`{"type":"publish","id":7,"room":"users:1","data":%q}`, strings.Repeat("x", 4<<10))
	equal(t, "answer", ann.refused("too_large")["id"], 7.0)
	ann.quiet() // all of this has not cost the connection
	ann.send(`{"type":"publish","room":"users:1","data":%q}`, strings.Repeat("x", 9<<10))
	equal(t, "bye", ann.next("bye")["code"], 4004.0)
	equal(t, "code", int(ann.closed().Code), 4004)
}

// lastPSeq asks for a room's sequence by joining it again.
func (c *client) lastPSeq(room string) any {
	return c.join(room)["presence"].(object)["pseq"]
}

func TestServerJoins(t *testing.T) {
	h := open(t, func(p *Policy) {
		inbox, _ := ParsePattern("inbox:*")
		p.Rooms = []RoomRule{{Pattern: inbox, Join: Nobody, Publish: Nobody, Presence: wire.PresenceNone}}
	})
	ann := h.dial("ann", "inbox:ann", "bad%20name", "unlisted")
	equal(t, "ack", ann.next("ack"), object{"type": "ack", "room": "inbox:ann"})
	ann.refused("bad_request")
	equal(t, "room", ann.next("ack")["room"], "unlisted")
}

func TestMembersArePaged(t *testing.T) {
	h := open(t, nil)
	const n = wire.MaxPage + 5
	store := h.backend.Store
	ctx := t.Context()
	ann := h.dial("ann")
	ann.send(`{"type":"join","id":1,"room":"big","presence":"none"}`)
	ann.next("ack")
	for i := range n - 1 {
		id := fmt.Sprintf("c%d", i)
		if _, _, err := store.Connect(ctx, presence.Conn{ID: id, User: fmt.Sprintf("u%05d", i)}); err != nil {
			t.Fatal(err)
		}
		if err := store.Join(ctx, "big", id, presence.State{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	ann.send(`{"type":"members","id":2,"room":"big"}`)
	p := ann.next("ack")["presence"].(object)
	equal(t, "count", p["count"], float64(n))
	equal(t, "first page", len(p["members"].([]any)), wire.MaxPage)
	ann.send(`{"type":"members","id":3,"room":"big","cursor":%q}`, p["next"])
	p = ann.next("ack")["presence"].(object)
	equal(t, "last page", len(p["members"].([]any)), 5)
	equal(t, "next", p["next"], nil)
}

func TestStatusEverywhere(t *testing.T) {
	h := open(t, nil)
	ann, bob := h.dial("ann"), h.dial("bob")
	for _, room := range []string{"a", "b"} {
		ann.join(room)
		bob.join(room)
		ann.next("presence")
	}
	bob.send(`{"type":"status","id":1,"status":"busy"}`)
	for range 2 {
		equal(t, "status", ann.next("presence")["events"].([]any)[0].(object)["status"], "busy")
	}
}

// limiter allows the first n events of each key.
type limiter struct {
	mu   sync.Mutex
	n    int
	keys map[string]int
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
			{Limit: publish, On: OnPublish, Key: "{rooms.conn}", Limiter: &limiter{n: 2}},
			{Limit: ratelimit.Limit{Name: "watch", Events: 1, Window: time.Hour}, On: OnPublish, Key: "{rooms.user}", Limiter: &limiter{}, Observe: true},
			{Limit: ratelimit.Limit{Name: "join", Events: 9, Window: time.Minute}, On: OnJoin, Key: "{rooms.user}/{rooms.room}", Limiter: keys},
		}
	})
	c, _, err := websocket.Dial(t.Context(), h.server.URL+"?user=ann", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	ann := &client{t: t, c: c}
	equal(t, "limits", ann.next("welcome")["limits"], []any{
		object{"name": "publish", "on": "publish", "events": 2.0, "window": 3600000.0},
		object{"name": "join", "on": "join", "events": 9.0, "window": 60000.0},
	})
	ann.join("lobby")
	equal(t, "keys", keys.keys, map[string]int{"ann/lobby": 1})
	for i := range 2 {
		ann.send(`{"type":"publish","id":%d,"room":"lobby"}`, i)
		ann.next("ack")
	}
	ann.send(`{"type":"publish","id":9,"room":"lobby"}`)
	e := ann.refused("rate_limited")
	equal(t, "id", e["id"], 9.0)
	equal(t, "retry_after", e["retry_after"], 3600000.0)
	equal(t, "limit", e["limit"], object{"name": "publish", "events": 2.0, "window": 3600000.0, "remaining": 0.0, "reset": 3600000.0})
	// Further ones within the second are not answered; who goes on regardless is closed.
	for range floodFactor*2 - 2 {
		ann.send(`{"type":"publish","room":"lobby"}`)
	}
	ann.quiet()
	ann.send(`{"type":"publish","room":"lobby"}`)
	bye := ann.next("bye")
	equal(t, "bye", bye["code"], 4100.0)
	if in := bye["reconnect_in"].(float64); in < 5000 {
		t.Errorf("a flooding client may come back in %v ms", in)
	}
	equal(t, "code", int(ann.closed().Code), 4100)
}

func TestFromOtherInstances(t *testing.T) {
	h := open(t, nil)
	ann, bob := h.dial("ann"), h.dial("bob")
	ann.join("lobby")
	bob.join("lobby")
	ann.next("presence")
	channel := h.channel("lobby")
	frame := `{"type":"message","room":"lobby","event":"x","data":1,"from":null,"ts":1}`
	h.Receive(channel, []byte("mother-1 \n"+frame))
	ann.next("message")
	bob.next("message")
	h.Receive(channel, []byte("mother-1 "+bob.conn+"\n"+frame))
	ann.next("message")
	h.Receive(channel, []byte(`{"event":"cron","data":{"n":1},"from":{"user":"root"}}`))
	for _, c := range []*client{ann, bob} {
		m := c.next("message")
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
	ann.quiet()
	bob.quiet()

	h.Lost([]string{channel})
	equal(t, "gap", ann.next("gap"), object{"type": "gap", "room": "lobby", "reason": "bus"})
	bob.next("gap")

	bob.send(`{"type":"publish","id":1,"room":"lobby","data":"out"}`)
	bob.next("ack")
	m := ann.next("message")
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

	bob.send(`{"type":"publish","id":2,"room":"lobby","data":"out"}`)
	equal(t, "degraded", bob.next("ack")["degraded"], true)
	ann.next("message") // all the same
}

func TestMaxConnections(t *testing.T) {
	h := open(t, func(p *Policy) { p.MaxConnections = 1 })
	ann := h.dial("ann")
	if _, _, err := websocket.Dial(t.Context(), h.server.URL, nil); err == nil {
		t.Fatal("a second connection was admitted")
	}
	_ = ann.c.Close(1000, "")
	h.waitFor("the connection to end", func() bool { return h.Connections() == 0 })
	h.dial("bob")
}

func TestCloseSaysWhenToComeBack(t *testing.T) {
	h := open(t, nil)
	clients := make([]*client, 20)
	for i := range clients {
		clients[i] = h.dial(fmt.Sprint("user", i))
		clients[i].send(`{"type":"join","room":"lobby","presence":"none"}`)
		clients[i].next("ack")
	}
	done := make(chan error)
	go func() { done <- h.Close(context.Background()) }()
	for _, c := range clients {
		bye := c.next("bye")
		equal(t, "code", bye["code"], 4200.0)
		if _, ok := bye["reconnect_in"]; !ok {
			t.Error("bye does not say when to come back")
		}
		equal(t, "code", int(c.closed().Code), 4200)
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
	ann.join("lobby")
	p := defaultPolicy()
	closed, _ := ParsePattern("*")
	p.Rooms = []RoomRule{{Pattern: closed, Publish: Nobody}}
	p.CloseOnRebind = true
	h.endpoint.Bind(p)
	ann.send(`{"type":"publish","id":1,"room":"lobby"}`)
	ann.refused("forbidden")
	h.endpoint.Bind(defaultPolicy())
	equal(t, "bye", ann.next("bye")["code"], 4200.0)
}

func TestMaxConnectionAge(t *testing.T) {
	h := open(t, func(p *Policy) { p.MaxAge = 50 * time.Millisecond })
	equal(t, "bye", h.dial("ann").next("bye")["code"], 4200.0)
}

// TestEmptyRoomsAreGivenUp checks that a room without members goes away, and that entering it again meanwhile keeps it.
func TestEmptyRoomsAreGivenUp(t *testing.T) {
	h := open(t, nil)
	h.linger.Store(int64(time.Millisecond))
	ann := h.dial("ann")
	for range 50 {
		ann.join("lobby")
		ann.send(`{"type":"leave","id":1,"room":"lobby"}`)
		ann.next("ack")
	}
	h.waitFor("the empty room to go", func() bool { return h.room("lobby") == nil })
	equal(t, "members", users(ann.join("lobby")["presence"].(object)["members"]), []string{"ann"})
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
		h.sessions.Range(func(any, any) bool { sessions++; return true })
		return sessions+h.Connections()+len(h.rooms) == 0
	})
	if n, err := h.backend.Store.OnlineCount(t.Context()); n != 0 || err != nil {
		t.Errorf("%d users are still online (%v)", n, err)
	}
}
