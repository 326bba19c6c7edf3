package module

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// audience is another program.
type audience struct {
	t   *testing.T
	ch  <-chan *redis.Message
	sub *redis.PubSub
}

func listen(t *testing.T, server *redistest.Server) *audience {
	sub := server.Client().Subscribe(t.Context(), "rooms:presence:update", "rooms:user:status", "rooms:room:event", "rooms:message:event")
	t.Cleanup(func() { _ = sub.Close() })
	for range 4 {
		if _, err := sub.Receive(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return &audience{t, sub.Channel(redis.WithChannelSize(10_000)), sub}
}

// until returns what is told until, and with, an event which in short is last; resets are left out.
func (a *audience) until(last string) (told []string) {
	a.t.Helper()
	for {
		select {
		case m := <-a.ch:
			var e roomstest.Object
			if err := json.Unmarshal([]byte(m.Payload), &e); err != nil {
				a.t.Fatalf("%s on %s: %v", m.Payload, m.Channel, err)
			}
			if e["version"] != 1.0 || e["hub"] == nil || e["node"] == "" {
				a.t.Errorf("event without its head: %s", m.Payload)
			}
			if e["event"] == "reset" {
				continue
			}
			text := strings.TrimPrefix(m.Channel, "rooms:")
			for _, key := range []string{"event", "room", "user", "reason", "status", "data"} {
				if e[key] != nil {
					text += fmt.Sprint(" ", e[key])
				}
			}
			if told = append(told, text); text == last {
				return told
			}
		case <-time.After(roomstest.Patience):
			a.t.Fatalf("told %q, and not %q", told, last)
		}
	}
}

func (a *audience) expect(want ...string) {
	a.t.Helper()
	if got := a.until(want[len(want)-1]); !slices.Equal(got, want) {
		a.t.Errorf("told %q, want %q", got, want)
	}
}

// eventsConfig is clusterConfig without a limit, and with a line more.
func eventsConfig(line string) string {
	head, _, _ := strings.Cut(clusterConfig, "limit publish")
	return head + "no_default_limits\n" + line + "\n}\n}\n"
}

// TestReloadBeginsAndEndsEvents turns events on and off under open connections.
func TestReloadBeginsAndEndsEvents(t *testing.T) {
	server := redistest.Start(t)
	other := listen(t, server)
	a := caddytest.StartText(t, eventsConfig(""), "REDIS="+server.URL())
	a.WaitLog("presence is shared")
	_, port, _ := strings.Cut(a.Addr, ":")
	reload := func(line string) {
		t.Helper()
		text := "{\n\tadmin " + a.Admin + "\n}\n" + strings.NewReplacer("{$PORT}", port, "{$REDIS}", server.URL()).Replace(eventsConfig(line))
		if status, answer := a.Reload(text); status != http.StatusOK {
			t.Fatalf("reload: %d %s", status, answer)
		}
	}
	ann := dial(t, a, "ann")
	life := func(word string) {
		t.Helper()
		ann.Join("lobby")
		for _, request := range []string{
			`{"type":"status","id":1,"status":"` + word + `"}`,
			`{"type":"publish","id":1,"room":"lobby","event":"chat","data":"` + word + `"}`,
			`{"type":"leave","id":1,"room":"lobby"}`,
		} {
			ann.Send("%s", request)
			for ann.Next("ack", "presence")["type"] != "ack" {
			}
		}
	}
	marks := server.Client()
	mark := func(name string) {
		t.Helper()
		event := `{"version":1,"hub":"h","node":"n","event":"` + name + `"}`
		if err := marks.Publish(t.Context(), "rooms:room:event", event).Err(); err != nil {
			t.Fatal(err)
		}
	}
	life("one")
	mark("nothing")
	other.expect("room:event nothing")

	reload("events")
	life("two")
	other.expect("room:event occupied lobby", "room:event join lobby ann one", "user:status status ann two",
		"room:event leave lobby ann left", "room:event vacated lobby")

	reload("events room message")
	life("three")
	told := other.until("room:event vacated lobby")
	if !slices.ContainsFunc(told, func(e string) bool {
		return strings.HasPrefix(e, "message:event chat lobby") && strings.HasSuffix(e, "three")
	}) {
		told = append(told, other.until("message:event chat lobby three")...)
	}
	slices.Sort(told) // messages and changes have no common order
	if want := []string{"message:event chat lobby three", "room:event join lobby ann two", "room:event leave lobby ann left",
		"room:event occupied lobby", "room:event vacated lobby"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}

	reload("")
	life("four")
	mark("nothing again")
	other.expect("room:event nothing again")
	ann.Quiet()
}

// TestEventsWithoutTheRight has a user of Redis who may not publish where events go: clients notice nothing.
func TestEventsWithoutTheRight(t *testing.T) {
	server := redistest.Start(t)
	if err := server.Client().Do(t.Context(), "ACL", "SETUSER", "limited", "on", ">secret", "+@all", "~*", "resetchannels", "&rooms:{*").Err(); err != nil {
		t.Fatal(err)
	}
	config := eventsConfig("events presence user room message")
	url := "REDIS=redis://limited:secret@" + server.Addr
	other := listen(t, server)
	a, b := caddytest.StartText(t, config, url), caddytest.StartText(t, config, url)
	a.WaitLog("presence is shared")
	b.WaitLog("presence is shared")
	ann, bob := dial(t, a, "ann"), dial(t, b, "bob")
	ann.Join("lobby")
	bob.Join("lobby")
	if e := ann.Events(); !slices.Equal(e, []string{"join bob"}) {
		t.Errorf("ann saw %q", e)
	}
	for i := range 20 {
		from, to := ann, bob
		if i%2 == 1 {
			from, to = bob, ann
		}
		from.Send(`{"type":"publish","id":1,"room":"lobby","data":%d}`, i)
		if ack := from.Next("ack"); ack["degraded"] != nil {
			t.Errorf("ack %v", ack)
		}
		if m := to.Next("message"); m["data"] != float64(i) {
			t.Errorf("message %v, want %d", m, i)
		}
	}
	bob.Send(`{"type":"status","id":1,"status":"busy"}`)
	if e := ann.Next("presence")["events"].([]any); len(e) != 1 || e[0].(roomstest.Object)["status"] != "busy" {
		t.Errorf("ann was told %v", e)
	}
	for bob.Next("ack", "presence")["type"] != "ack" {
	}
	bob.Send(`{"type":"leave","id":1,"room":"lobby"}`)
	for bob.Next("ack", "presence")["type"] != "ack" {
	}
	if e := ann.Events(); !slices.Equal(e, []string{"leave bob left"}) {
		t.Errorf("ann saw %q", e)
	}
	ann.Quiet()
	bob.Quiet()
	for _, c := range []*caddytest.Caddy{a, b} {
		if n := strings.Count(c.Log(), "presence is shared"); n != 1 {
			t.Errorf("an instance was shared %d times", n)
		}
	}
	select {
	case m := <-other.ch:
		t.Errorf("told %s", m.Payload)
	default:
	}
}

// TestDeathBeforeTheStartIsTold starts an instance when the last one has been dead for long: it tells who is gone.
func TestDeathBeforeTheStartIsTold(t *testing.T) {
	server := redistest.Start(t)
	other := listen(t, server)
	config := eventsConfig("events")
	a := caddytest.StartText(t, config, "REDIS="+server.URL())
	a.WaitLog("presence is shared")
	ann := dial(t, a, "ann")
	ann.Join("lobby")
	other.expect("presence:update online ann", "room:event occupied lobby", "room:event join lobby ann online")
	a.Kill()
	// Its lease has ended.
	client := server.Client()
	for _, iid := range client.ZRange(t.Context(), "rooms:{default}:L", 0, -1).Val() {
		if err := client.ZAdd(t.Context(), "rooms:{default}:L", redis.Z{Member: iid, Score: 1}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	caddytest.StartText(t, config, "REDIS="+server.URL())
	other.expect("room:event leave lobby ann node", "room:event vacated lobby", "presence:update offline ann")
}

// TestRecent asks who has left, on another instance and of rooms where it is not told.
func TestRecent(t *testing.T) {
	server := redistest.Start(t)
	config := strings.Replace(eventsConfig(""), "redis {", "room quiet {\npresence count\n}\nroom * {\n}\nredis {", 1)
	a, b := caddytest.StartText(t, config, "REDIS="+server.URL()), caddytest.StartText(t, config, "REDIS="+server.URL())
	a.WaitLog("presence is shared")
	b.WaitLog("presence is shared")
	const state = `{"name":"\"Ann\"","n":[1,{"m":null}]}`
	ann := dial(t, a, "ann")
	ann.Send(`{"type":"join","id":1,"room":"lobby","state":%s}`, state)
	ann.Next("ack")
	ann.Join("quiet")
	left := time.Now().UnixMilli()
	for _, room := range []string{"lobby", "quiet"} {
		ann.Send(`{"type":"leave","id":1,"room":%q}`, room)
		ann.Next("ack")
	}
	bob := dial(t, b, "bob")
	bob.Join("lobby")
	bob.Join("quiet")
	members := func(fields string) roomstest.Object {
		t.Helper()
		bob.Send(`{"type":"members","id":1,"room":"lobby"%s}`, fields)
		return bob.Next("ack")["presence"].(roomstest.Object)
	}
	recent, _ := members(`,"recent":true`)["recent"].([]any)
	if len(recent) != 1 {
		t.Fatalf("recent %v", recent)
	}
	who := recent[0].(roomstest.Object)
	if got, _ := json.Marshal(who["state"]); who["user"] != "ann" || string(got) != `{"n":[1,{"m":null}],"name":"\"Ann\""}` || len(who) != 3 {
		t.Errorf("recent %v", who)
	}
	if at := who["last_seen"].(float64); at < float64(left-1000) || at > float64(time.Now().UnixMilli()+1000) {
		t.Errorf("left at %.0f, it was %d", at, left)
	}
	for _, fields := range []string{``, `,"recent":false`, `,"recent":null`} {
		if p := members(fields); p["recent"] != nil {
			t.Errorf("members with %q: %v", fields, p)
		}
	}
	for _, bad := range []string{`"true"`, `1`, `{}`, `[]`} {
		bob.Send(`{"type":"members","id":1,"room":"lobby","recent":%s}`, bad)
		bob.Refused("bad_request")
	}
	bob.Send(`{"type":"members","id":1,"room":"quiet","recent":true}`)
	bob.Refused("forbidden")
	bob.Send(`{"type":"members","id":1,"room":"elsewhere","recent":true}`)
	bob.Refused("not_joined")

	// Who is back has not left.
	ann.Join("lobby")
	bob.Next("presence")
	if p := members(`,"recent":true`); p["recent"] == nil || len(p["recent"].([]any)) != 0 {
		t.Errorf("recent %v", p)
	}
}
