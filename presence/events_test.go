package presence

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// The channels of events in tests.
const (
	presenceEvents = "x:presence:update"
	userEvents     = "x:user:status"
	roomEvents     = "x:room:event"
)

// allEvents tells everything.
func allEvents(head string) *Events {
	return &Events{Presence: presenceEvents, Users: userEvents, Rooms: roomEvents, Head: head}
}

// object is a decoded event, whose numbers are json.Number.
type object = map[string]any

// decodeEvent decodes exactly one JSON object in which no member is there twice.
func decodeEvent(t testing.TB, payload string) object {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(payload))
	d.UseNumber()
	var e object
	if err := d.Decode(&e); err != nil || d.More() {
		t.Fatalf("event %q: %v", payload, err)
	}
	d = json.NewDecoder(strings.NewReader(payload))
	depth, members := 0, 0
	for key := true; ; {
		token, err := d.Token()
		if err != nil {
			break
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			if depth++; depth > 1 {
				continue
			}
		case json.Delim('}'), json.Delim(']'):
			depth--
		default:
			if depth == 1 && key {
				members++
				key = false
				continue
			}
		}
		key = depth == 1
	}
	if members != len(e) {
		t.Fatalf("event %q has %d members, %d of them different", payload, members, len(e))
	}
	return e
}

// number takes a number out of an event.
func (h *hearer) number(e object, key string) (n int64) {
	h.t.Helper()
	text, _ := e[key].(json.Number)
	n, err := strconv.ParseInt(text.String(), 10, 64)
	if err != nil {
		h.t.Fatalf("%s of %v is no whole number: %v", key, e, err)
	}
	delete(e, key)
	return n
}

// hearer hears what is told to other programs, of scripts that the test runs itself.
type hearer struct {
	t      *testing.T
	client *redis.Client
	sub    *redis.PubSub
}

func newHearer(t *testing.T, client *redis.Client) *hearer {
	h := &hearer{t, client, client.PSubscribe(t.Context(), "x:*")}
	t.Cleanup(func() { _ = h.sub.Close() })
	if _, err := h.sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	return h
}

// heard is an event with its channel.
type heard struct {
	channel string
	event   object
}

// events returns what was told so far.
func (h *hearer) events() (events []heard) {
	h.t.Helper()
	if err := h.client.Publish(h.t.Context(), "x:end", "").Err(); err != nil {
		h.t.Fatal(err)
	}
	for {
		msg, err := h.sub.ReceiveMessage(h.t.Context())
		if err != nil {
			h.t.Fatal(err)
		}
		if msg.Channel == "x:end" {
			return events
		}
		events = append(events, heard{msg.Channel, decodeEvent(h.t, msg.Payload)})
	}
}

// run runs a script, twice, and expects that it tells this, in this order, the first time, and nothing the second. Times are between before and
// after, and taken out; so is the sequence of the room r, which they have.
func (h *hearer) run(what string, k keys, room string, script *redis.Script, keys []string, args []any, want ...heard) {
	h.t.Helper()
	ctx := h.t.Context()
	before := h.client.Time(ctx).Val().UnixMilli()
	if err := script.Run(ctx, h.client, keys, args...).Err(); err != nil {
		h.t.Fatalf("%s: %v", what, err)
	}
	got := h.events()
	after := h.client.Time(ctx).Val().UnixMilli()
	for _, e := range got {
		if ts := h.number(e.event, "ts"); ts < before || ts > after {
			h.t.Errorf("%s: ts is %d, not between %d and %d", what, ts, before, after)
		}
		if e.channel == roomEvents {
			if seq := h.client.HGet(ctx, k.seq(room), "p").Val(); fmt.Sprint(h.number(e.event, "pseq")) != seq {
				h.t.Errorf("%s: pseq is not %s", what, seq)
			}
		}
		if since, ok := e.event["since"].(json.Number); ok && since != "34" {
			if n := h.number(e.event, "since"); n < before || n > after {
				h.t.Errorf("%s: since is %d, not between %d and %d", what, n, before, after)
			}
		}
	}
	if len(got) != len(want) || len(got) > 0 && !reflect.DeepEqual(got, want) {
		h.t.Errorf("%s told\n%v\nwant\n%v", what, got, want)
	}
	if err := script.Run(ctx, h.client, keys, args...).Err(); err != nil {
		h.t.Fatalf("%s again: %v", what, err)
	}
	if again := h.events(); len(again) > 0 {
		h.t.Errorf("%s again told %v", what, again)
	}
}

