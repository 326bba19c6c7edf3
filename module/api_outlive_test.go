package module

import (
	"strings"
	"syscall"
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// TestAPIBanOutlivesInstances kills all instances: who is banned is kept out by those that come after, and rooms stay slow.
func TestAPIBanOutlivesInstances(t *testing.T) {
	a, b, _ := startTwoAPIs(t, apiConfig)
	here, there := newBackend(t, a), newBackend(t, b)
	here.do("POST", "/users/eve/disconnect", `{"ban":"1h"}`)
	here.do("PUT", "/rooms/lobby/limits", `{"publish":{"events":1,"window":"1h"}}`)
	a.Kill()
	b.Kill()
	b.Run()
	b.Wait("the ban to be read", func() bool { return there.do("GET", "/users/eve", "")["banned_until"] != nil })
	same(t, "the room", there.do("GET", "/rooms/lobby", "")["limits"], `{"publish":{"events":1,"window":3600000}}`)
	eve := roomstest.Connect(t, b.URL("/ws?user=eve"), nil)
	eve.Refused("forbidden")
	if code := eve.Closed(); code != 4002 {
		t.Errorf("closed with %d", code)
	}
}

// TestAPIOnceWithoutRedis has an instance answer while Redis stands still: the other one answers the same when it goes on.
func TestAPIOnceWithoutRedis(t *testing.T) {
	a, b, redis := startTwoAPIs(t, apiConfig)
	here, there := newBackend(t, a), newBackend(t, b)
	const path, body, answer = "/rooms/lobby/messages", `{"data":1}`, `{"room":"lobby","degraded":true}`
	redis.Stall()
	same(t, "the first", here.with(idempotencyField, "k").do("POST", path, body), answer)
	redis.Resume()
	client := redis.Client()
	b.Wait("the answer to be known", func() bool {
		keys := client.Keys(t.Context(), "rooms:{default}:idem:*").Val()
		return len(keys) == 1 && strings.HasPrefix(client.Get(t.Context(), keys[0]).Val(), "d")
	})
	b.Wait("Redis to be back", func() bool { return there.do("GET", "/health", "")["redis"] == "connected" })
	again := there.with(idempotencyField, "k").send("POST", path, body)
	if again.header.Get(replayedField) != "true" {
		t.Errorf("sent again: %d %v", again.status, again.header)
	}
	same(t, "sent again", again.body, answer)
}

// TestAPIWhileAnInstanceStandsStill has answers say that one instance has not.
func TestAPIWhileAnInstanceStandsStill(t *testing.T) {
	a, b, _ := startTwoAPIs(t, apiConfig)
	here := newBackend(t, a)
	ann, bob := dial(t, a, "ann"), dial(t, b, "bob")
	ann.Join("lobby")
	bob.Send(`{"type":"join","room":"lobby","presence":"none"}`)
	bob.Next("ack")
	b.Signal(syscall.SIGSTOP)
	same(t, "kick", here.do("POST", "/rooms/lobby/kick", `{"user":"ann"}`), `{"room":"lobby","connections":1,"degraded":true}`)
	same(t, "kick of who is there", here.do("POST", "/rooms/lobby/kick", `{"user":"bob"}`), `{"room":"lobby","connections":0,"degraded":true}`)
	if stats := here.do("GET", "/stats", ""); stats["degraded"] != true || len(stats["nodes"].([]any)) != 1 {
		t.Errorf("stats %v", stats)
	}
	b.Signal(syscall.SIGCONT)
	a.Wait("all to answer", func() bool { return here.do("GET", "/stats", "")["degraded"] == nil })
	bob.Next("left") // what has reached it is done
}
