package hub

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
)

var users = redisdb.UsersChannel("rooms:{test}")

func TestOrders(t *testing.T) {
	h := open(t, nil)
	ann, again, bob := h.dial("ann"), h.dial("ann"), h.dial("bob")
	for _, c := range []*client{ann, again, bob} {
		enter(c, "lobby")
	}
	do := func(o Order, want int) {
		t.Helper()
		if done := h.Do(t.Context(), o); done != (Done{Connections: want}) {
			t.Errorf("%v: %+v, want %d connections", o, done, want)
		}
	}
	do(Order{Do: Kick, User: "ann", Room: "lobby"}, 2)
	for _, c := range []*client{ann, again} {
		equal(t, "left", c.Next("left")["reason"], "kicked")
		enter(c, "lobby")
	}
	do(Order{Do: Kick, User: "ann", Room: "elsewhere"}, 0)
	do(Order{Do: Count, User: "ann"}, 2)
	do(Order{Do: Count, User: "cid"}, 0)
	do(Order{Do: Disconnect, Conn: "nobody"}, 0)
	do(Order{Do: Disconnect, User: "bob", Conn: ann.Conn}, 0)
	do(Order{Do: Kick, User: "bob", Conn: ann.Conn, Room: "lobby"}, 0)
	do(Order{Do: Disconnect, User: "ann", Conn: ann.Conn}, 1)
	bye := ann.Next("bye")
	if _, in := bye["reconnect_in"]; bye["code"] != 4005.0 || bye["reason"] != "kicked" || in {
		t.Errorf("bye %v", bye)
	}
	if code := ann.Closed(); code != 4005 {
		t.Errorf("closed with %d", code)
	}

	// From another instance; its own orders come back to it.
	h.Receive(users, []byte("o"+h.id+" n1 1\n"+`{"do":"disconnect","user":"bob"}`))
	for _, malformed := range []string{
		"", "\n", "other n2 1\n", "other n2 1\n{}", "other n2 1\nnonsense", "other 1\n" + `{"do":"disconnect","user":"bob"}`,
		"other n2 1\n" + `{"do":"disconnect"}`, "other n2 1\n" + `{"do":"kick","user":"bob"}`,
		"other n2 1\n" + `{"do":"count"}`, "other n2 1\n" + `{"do":"dance","user":"bob"}`, "other n2 1\n" + `{"do":"tell user"}`,
	} {
		h.Receive(users, []byte("o"+malformed))
	}
	h.Receive(users, []byte("oother n2 7\n"+`{"do":"kick","user":"bob","room":"lobby"}`))
	equal(t, "left", bob.Next("left")["reason"], "kicked")
	h.Receive(users, []byte("oother n2 8\n"+`{"do":"disconnect","user":"ann"}`))
	equal(t, "bye", again.Next("bye")["code"], 4005.0)
	h.waitFor("the answers", func() bool {
		h.bus.mu.Lock()
		defer h.bus.mu.Unlock()
		return len(h.bus.told) == 2
	})
	h.bus.mu.Lock()
	defer h.bus.mu.Unlock()
	for _, told := range h.bus.told {
		number, _, _ := strings.Cut(told[1], "\n")
		want := map[string]string{"a7": `{"node":"n1","connections":1}`, "a8": `{"node":"n1","connections":1}`}[number]
		if told != [2]string{"rooms:{test}:ctl:n2", number + "\n" + want} {
			t.Errorf("answered %q", told)
		}
	}
}

// TestEnterAndRemove has the server put a client in a room that is closed to him and take him out of it: he is told, and the others see him come
// and go as anybody.
func TestEnterAndRemove(t *testing.T) {
	h := open(t, func(p *Policy) {
		p.MaxRooms = 1
		p.Rooms = []RoomRule{{Pattern: pattern(t, "closed*"), Join: Nobody, Publish: Members, Presence: wire.PresenceFull}}
	})
	bob := h.dial("bob", "closed")
	bob.Next("ack")
	ann, again := h.dial("ann"), h.dial("ann")
	enterAll := func(room string, want Done) {
		t.Helper()
		if done := h.Do(t.Context(), Order{Do: Enter, User: "ann", Room: room}); done != want {
			t.Errorf("entered %s: %+v, want %+v", room, done, want)
		}
	}
	enterAll("closed", Done{Connections: 2})
	for _, c := range []*client{ann, again} {
		ack := c.Next("ack")
		equal(t, "ack", []any{ack["room"], ack["id"], ack["presence"].(object)["count"]}, []any{"closed", nil, 2.0})
	}
	equal(t, "bob sees", bob.Events(), []string{"join ann"})
	enterAll("closed", Done{Connections: 2}) // they are in: nothing more is said
	enterAll("other", Done{Refused: 2})      // they are in one room already, nor is anything said
	// A rule that closes the room does not concern whom the server has put there.
	h.Bind([]Binding{{Policy: h.endpoint.Policy(), Config: "changed"}})
	if done := h.Do(t.Context(), Order{Do: Remove, User: "ann", Room: "closed"}); done != (Done{Connections: 2}) {
		t.Errorf("removed: %+v, want 2 connections", done)
	}
	equal(t, "ann", ann.Next("left", "presence"), object{"type": "left", "room": "closed", "reason": "server"})
	equal(t, "ann again", again.Next("left", "presence")["reason"], "server")
	equal(t, "bob sees", bob.Events(), []string{"leave ann left"})
}