// hostile are names that look like something else where they are put together.
var hostile = map[string]string{
	"quotes":      `a"b\"c'd\\`,
	"backslash":   `\`,
	"escapes":     `\n\u0022\/</script>`,
	"percents":    `%s%d%%%1$s%n%`,
	"unicode":     "ünï-日本語-\u2028-😀",
	"JSON":        `","event":"leave","user":"`,
	"long":        strings.Repeat("x", MaxName),
	"long quotes": strings.Repeat(`"`, MaxName),
	"spaces":      " a  b ",
	"pattern":     `.*[^%w]-`,
	"a number":    "123456789012345678901234567890",
	"null":        "null",
	"delete":      "a/b",
}

// TestEventsFieldByField has what is told of the same life with names that are hard to tell.
func TestEventsFieldByField(t *testing.T) {
	client := redistest.Start(t).Client()
	for name, text := range hostile {
		t.Run(name, func(t *testing.T) { eventsFieldByField(t, client, text) })
	}
}

func eventsFieldByField(t *testing.T, client *redis.Client, text string) {
	if err := client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	h := newHearer(t, client)
	k := keys("p:{x}")
	head, _ := json.Marshal(object{"version": 1, "hub": text, "node": text})
	e := allEvents(strings.TrimSuffix(string(head), "}"))
	room, user, status, device := text, text, text, text
	state := "{\n\t\"quote\" : \"\\\"\\n\\\\\", \"deep\":\r\n [{\"a\":{\"b\":\"}\"}}],\n \"s\":\"%s%d\"}\n"
	var decoded object
	d := json.NewDecoder(strings.NewReader(state))
	d.UseNumber()
	if err := d.Decode(&decoded); err != nil {
		t.Fatal(err)
	}
	told := func(channel, event string, more object) heard {
		o := object{"version": json.Number("1"), "hub": text, "node": text, "event": event}
		maps.Copy(o, more)
		return heard{channel, o}
	}
	of := func(n int, more object) object {
		o := object{"room": room}
		if n >= 0 {
			o["count"] = json.Number(strconv.Itoa(n))
		}
		maps.Copy(o, more)
		return o
	}
	lease := []string{k.leases(), k.counters()}
	for i, iid := range []string{"i", "j"} {
		args := append([]any{iid, 60000, "x-users", ""}, e.reset()...)
		if err := registerScript.Run(t.Context(), client, lease, args...).Err(); err != nil {
			t.Fatal(err)
		}
		for _, got := range h.events() {
			h.number(got.event, "ts")
			if want := told(got.channel, "reset", object{"empty": true}); i > 0 || !reflect.DeepEqual(got, want) {
				t.Errorf("registering %s told %v, want %v of the first only", iid, got, want)
			}
		}
	}

	users := func(iid string) []string {
		return []string{k.counters(), k.usersOf(iid), k.online(), k.seen(), k.user(user)}
	}
	online := func(iid string, args ...any) []any { return append([]any{iid, e.Presence, e.Head}, args...) }
	h.run("online", k, room, usersScript, users("i"), online("i", "+", "c1", user, device, 0),
		told(presenceEvents, "online", object{"user": user, "device": device}))
	h.run("online on another", k, room, usersScript, users("j"), online("j", "+", "c2", user, device, 0))
	h.run("status", k, room, statusScript, []string{k.counters(), k.user(user)}, []any{"i", "x-users", user, status, e.Users, e.Head},
		told(userEvents, "status", object{"user": user, "status": status}))

	inRoom := func(iid string) []string {
		return []string{k.counters(), k.roomsOf(iid), k.rooms(), k.members(room), k.counts(room), k.seq(room), k.departed(room)}
	}
	change := func(iid string, batch, stays, n int, args ...any) []any {
		return append([]any{iid, "e:", e.Rooms, e.Head, room, batch, stays, n}, args...)
	}
	content := entry{user: user, status: status, device: device, state: state}.content()
	plain := entry{user: "b", status: "online", state: "{}"}.content()
	join := object{"user": user, "status": status, "device": device, "state": decoded}
	h.run("join", k, room, changeScript, inRoom("i"), change("i", 1, 1, 2, "+", "c1", content, "0", "c9", plain),
		told(roomEvents, "occupied", of(-1, nil)), told(roomEvents, "join", of(1, join)),
		told(roomEvents, "join", of(2, object{"user": "b", "status": "online", "device": "", "state": object{}})))
	h.run("join of another connection", k, room, changeScript, inRoom("j"), change("j", 1, 1, 1, "+", "c2", content))
	h.run("leave", k, room, changeScript, inRoom("i"), change("i", 2, 1, 2, "-", "c9", "kicked", "-", "c1", "left"),
		told(roomEvents, "leave", of(1, object{"user": "b", "reason": "kicked"})))
	h.run("last leave", k, room, changeScript, inRoom("j"), change("j", 2, 0, 1, "-", "c2", "left"),
		told(roomEvents, "leave", of(0, object{"user": user, "reason": "left"})), told(roomEvents, "vacated", of(-1, nil)))
	h.run("restored", k, room, changeScript, inRoom("i"), change("i", 3, 1, 2, "=", "c1", content, 12, 34, "=", "c9", plain, 12, 34),
		told(roomEvents, "occupied", of(-1, object{"restored": true})),
		told(roomEvents, "join", of(1, merged(join, object{"since": json.Number("34"), "restored": true}))),
		told(roomEvents, "join", of(2, object{"user": "b", "status": "online", "device": "", "state": object{}, "since": json.Number("34"), "restored": true})))

	// Instance i dies with both connections of the room, j says goodbye.
	for _, err := range []error{
		retireScript.Run(t.Context(), client, []string{k.leases(), k.counters(), k.reasons()}, "i", 0, "timeout").Err(),
		reapFence.Run(t.Context(), client, lease, "i").Err(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	first, second := user, "b"
	if rows := client.HGetAll(t.Context(), k.members(room)).Val(); len(rows) != 2 {
		t.Fatalf("in the room are %v", rows)
	}
	if page, _ := client.HScan(t.Context(), k.members(room), 0, "", 500).Val(); strings.HasSuffix(page[0], ".c9") {
		first, second = second, first
	}
	h.run("reaping of the room", k, room, reapRoom, []string{k.counters(), k.reasons(), k.roomsOf("i"), k.members(room), k.counts(room), k.seq(room), k.departed(room), k.rooms()},
		[]any{"i", room, "e:" + room, "0", e.Rooms, e.Head},
		told(roomEvents, "leave", of(1, object{"user": first, "reason": "timeout"})),
		told(roomEvents, "leave", of(0, object{"user": second, "reason": "timeout"})), told(roomEvents, "vacated", of(-1, nil)))
	reap := append(users("i")[:1], k.usersOf("i"), k.online(), k.seen(), k.user(user))
	h.run("reaping of a user who is elsewhere", k, room, reapUsers, reap, []any{"i", e.Presence, e.Head, user})
	h.run("offline", k, room, usersScript, users("j"), online("j", "-", "c2", user, 0), told(presenceEvents, "offline", object{"user": user}))
	h.run("back", k, room, usersScript, users("j"), online("j", "~", "c2", user, device, 34, "7\n"+status),
		told(presenceEvents, "online", object{"user": user, "device": device, "restored": true}))
	if err := retireScript.Run(t.Context(), client, []string{k.leases(), k.counters(), k.reasons()}, "j", 0, "timeout").Err(); err != nil {
		t.Fatal(err)
	}
	reap[1] = k.usersOf("j")
	h.run("reaping of a user", k, room, reapUsers, reap, []any{"j", e.Presence, e.Head, user}, told(presenceEvents, "offline", object{"user": user}))
}

func merged(a, b object) object {
	c := maps.Clone(a)
	maps.Copy(c, b)
	return c
}
