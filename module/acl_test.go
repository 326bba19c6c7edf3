package module

import (
	"slices"
	"strings"
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// A Redis that takes commands but refuses subscriptions makes instances that are alone, not slow ones.
func TestSubscriptionsRefused(t *testing.T) {
	redis := redistest.Start(t)
	admin := redis.Client()
	acl := func(rules ...any) {
		t.Helper()
		if err := admin.Do(t.Context(), append([]any{"ACL", "SETUSER", "limited"}, rules...)...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	acl("on", ">secret", "+@all", "-subscribe", "~*", "&*")
	// Longer than anyone has patience.
	config := strings.Replace(clusterConfig, "redis {$REDIS}", "redis {$REDIS} {\ntimeout 1m\n}", 1)
	a := caddytest.StartText(t, config, "REDIS=redis://limited:secret@"+redis.Addr)
	a.WaitLog("presence is shared")
	a.WaitLog("redis refuses subscriptions")
	ann := dial(t, a, "ann")
	for _, request := range []string{
		`{"type":"join","id":1,"room":"lobby"}`,
		`{"type":"join","id":1,"room":"den"}`,
		`{"type":"status","id":1,"room":"lobby","status":"away"}`,
		`{"type":"leave","id":1,"room":"den"}`,
	} {
		ann.Send("%s", request)
		if ack := ann.Next("ack"); ack["degraded"] != true {
			t.Errorf("%s was answered with %v", request, ack)
		}
	}

	acl("+subscribe")
	b := caddytest.StartText(t, config, "REDIS="+redis.URL())
	b.WaitLog("presence is shared")
	for {
		if o := ann.Next("gap", "presence"); o["type"] == "gap" && o["room"] == "lobby" {
			break
		}
	}
	bob := dial(t, b, "bob")
	if p := bob.Join("lobby"); !slices.Equal(roomstest.Words(p["members"]), []string{"ann", "bob"}) {
		t.Errorf("bob joined %v", p)
	}
	bob.Send(`{"type":"publish","room":"lobby","event":"hello"}`)
	for ann.Next("presence", "message")["type"] != "message" {
	}
}