// TestAsk has another instance answer, or not.
func TestAsk(t *testing.T) {
	h := open(t, nil)
	ann := h.dial("ann", "lobby")
	ann.Next("ack")
	h.store.instances = []string{"n1", "n2", "n3"}
	// answer has the others answer the next order.
	answer := func(answers ...string) {
		h.bus.mu.Lock()
		defer h.bus.mu.Unlock()
		h.bus.answer = func(payload string) {
			number := strings.Fields(payload)[2]
			for _, a := range answers {
				h.Receive("rooms:{test}:ctl:n1", []byte("a"+number+"\n"+a))
			}
		}
	}
	answer(`{"node":"n2","connections":2}`, `nonsense`, `{"node":"n3"}`)
	if done := h.Do(t.Context(), Order{Do: Disconnect, User: "bob"}); done != (Done{Connections: 2}) {
		t.Errorf("%+v", done)
	}
	answer(`{"node":"n2","connections":2,"refused":1}`, `{"node":"n3","degraded":true,"refused":2}`)
	if done := h.Do(t.Context(), Order{Do: Enter, User: "bob", Room: "lobby"}); done != (Done{Connections: 2, Refused: 3, Degraded: true}) {
		t.Errorf("%+v", done)
	}
	answer(`{"node":"n2","listed":[{"ID":"a2","User":"ann","Rooms":["other"]},{"ID":"a1","User":"ann","Rooms":[]}]}`, `{"node":"n3","listed":[{"ID":"a3","User":"ann","Rooms":[]}],"next":"a3"}`)
	u, err := h.UserEverywhere(t.Context(), "ann", "", 3)
	var got []string
	for _, c := range u.Connections {
		got = append(got, fmt.Sprint(c.ID, c.Node, c.Rooms))
	}
	if err != nil || u.Degraded || u.Next != "a3" {
		t.Errorf("%v, %v", u, err)
	}
	equal(t, "connections", got, []string{"a1n2[]", "a2n2[other]", "a3n3[]"}) // and that of this instance is behind
	// One of them has had no place for all: what others have behind is left to the next page.
	answer(`{"node":"n2","listed":[{"ID":"a1"}],"next":"a1"}`, `{"node":"n3","listed":[{"ID":"a0"},{"ID":"a3"}]}`)
	u, err = h.UserEverywhere(t.Context(), "ann", "", 3)
	if err != nil || len(u.Connections) != 2 || u.Connections[1].ID != "a1" || u.Next != "a1" {
		t.Errorf("%v, %v", u, err)
	}
	answer(`{"node":"n3","occupancy":{"Connections":5,"Rooms":2,"Members":6}}`, `{"node":"n2"}`)
	s, err := h.Stats(t.Context())
	equal(t, "stats", s, Stats{Users: 1, Rooms: 1, Nodes: []NodeStats{{"n1", Occupancy{1, 1, 1}}, {Node: "n2"}, {"n3", Occupancy{5, 2, 6}}}})
	if err != nil {
		t.Error(err)
	}

	stalled := make(chan struct{})
	defer close(stalled)
	for name, trouble := range map[string]func(){
		"one does not answer": func() { answer(`{"node":"n3","connections":1}`) },
		"nobody is told":      func() { h.bus.fail = errors.New("no Redis") },
		"nobody may be told":  func() { h.bus.stalled = stalled },
		"nobody knows who is": func() { h.store.err = errors.New("no Redis") },
	} {
		h.bus.fail, h.store.err, h.bus.stalled = nil, nil, nil
		answer(`{"node":"n2"}`, `{"node":"n3","connections":1}`)
		trouble()
		began := time.Now()
		if !h.Do(t.Context(), Order{Do: Disconnect, User: "bob"}).Degraded {
			t.Errorf("%s: not degraded", name)
		}
		if took := time.Since(began); took > h.opts.Timeout-time.Second {
			t.Errorf("%s: it took %s", name, took)
		}
	}
	h.bus.mu.Lock()
	h.bus.fail, h.store.err, h.bus.stalled = nil, nil, nil
	h.bus.mu.Unlock()
	// Answers to what nobody asks any more.
	h.Receive("rooms:{test}:ctl:n1", []byte("a1\n{}"))
	h.Receive("rooms:{test}:ctl:n1", []byte("a\n{}"))
}

