package module

import (
	"fmt"
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

// TestAPIOrdersWaitForAnInstance gives orders about users of an instance that stands still: it does them when it goes on, in order, and a ban that
// was made here holds at once.
func TestAPIOrdersWaitForAnInstance(t *testing.T) {
	a, b, _ := startTwoAPIs(t, apiConfig)
	here := newBackend(t, a)
	const users = 20
	clients := make([]*roomstest.Client, users)
	for i := range clients {
		clients[i] = dial(t, b, fmt.Sprint("user", i))
	}
	eve := dial(t, a, "eve")
	a.Wait("all to answer", func() bool { return here.do("GET", "/stats", "")["degraded"] == nil })
	b.Signal(syscall.SIGSTOP)
	for _, do := range []string{"join", "leave", "join", "leave"} {
		for _, c := range clients {
			same(t, do, here.do("POST", "/users/"+c.User+"/"+do, `{"room":"vip"}`), `{"user":"`+c.User+`","room":"vip","connections":0,"degraded":true}`)
		}
	}
	same(t, "ban", here.do("POST", "/users/eve/disconnect", `{"ban":"1h"}`), `{"user":"eve","connections":1,"degraded":true}`, "banned_until")
	if code := eve.Closed(); code != 4005 {
		t.Errorf("closed with %d", code)
	}
	b.Signal(syscall.SIGCONT)
	for _, c := range clients {
		for _, frame := range []string{"ack", "left", "ack", "left"} {
			c.Next(frame)
		}
		c.Quiet()
	}
	a.Wait("all to answer", func() bool { return here.do("GET", "/stats", "")["degraded"] == nil })
	same(t, "the room", here.do("GET", "/rooms/vip", ""), `{"room":"vip","count":0,"connections":0}`)
}

// TestAPIJoinWithoutAPlace puts users into a room that is full.
func TestAPIJoinWithoutAPlace(t *testing.T) {
	config := strings.Replace(apiConfig, "max_frame 1KiB", "max_frame 1KiB\n\t\troom small {\n\t\t\tmax_members 1\n\t\t}", 1)
	onBoth(t, config, func(t *testing.T, h here) {
		ann, bob, again := dial(t, h.c, "ann"), dial(t, h.c, "bob"), dial(t, h.other, "bob")
		ann.Join("small")
		h.c.Wait("ann to be known", func() bool { return h.do("GET", "/rooms/small", "")["count"] == 1.0 })
		same(t, "join", h.do("POST", "/users/bob/join", `{"room":"small"}`), `{"user":"bob","room":"small","connections":0,"refused":2}`)
		bob.Quiet()
		again.Quiet()
		for _, c := range []*roomstest.Client{ann, bob, again} {
			h.do("POST", "/users/"+c.User+"/disconnect", "")
			c.Closed()
		}
		h.c.Wait("the room to be empty", func() bool { return h.do("GET", "/rooms/small", "")["count"] == 0.0 })
	})
}
