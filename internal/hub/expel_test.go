package hub

import (
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
		if n, _ := h.Do(t.Context(), Order{Do: do, User: "bob", Room: "lobby"}); n != 0 {
			t.Errorf("%d connections, want none", n)
		}
		equal(t, "ann sees", ann.Events(), []string{seen})
	}
}