// TestAnswersAreBounded lists connections in so many rooms that they don't fit an answer.
func TestAnswersAreBounded(t *testing.T) {
	rooms := make([]string, 2000)
	for i := range rooms {
		rooms[i] = strings.Repeat("r", 200)
	}
	list := make([]Connection, 5)
	for i := range list {
		list[i] = Connection{ID: fmt.Sprint("c", i), Rooms: rooms}
	}
	some, next := fitting(list, "c4")
	if len(some) != 2 || next != "c1" {
		t.Errorf("%d, next %s", len(some), next)
	}
	list[0].Rooms = slices.Repeat(rooms, 5)
	if some, next := fitting(list, ""); len(some) != 1 || next != "c0" {
		t.Errorf("of large ones %d, next %q", len(some), next)
	}
	if some, next := fitting(list[3:], "c4"); len(some) != 2 || next != "c4" {
		t.Errorf("of few %d, next %q", len(some), next)
	}
}

// TestAudience has a message reach those for whom it is, in this process and by the bus.
func TestAudience(t *testing.T) {
	h := open(t, nil)
	ann, again, bob, away := h.dial("ann"), h.dial("ann"), h.dial("bob"), h.dial("bob")
	for _, c := range []*client{ann, again, bob} {
		enter(c, "lobby")
	}
	all := []*client{ann, again, bob, away}
	for i, test := range []struct {
		m    Message
		want []*client
	}{
		{Message{Room: "lobby"}, []*client{ann, again, bob}},
		{Message{Room: "lobby", Audience: Audience{ExceptConn: ann.Conn}}, []*client{again, bob}},
		{Message{Room: "lobby", Audience: Audience{ExceptConn: "of nobody here"}}, []*client{ann, again, bob}},
		{Message{Room: "lobby", Audience: Audience{ExceptUser: "ann"}}, []*client{bob}},
		{Message{Room: "lobby", Audience: Audience{ExceptUser: "ann", ExceptConn: bob.Conn}}, nil},
		{Message{Room: "lobby", Audience: Audience{Only: "ann"}}, []*client{ann, again}},
		{Message{Room: "lobby", Audience: Audience{Only: "ann", ExceptConn: again.Conn}}, []*client{ann}},
		{Message{Room: "lobby", Audience: Audience{Only: "cid"}}, nil},
		{Message{User: "bob"}, []*client{bob, away}},
		{Message{User: "bob", Audience: Audience{ExceptConn: bob.Conn}}, []*client{away}},
		{Message{User: "cid"}, nil},
	} {
		test.m.Event, test.m.Data = "e", []byte(fmt.Sprint(i))
		if h.Publish(test.m) {
			t.Errorf("%v: degraded", test.m)
		}
		h.bus.mu.Lock()
		sent := h.bus.published[len(h.bus.published)-1]
		h.bus.mu.Unlock()
		// The same again, as if another instance had said it.
		foreign := strings.Replace(sent[1], h.id, "other", 1)
		h.Receive(sent[0], []byte(foreign))
		for _, c := range all {
			for _, w := range test.want {
				if w != c {
					continue
				}
				for range 2 {
					m := c.Next("message")
					to, _ := m["to"].(string)
					room, _ := m["room"].(string)
					if m["data"] != float64(i) || room != test.m.Room || to != test.m.Only+test.m.User {
						t.Errorf("%v: got %v", test.m, m)
					}
				}
			}
		}
	}
	for _, malformed := range []string{"", "other\n{}", "other {\n{}", `other {"only":1}` + "\n{}", "other \n{}"} {
		h.Receive(users, []byte("u"+malformed))
	}
	for _, malformed := range []string{"", "other\n{}", "other {\n{}"} {
		h.Receive(h.channel("lobby"), []byte("m"+malformed))
	}
	for _, c := range all {
		c.Quiet()
	}
}
