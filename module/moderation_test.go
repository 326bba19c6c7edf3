package module

import (
	"net/http"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/moderation"
	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// TestBannedAreKeptOut has a third party ban a user: both instances close his connections and refuse his upgrades, until it is lifted.
func TestBannedAreKeptOut(t *testing.T) {
	a, b, redis := startTwo(t)
	table := moderation.New(moderation.Options{Client: redis.Client(), Base: redisdb.Base("rooms", "default")})
	defer table.Close()
	ann, annThere, bob := dial(t, a, "ann"), dial(t, b, "ann"), dial(t, b, "bob")
	if _, degraded, err := table.Ban(t.Context(), "ann", time.Hour, nil); degraded || err != nil {
		t.Fatal(degraded, err)
	}
	for _, c := range []*roomstest.Client{ann, annThere} {
		if bye := c.Next("bye"); bye["reason"] != "banned" || c.Closed() != 4005 {
			t.Errorf("bye %v", bye)
		}
	}
	bob.Join("lobby")
	c := roomstest.Connect(t, a.URL("/ws?user=ann"), nil)
	if refusal := c.Refused("forbidden"); refusal["message"] != "banned" {
		t.Errorf("refused with %v", refusal)
	}
	if bye := c.Next("bye"); bye["reason"] != "forbidden" || bye["reconnect_in"] != nil {
		t.Errorf("bye %v", bye)
	}
	if code := c.Closed(); code != 4002 {
		t.Errorf("closed with %d", code)
	}
	if resp := upgrade(t, b.Addr, "GET /ws?user=ann"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("status %d for who does not speak the protocol, want 403", resp.StatusCode)
	}
	if _, err := table.Unban(t.Context(), "ann"); err != nil {
		t.Fatal(err)
	}
	a.Wait("the ban to be lifted", func() bool { return upgrade(t, a.Addr, "GET /ws?user=ann").StatusCode == http.StatusSwitchingProtocols })
	dial(t, a, "ann").Join("lobby")
}

// TestSlowModeOfTheCluster has a third party slow a room down.
func TestSlowModeOfTheCluster(t *testing.T) {
	a, b, redis := startTwo(t)
	table := moderation.New(moderation.Options{Client: redis.Client(), Base: redisdb.Base("rooms", "default")})
	defer table.Close()
	ann, annThere := dial(t, a, "ann"), dial(t, b, "ann")
	ann.Join("lobby")
	annThere.Join("lobby")
	if _, err := table.SetSlowMode(t.Context(), "lobby", moderation.SlowMode{Events: 1, Window: time.Hour}); err != nil {
		t.Fatal(err)
	}
	// A ban that is known tells that what was decided before it is.
	if _, _, err := table.Ban(t.Context(), "eve", time.Hour, nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{a.Addr, b.Addr} {
		a.Wait("the ban to be known", func() bool { return upgrade(t, c, "GET /ws?user=eve").StatusCode == http.StatusForbidden })
	}
	ann.Send(`{"type":"publish","id":1,"room":"lobby"}`)
	ann.Next("ack")
	annThere.Next("message")
	annThere.Send(`{"type":"publish","id":1,"room":"lobby"}`)
	if refusal := annThere.Refused("rate_limited"); refusal["limit"].(roomstest.Object)["name"] != "slow_mode" {
		t.Errorf("refused with %v", refusal)
	}
}
