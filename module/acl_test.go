package module

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/moderation"
	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
	"github.com/caddyrooms/caddy-rooms/ratelimit"
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

// documentedACL returns the command of docs/production.md that makes the user for us, or, with hub, one for that hub alone.
func documentedACL(t *testing.T, hub string) []any {
	t.Helper()
	doc, err := os.ReadFile("../docs/production.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(doc), "\nACL SETUSER ")
	command, _, closed := strings.Cut(rest, "\n```")
	if !ok || !closed {
		t.Fatal("docs/production.md has no ACL SETUSER")
	}
	args := []any{"ACL", "SETUSER"}
	for word := range strings.FieldsSeq(strings.ReplaceAll(command, "\\\n", " ")) {
		if hub == "" || !strings.HasSuffix(word, "rooms:*") {
			args = append(args, word)
		}
	}
	if hub == "" {
		return args
	}
	_, rest, ok = strings.Cut(string(doc), "hubs on one Redis apart, give each a user with `")
	keys, rest, _ := strings.Cut(rest, "`")
	_, rest, events := strings.Cut(rest, "(events.md), `")
	channels, _, _ := strings.Cut(rest, "`")
	if !ok || !events {
		t.Fatal("docs/production.md does not say what keeps hubs apart")
	}
	for word := range strings.FieldsSeq(strings.ReplaceAll(keys, "<hub>", hub) + " " + channels) {
		args = append(args, word)
	}
	return args
}

// TestDocumentedACL has a user with the documented rights do all that instances do, an instance die, and Redis forget, and expects that no
// right was missing.
func TestDocumentedACL(t *testing.T) {
	for name, hub := range map[string]string{"all hubs": "", "one hub": "default"} {
		t.Run(name, func(t *testing.T) { testDocumentedACL(t, documentedACL(t, hub)) })
	}
}

func testDocumentedACL(t *testing.T, acl []any) {
	redis := redistest.Start(t)
	admin := redis.Client()
	if err := admin.Do(t.Context(), acl...).Err(); err != nil {
		t.Fatal(err)
	}
	config := strings.Replace(clusterConfig, "limit publish", `events presence user room message
		limit log {
			on join
			events 100
			window 1m
			algorithm sliding_log
		}
		limit even {
			on status
			events 100
			window 1m
			algorithm gcra
		}
		limit publish`, 1)
	url := "REDIS=redis://rooms:secret@" + redis.Addr + "/1"
	a, b := caddytest.StartText(t, config, url), caddytest.StartText(t, config, url)
	a.WaitLog("presence is shared")
	b.WaitLog("presence is shared")
	ann, bob := dial(t, a, "ann"), dial(t, b, "bob")
	ann.Join("lobby")
	ann.Join("den")
	bob.Join("lobby")
	for _, request := range []string{
		`{"type":"publish","id":1,"room":"lobby","event":"hello"}`,
		`{"type":"status","id":1,"room":"lobby","status":"away"}`,
		`{"type":"status","id":1,"status":"busy"}`,
		`{"type":"heartbeat","id":1}`,
		`{"type":"leave","id":1,"room":"den"}`,
	} {
		ann.Send("%s", request)
		for {
			if o := ann.Next("presence", "ack"); o["type"] == "ack" {
				if o["degraded"] != nil {
					t.Errorf("%s was answered with %v", request, o)
				}
				break
			}
		}
	}

	limited := goredis.NewClient(&goredis.Options{Addr: redis.Addr, Username: "rooms", Password: "secret", DB: 1})
	defer limited.Close()
	table := moderation.New(moderation.Options{Client: limited, Base: redisdb.Base("rooms", "default")})
	defer table.Close()
	if _, degraded, err := table.Ban(t.Context(), "eve", time.Hour, nil); degraded || err != nil {
		t.Errorf("banning: degraded %t, %v", degraded, err)
	}
	limits := ratelimit.NewRedis(limited, ratelimit.RedisOptions{Prefix: redisdb.Base("rooms", "default"), Timeout: time.Minute})
	defer limits.Close()
	if err := limits.Reset(t.Context(), ratelimit.Limit{Name: "publish"}, "ann"); err != nil {
		t.Error(err)
	}

	// Scripts are loaded again, everything is written again, and the dead are removed.
	if err := admin.ScriptFlush(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if err := admin.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*caddytest.Caddy{a, b} {
		c.Wait("presence to be shared again", func() bool { return strings.Count(c.Log(), "presence is shared") == 2 })
	}
	a.Kill()
	for {
		if o := bob.Next("presence", "message", "gap"); o["type"] == "presence" && slices.Contains(roomstest.Words(o["events"]), "leave ann node") {
			break
		}
	}
	b.Stop()

	refused, err := admin.Do(t.Context(), "ACL", "LOG").Slice()
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range refused {
		t.Errorf("a right is missing: %v", entry)
	}
}
