package module

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// onlyCount expects a presence frame with nothing but that count.
func onlyCount(t *testing.T, c *roomstest.Client, n int) {
	t.Helper()
	f := c.Next("presence")
	if want := (roomstest.Object{"type": "presence", "room": "lobby", "pseq": f["pseq"], "count": float64(n), "events": []any{}}); !reflect.DeepEqual(f, want) {
		t.Fatalf("got %v, want %v", f, want)
	}
}

// TestCrowdedRoomOnTwoInstances has a room pass the bound, by its members and by a reload, with members on two instances that share a Redis,
// of which each tells its own clients.
func TestCrowdedRoomOnTwoInstances(t *testing.T) {
	redis := redistest.Start(t)
	text := strings.Replace(clusterConfig, "coalesce 1ms", "coalesce 1ms\n\t\t\tfull_up_to 3", 1)
	a := caddytest.StartText(t, text, "REDIS="+redis.URL())
	b := caddytest.StartText(t, text, "REDIS="+redis.URL())
	a.WaitLog("redis connected")
	b.WaitLog("redis connected")
	named := func(c *roomstest.Client, events ...string) {
		t.Helper()
		if got := c.Events(); !slices.Equal(got, events) {
			t.Fatalf("events %v, want %v", got, events)
		}
	}
	read := func(c *roomstest.Client, want ...string) {
		t.Helper()
		c.Send(`{"type":"members","id":1,"room":"lobby"}`)
		if p := c.Next("ack")["presence"].(roomstest.Object); !slices.Equal(roomstest.Words(p["members"]), want) || p["next"] != nil {
			t.Fatalf("members %v, want %v", p, want)
		}
	}
	unlisted := func(c *roomstest.Client, n int) {
		t.Helper()
		p := c.Join("lobby")
		if want := (roomstest.Object{"pseq": p["pseq"], "count": float64(n), "members": []any{}, "next": ""}); !reflect.DeepEqual(p, want) {
			t.Fatalf("joined %v, want %v", p, want)
		}
	}
	invited := func(c *roomstest.Client) {
		t.Helper()
		if gap := c.Next("gap"); gap["reason"] != "presence" || gap["room"] != "lobby" {
			t.Fatalf("gap %v", gap)
		}
	}

	ann, cat, dan := dial(t, a, "ann"), dial(t, a, "cat"), dial(t, a, "dan")
	ann.Join("lobby")
	cat.Join("lobby")
	named(ann, "join cat")
	dan.Join("lobby")
	named(ann, "join dan")
	named(cat, "join dan")
	eve := dial(t, a, "eve")
	unlisted(eve, 4)
	onlyCount(t, ann, 4)
	onlyCount(t, cat, 4)
	// An instance that comes to the room when it is crowded, by a user who is no news.
	eveToo := dial(t, b, "eve")
	unlisted(eveToo, 4)
	read(eveToo, "ann", "cat", "dan", "eve")
	bob := dial(t, b, "bob")
	unlisted(bob, 5)
	onlyCount(t, ann, 5)
	onlyCount(t, eveToo, 5)
	bob.Quiet()

	// A wider bound on one of them.
	_, port, _ := strings.Cut(a.Addr, ":")
	wider := strings.NewReplacer("full_up_to 3", "full_up_to 10", "{$PORT}", port, "{$REDIS}", redis.URL()).Replace("{\n\tadmin " + a.Admin + "\n}\n" + text)
	if status, answer := a.Reload(wider); status != 200 {
		t.Fatalf("reload: %d %s", status, answer)
	}
	ann.Quiet()
	dan.Send(`{"type":"leave","id":2,"room":"lobby"}`)
	onlyCount(t, ann, 4)
	invited(ann)
	onlyCount(t, bob, 4)
	read(ann, "ann", "bob", "cat", "eve")
	cat.Send(`{"type":"leave","id":2,"room":"lobby"}`)
	named(ann, "leave cat left")
	onlyCount(t, bob, 3)
	invited(bob)
	read(bob, "ann", "bob", "eve")
	_ = ann.WS.Close(1000, "")
	named(bob, "leave ann left")
}
