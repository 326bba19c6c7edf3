package hub

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

func TestOccupancy(t *testing.T) {
	h := open(t, nil)
	equal(t, "state", h.State(), StateOpen)
	equal(t, "an empty hub", h.Occupancy(), Occupancy{})
	ann, bob := h.dial("ann"), h.dial("bob")
	enter(ann, "lobby")
	enter(bob, "lobby")
	enter(bob, "den")
	equal(t, "a hub", h.Occupancy(), Occupancy{Connections: 2, Rooms: 2, Members: 3})
	bob.Send(`{"type":"leave","id":1,"room":"den"}`)
	bob.Next("ack")
	equal(t, "a hub with a room that is empty", h.Occupancy(), Occupancy{Connections: 2, Rooms: 1, Members: 2})
}

// TestPages reads lists in pages of two: nothing is missing, nothing comes twice, and the end is told.
func TestPages(t *testing.T) {
	h := open(t, func(p *Policy) { p.MaxRooms = 10 })
	ann := h.dial("ann")
	clients := []*roomstest.Client{ann, h.dial("ann"), h.dial("ann"), h.dial("bob")}
	for i := range 5 {
		enter(ann, fmt.Sprint("r", i))
	}
	enter(clients[3], "r1")
	enter(clients[3], "other")
	var ids []string
	for _, c := range clients[:3] {
		ids = append(ids, c.Conn)
	}
	slices.Sort(ids)
	read := func(page func(after string) (names []string, next string)) (all []string) {
		for after := ""; ; {
			names, next := page(after)
			if len(names) > 2 || next != "" && next != names[len(names)-1] {
				t.Fatalf("a page has %q and leads to %q", names, next)
			}
			all = append(all, names...)
			if after = next; after == "" {
				return all
			}
		}
	}
	list := func(prefix string) []string {
		return read(func(after string) (names []string, next string) {
			list, next := h.Rooms(prefix, after, 2)
			for _, r := range list {
				names = append(names, r.Room)
			}
			return names, next
		})
	}
	connections := func(user, room string) []string {
		return read(func(after string) (names []string, next string) {
			list, next := h.ConnectionsOf(user, room, after, 2)
			for _, c := range list {
				names = append(names, c.ID)
			}
			return names, next
		})
	}
	equal(t, "rooms", list(""), []string{"other", "r0", "r1", "r2", "r3", "r4"})
	equal(t, "rooms that begin with r", list("r"), []string{"r0", "r1", "r2", "r3", "r4"})
	equal(t, "rooms that begin with nothing there is", list("x"), []string(nil))
	equal(t, "connections of ann", connections("ann", ""), ids)
	equal(t, "connections of ann in r0", connections("ann", "r0"), []string{ann.Conn})
	equal(t, "connections in r1", len(connections("", "r1")), 2)
	equal(t, "connections", len(connections("", "")), 4)
	u, err := h.User(t.Context(), "ann", 2)
	if err != nil || len(u.Connections) != 2 || u.Connections[1].ID != ids[1] || u.Next != ids[1] || u.Conns != 3 {
		t.Errorf("ann is %v, %v", u, err)
	}
	infos, _ := h.Rooms("r1", "", 10)
	equal(t, "r1", infos, []RoomInfo{{Room: "r1", Count: 2, Connections: 2}})
	all, _ := h.ConnectionsOf("bob", "", "", 10)
	equal(t, "bob's rooms", all[0].Rooms, []string{"other", "r1"})
}

func TestPublishFromOutside(t *testing.T) {
	h := open(t, nil)
	ann := h.dial("ann")
	ann.Join("lobby")
	if h.Publish(Message{Room: "lobby", Event: "notice", Data: []byte(`{"a" : 1}`)}) {
		t.Error("degraded")
	}
	m := ann.Next("message")
	from, said := m["from"]
	if m["event"] != "notice" || !said || from != nil {
		t.Errorf("got %v", m)
	}
	h.bus.mu.Lock()
	sent := h.bus.published[len(h.bus.published)-1][1]
	h.bus.fail = errors.New("no Redis")
	h.bus.mu.Unlock()
	if want := fmt.Sprintf("m%s \n%s", h.id, `{"type":"message","room":"lobby","event":"notice","data":{"a" : 1},"from":null,"ts":`); len(sent) < len(want) || sent[:len(want)] != want {
		t.Errorf("other instances get %q", sent)
	}
	if !h.Publish(Message{Room: "nobody", Event: "notice", Data: []byte(`1`)}) {
		t.Error("not degraded when the bus has failed")
	}
}
