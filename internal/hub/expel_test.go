package hub

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
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

func TestOrders(t *testing.T) {
	h := open(t, nil)
	ann, again, bob := h.dial("ann"), h.dial("ann"), h.dial("bob")
	for _, c := range []*client{ann, again, bob} {
		enter(c, "lobby")
	}
	do := func(o Order, want int) {
		t.Helper()
		if n, degraded := h.Do(o); n != want || degraded {
			t.Errorf("%d connections, degraded %t, want %d", n, degraded, want)
		}
	}
	do(Order{User: "ann", Room: "lobby"}, 2)
	for _, c := range []*client{ann, again} {
		equal(t, "left", c.Next("left")["reason"], "kicked")
		enter(c, "lobby")
	}
	do(Order{User: "ann", Room: "elsewhere"}, 0)
	do(Order{Conn: "nobody"}, 0)
	do(Order{Conn: ann.Conn}, 1)
	bye := ann.Next("bye")
	if _, in := bye["reconnect_in"]; bye["code"] != 4005.0 || bye["reason"] != "kicked" || in {
		t.Errorf("bye %v", bye)
	}
	if code := ann.Closed(); code != 4005 {
		t.Errorf("closed with %d", code)
	}

	// From another instance; its own orders come back to it.
	users := redisdb.UsersChannel("rooms:{test}")
	h.Receive(users, []byte("o"+h.id+"\n"+`{"user":"bob"}`))
	h.Receive(users, []byte("oother\n{}"))
	h.Receive(users, []byte("oother\nnonsense"))
	h.Receive(users, []byte("oother\n"+`{"user":"bob","room":"lobby"}`))
	equal(t, "left", bob.Next("left")["reason"], "kicked")
	h.Receive(users, []byte("oother\n"+`{"user":"ann"}`))
	equal(t, "bye", again.Next("bye")["code"], 4005.0)
	h.bus.mu.Lock()
	defer h.bus.mu.Unlock()
	sent := 0
	for _, p := range h.bus.published {
		if p[0] == users && strings.HasPrefix(p[1], "o"+h.id+"\n") {
			sent++
		}
	}
	equal(t, "orders sent", sent, 4)
	h.bus.fail = errors.New("no Redis")
	h.bus.mu.Unlock()
	_, degraded := h.Do(Order{User: "ann"})
	h.bus.mu.Lock()
	equal(t, "degraded when the bus has failed", degraded, true)
}

// TestKickReachesHeldPlaces kicks a user whose connection was lost.
func TestKickReachesHeldPlaces(t *testing.T) {
	h := open(t, func(p *Policy) { p.Grace = time.Hour })
	ann, bob := h.dial("ann"), h.dial("bob")
	ann.Join("lobby")
	bob.Join("lobby")
	equal(t, "ann sees", ann.Events(), []string{"join bob"})
	_ = bob.WS.CloseNow()
	h.waitFor("the connection to end", func() bool { return h.Connections() == 1 })
	if n, _ := h.Do(Order{User: "bob", Room: "lobby"}); n != 0 {
		t.Errorf("%d connections, want none", n)
	}
	equal(t, "ann sees", ann.Events(), []string{"leave bob kicked"})
}
