package hub

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/wire"
)

// enter joins a room of whose presence the client wants to hear nothing.
func enter(c *client, room string) {
	c.Send(`{"type":"join","id":"j","room":%q,"presence":"none"}`, room)
	c.Next("ack")
}

func pattern(t *testing.T, s string) Pattern {
	t.Helper()
	p, err := ParsePattern(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPolicyTakesOutOfRooms closes a room under those who are in it: they are told, the others see them leave, and who was put there by the
// server stays.
func TestPolicyTakesOutOfRooms(t *testing.T) {
	h := open(t, nil)
	ann, bob, guest := h.dial("ann"), h.dial("bob", "staff"), h.dial("")
	bob.Next("ack")
	for _, c := range []*client{ann, bob, guest} {
		enter(c, "lobby")
	}
	enter(ann, "staff")
	equal(t, "bob sees", bob.Events(), []string{"join ann"})
	p := defaultPolicy()
	p.Rooms = []RoomRule{
		{Pattern: pattern(t, "staff"), Join: Nobody, Publish: Members, Presence: wire.PresenceFull},
		{Pattern: pattern(t, "*"), Join: Users, Publish: Members},
	}
	h.Bind([]Binding{{Policy: p, Config: "changed"}})
	equal(t, "guest", guest.Next("left"), object{"type": "left", "room": "lobby", "reason": "forbidden"})
	equal(t, "ann", ann.Next("left"), object{"type": "left", "room": "staff", "reason": "forbidden"})
	equal(t, "bob sees", bob.Events(), []string{"leave ann kicked"})
	ann.Send(`{"type":"publish","id":1,"room":"staff"}`)
	ann.Refused("not_joined")
	ann.Send(`{"type":"publish","id":2,"room":"lobby"}`)
	ann.Next("ack")
}

// TestJoinBehindAPolicy has clients join while the policy changes back and forth: in the end nobody is in who may not be.
func TestJoinBehindAPolicy(t *testing.T) {
	h := open(t, nil)
	closed, opened := defaultPolicy(), defaultPolicy()
	closed.Rooms = []RoomRule{{Pattern: pattern(t, "other")}}
	var clients []*client
	for range 8 {
		clients = append(clients, h.dial("ann"))
	}
	for round := range 20 {
		h.Bind([]Binding{{Policy: opened, Config: "opened"}})
		var wg sync.WaitGroup
		for _, c := range clients {
			wg.Go(func() {
				c.Send(`{"type":"join","id":%d,"room":"lobby","presence":"none"}`, round)
			})
		}
		h.Bind([]Binding{{Policy: closed, Config: "closed"}})
		wg.Wait()
	}
	for _, c := range clients {
		c.Send(`{"type":"ping","id":"done"}`)
		for frame, err := c.Read(); frame["id"] != "done"; frame, err = c.Read() {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	h.waitFor("everybody to be out", func() bool {
		empty := true
		h.eachSession(func(s *Session) { empty = empty && !s.isIn("lobby") })
		return empty
	})
}

// TestOrdersReachHeldPlaces takes a user out of a room whose connection was lost.
func TestOrdersReachHeldPlaces(t *testing.T) {
	for do, seen := range map[Deed]string{Kick: "leave bob kicked", Remove: "leave bob left"} {
		h := open(t, func(p *Policy) { p.Grace = time.Hour })
		ann, bob := h.dial("ann"), h.dial("bob")
		ann.Join("lobby")
		bob.Join("lobby")
		equal(t, "ann sees", ann.Events(), []string{"join bob"})
		_ = bob.WS.CloseNow()
		h.waitFor("the connection to end", func() bool { return h.Connections() == 1 })
		if done := h.Do(t.Context(), Order{Do: do, User: "bob", Room: "lobby"}); done != (Done{}) {
			t.Errorf("%+v, want no connections", done)
		}
		equal(t, "ann sees", ann.Events(), []string{seen})
	}
}

// TestEnterWithoutAPlace has the server put clients in a room that is full: they hear nothing of it.
func TestEnterWithoutAPlace(t *testing.T) {
	h := open(t, func(p *Policy) {
		p.Rooms = []RoomRule{{Pattern: pattern(t, "lobby"), Join: Everyone, Publish: Members, MaxMembers: 1}}
	})
	ann, bob, again := h.dial("ann"), h.dial("bob"), h.dial("bob")
	enter(ann, "lobby")
	if done := h.Do(t.Context(), Order{Do: Enter, User: "bob", Room: "lobby"}); done != (Done{Refused: 2}) {
		t.Errorf("%+v, want 2 refused", done)
	}
	bob.Quiet()
	again.Quiet()
	// Who is to be in it from the beginning is told, as ever.
	h.dial("bob", "lobby").Refused("room_full")
	bob.Send(`{"type":"join","id":1,"room":"lobby"}`)
	equal(t, "error", bob.Refused("room_full")["id"], 1.0)
}

// TestEnterOfWhoIsIn has the server put clients in a room in which they are by themselves: from then on rules and tokens do not take them out.
func TestEnterOfWhoIsIn(t *testing.T) {
	h := open(t, func(p *Policy) {
		p.Authenticate = func(_ context.Context, user string) (*Access, *wire.Error) {
			return &Access{User: user, Grants: []Grant{}}, nil
		}
	})
	ann, bob := h.dial("ann"), h.dial("bob")
	enter(ann, "lobby")
	enter(bob, "lobby")
	if done := h.Do(t.Context(), Order{Do: Enter, User: "ann", Room: "lobby"}); done != (Done{Connections: 1}) {
		t.Errorf("%+v, want 1 connection", done)
	}
	ann.Quiet()
	for _, c := range []*client{ann, bob} {
		c.Send(`{"type":"auth","id":1,"token":%q}`, c.User)
		c.Next("ack")
	}
	equal(t, "bob", bob.Next("left")["reason"], "forbidden")
	s := h.session(ann.Conn)
	equal(t, "forbidden to ann by her token", len(s.forbidden()), 0)
	p := defaultPolicy()
	p.Rooms = []RoomRule{{Pattern: pattern(t, "other")}}
	h.Bind([]Binding{{Policy: p, Config: "changed"}})
	equal(t, "forbidden to ann by a rule", len(s.forbidden()), 0)
	// Once she has left she is in by herself again.
	h.Bind([]Binding{{Policy: defaultPolicy(), Config: "opened"}})
	s.access.Store(nil)
	ann.Send(`{"type":"leave","id":2,"room":"lobby"}`)
	ann.Next("ack")
	enter(ann, "lobby")
	h.Bind([]Binding{{Policy: p, Config: "closed"}})
	equal(t, "ann", ann.Next("left")["reason"], "forbidden")
}

// TestOrdersThatOthersDoNotHearOf carries orders out while the shared store can't be reached.
func TestOrdersThatOthersDoNotHearOf(t *testing.T) {
	h := open(t, nil)
	h.store.late = true
	ann := h.dial("ann")
	for _, do := range []Deed{Enter, Remove, Enter, Kick} {
		if done := h.Do(t.Context(), Order{Do: do, User: "ann", Room: "lobby"}); done != (Done{Connections: 1, Degraded: true}) {
			t.Errorf("%s: %+v, want 1 connection, degraded", do, done)
		}
		ann.Next("ack", "left")
	}
	h.receive(7, `{"do":"enter","user":"ann","room":"lobby"}`)
	h.waitFor("the answer", func() bool { return len(h.numbers()) == 1 })
	equal(t, "the answer to another instance", h.bus.told[0][1], "a7\n"+`{"node":"n1","connections":1,"degraded":true}`)
}
