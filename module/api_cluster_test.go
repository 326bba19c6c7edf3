package module

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// here is one of two instances as a test sees it: a backend that asks it, and the other one.
type here struct {
	*backend
	other *caddytest.Caddy
}

// onBoth runs a test on each of two instances that share a Redis.
func onBoth(t *testing.T, config string, test func(t *testing.T, here here)) {
	a, b, _ := startTwoAPIs(t, config)
	for i, here := range []here{{newBackend(t, a), b}, {newBackend(t, b), a}} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			here.t = t
			test(t, here)
		})
	}
}

// message is a message from the server as clients hear it.
func message(room, event, data string, more ...string) string {
	return `{"type":"message",` + room + `"event":"` + event + `","data":` + data + `,"from":null` + strings.Join(more, "") + `}`
}

func TestAPIMessages(t *testing.T) {
	onBoth(t, apiConfig, func(t *testing.T, h here) {
		ann, away, bob := dial(t, h.c, "ann"), dial(t, h.other, "ann"), dial(t, h.other, "b%2Fb%25")
		for _, c := range []*roomstest.Client{ann, away, bob} {
			c.Send(`{"type":"join","room":"team/red","presence":"none"}`)
			c.Next("ack")
		}
		for _, test := range []struct {
			path, body, answer string
			frame              string
			to                 []*roomstest.Client
		}{
			{"/rooms/team%2Fred/messages", `{"event":"notice","data":{"text":"noon"}}`, `{"room":"team/red"}`,
				message(`"room":"team/red",`, "notice", `{"text":"noon"}`), []*roomstest.Client{ann, away, bob}},
			{"/rooms/%74eam%2fred/messages", `{"data":null}`, `{"room":"team/red"}`, message(`"room":"team/red",`, "message", "null"), []*roomstest.Client{ann, away, bob}},
			{"/rooms/team%2Fred/messages", `{"data":1,"event":"","exclude_user":"ann"}`, `{"room":"team/red"}`, message(`"room":"team/red",`, "message", "1"), []*roomstest.Client{bob}},
			{"/rooms/team%2Fred/messages", `{"data":2,"exclude_conn":"` + away.Conn + `"}`, `{"room":"team/red"}`, message(`"room":"team/red",`, "message", "2"), []*roomstest.Client{ann, bob}},
			{"/rooms/team%2Fred/messages", `{"data":3,"to_user":"ann"}`, `{"room":"team/red"}`, message(`"room":"team/red",`, "message", "3", `,"to":"ann"`), []*roomstest.Client{ann, away}},
			{"/rooms/team%2Fred/messages", `{"data":4,"to_user":"ann","exclude_conn":"` + ann.Conn + `"}`, `{"room":"team/red"}`, message(`"room":"team/red",`, "message", "4", `,"to":"ann"`), []*roomstest.Client{away}},
			{"/rooms/elsewhere/messages", `{"data":5}`, `{"room":"elsewhere"}`, "", nil},
			{"/users/ann/messages", `{"data":6,"event":"mail"}`, `{"user":"ann"}`, message("", "mail", "6", `,"to":"ann"`), []*roomstest.Client{ann, away}},
			{"/users/ann/messages", `{"data":7,"exclude_conn":"` + ann.Conn + `"}`, `{"user":"ann"}`, message("", "message", "7", `,"to":"ann"`), []*roomstest.Client{away}},
			{"/users/b%2Fb%25/messages", `{"data":8}`, `{"user":"b/b%"}`, message("", "message", "8", `,"to":"b/b%"`), []*roomstest.Client{bob}},
			{"/users/nobody/messages", `{"data":9}`, `{"user":"nobody"}`, "", nil},
		} {
			same(t, test.path+" "+test.body, h.do("POST", test.path, test.body), test.answer)
			for _, c := range test.to {
				same(t, c.User+" hears "+test.body, c.Next("message"), test.frame, "ts")
			}
		}
		// Whoever was to hear nothing has heard nothing up to here, since messages keep their order.
		h.do("POST", "/rooms/team%2Fred/messages", `{"data":"last"}`)
		for _, c := range []*roomstest.Client{ann, away, bob} {
			if last := c.Next("message"); last["data"] != "last" {
				t.Errorf("%s has heard %v", c.User, last)
			}
		}

		// Byte for byte, with all that JSON allows.
		const data = "{ \"a\" :\t1.00e+2,\"a\":\"<\\u00e9\\/é\\ud800>\",\n\"n\":123456789012345678901234567890 }"
		h.do("POST", "/rooms/team%2Fred/messages", `{"data":`+data+`}`)
		_, frame, err := away.WS.Read(t.Context())
		if err != nil || !strings.Contains(string(frame), `"data":`+data+`,"from"`) {
			t.Errorf("frame %s: %v", frame, err)
		}
	})
}

func TestAPIBatch(t *testing.T) {
	onBoth(t, apiConfig, func(t *testing.T, h here) {
		ann, bob := dial(t, h.c, "ann"), dial(t, h.other, "bob")
		for _, c := range []*roomstest.Client{ann, bob} {
			c.Send(`{"type":"join","room":"lobby","presence":"none"}`)
			c.Next("ack")
		}
		long := strings.Repeat("x", 1024)
		a := h.send("POST", "/messages", `{"messages":[
			{"room":"lobby","data":1},
			{"user":"bob","event":"mail","data":2},
			{"room":"a b","data":3},
			{"room":"lobby","user":"bob","data":4},
			{"data":5},
			{"room":"lobby"},
			{"room":"lobby","data":"`+long+`"},
			{"user":"bob","to_user":"bob","data":8},
			{"room":"lobby","to_user":"","data":9},
			{"room":"lobby","to_user":null,"data":10},
			{"user":null,"data":11},
			{"room":"lobby","data":12,"from":"ann"},
			{"room":"lobby","data":13,"event":"a\u0007"},
			14, null, [],
			{"room":"lobby","to_user":"bob","data":15}]}`)
		if a.status != http.StatusOK || a.body["failed"] != 14.0 {
			t.Errorf("%d %s", a.status, a.raw)
		}
		var got []string
		for _, r := range a.body["results"].([]any) {
			r := r.(roomstest.Object)
			if detail, ok := r["detail"]; ok {
				got = append(got, fmt.Sprint(r["status"], " ", r["code"], " ", detail))
			} else {
				got = append(got, fmt.Sprint(r["status"], " ", r["room"], " ", r["user"]))
			}
		}
		for i, want := range []string{
			"200 lobby <nil>", "200 <nil> bob", `400 bad_request bad room "a b"`, "400 bad_request room \"lobby\" and user \"bob\": exactly one", "400 bad_request room \"\" and user",
			`400 bad_request "data" is missing`, "413 too_large message is too long (allowed: 1024 bytes)", `400 bad_request "to_user" and "exclude_user" are of messages to a room`,
			`400 bad_request bad to_user ""`, `400 bad_request bad to_user ""`, `400 bad_request bad user ""`, `400 bad_request bad body: unknown field "from"`,
			"400 bad_request event \"a\\a\"", "400 bad_request bad body: it can't be a JSON number", "400 bad_request bad body: it can't be a JSON null", "400 bad_request bad body: it can't be a JSON array", "200 lobby <nil>",
		} {
			if i >= len(got) || !strings.HasPrefix(got[i], want) {
				t.Errorf("result %d is %s, want %s", i, got[i], want)
			}
		}
		for c, want := range map[*roomstest.Client][]any{ann: {1.0}, bob: {1.0, 2.0, 15.0}} {
			for _, data := range want {
				if m := c.Next("message"); m["data"] != data {
					t.Errorf("%s hears %v, want %v", c.User, m, data)
				}
			}
			c.Quiet()
		}

		list := func(n int) string {
			return `{"messages":[` + strings.TrimSuffix(strings.Repeat(`{"room":"lobby","data":1},`, n), ",") + `]}`
		}
		h.refused("POST", "/messages", list(0), 400, "bad_request", "0 messages (allowed: 1 to 100)")
		h.refused("POST", "/messages", `{}`, 400, "bad_request", "0 messages")
		h.refused("POST", "/messages", list(101), 400, "bad_request", "101 messages")
		for _, n := range []int{1, 100} {
			if answer := h.do("POST", "/messages", list(n)); len(answer["results"].([]any)) != n || answer["failed"] != 0.0 {
				t.Errorf("%v", answer)
			}
			for range n {
				bob.Next("message")
			}
		}
		h.refused("POST", "/messages", `{"messages":[{"room":"lobby","data":"`+strings.Repeat("x", 1<<20)+`"}]}`, 413, "too_large", "allowed: 1048576 bytes")
	})
}

func TestAPIShows(t *testing.T) {
	onBoth(t, apiConfig, func(t *testing.T, h here) {
		ann, away, bob := dial(t, h.c, "ann&device=phone"), dial(t, h.other, "ann&device=desk"), dial(t, h.other, "bob")
		ann.Send(`{"type":"join","id":1,"room":"team/red","state":{"name":"Ann"}}`)
		ann.Next("ack")
		away.Join("team/red")
		bob.Join("team/red")
		bob.Join("den")
		h.c.Wait("all to be known", func() bool {
			return h.do("GET", "/rooms/team%2Fred", "")["connections"] == 3.0 && len(h.do("GET", "/rooms", "")["rooms"].([]any)) == 2
		})
		same(t, "rooms", h.do("GET", "/rooms", ""), `{"rooms":[{"room":"den","count":1,"connections":1},{"room":"team/red","count":2,"connections":3}],"next":null}`)
		same(t, "a page", h.do("GET", "/rooms?limit=1", ""), `{"rooms":[{"room":"den","count":1,"connections":1}],"next":"den"}`)
		same(t, "the next page", h.do("GET", "/rooms?after=den&limit=1", ""), `{"rooms":[{"room":"team/red","count":2,"connections":3}],"next":null}`)
		same(t, "rooms with a prefix", h.do("GET", "/rooms?prefix=te", ""), `{"rooms":[{"room":"team/red","count":2,"connections":3}],"next":null}`)
		same(t, "a room", h.do("GET", "/rooms/team%2Fred", ""), `{"room":"team/red","count":2,"connections":3}`)
		same(t, "a room with nobody", h.do("GET", "/rooms/nowhere", ""), `{"room":"nowhere","count":0,"connections":0}`)
		same(t, "members", h.do("GET", "/rooms/team%2Fred/members", ""), `{"room":"team/red","count":2,"members":[
			{"user":"ann","status":"online","state":{"name":"Ann"},"device":"phone","conns":2},{"user":"bob","status":"online","state":{},"conns":1}],"next":null}`, "since")
		if page := h.do("GET", "/rooms/team%2Fred/members?limit=1", ""); page["next"] != "ann" || len(page["members"].([]any)) != 1 {
			t.Errorf("a page: %v", page)
		}
		same(t, "a user", h.do("GET", "/users/ann", ""), `{"user":"ann","online":true,"status":"online","devices":["desk","phone"],"conns":2,"source":"redis",
			"rooms":["team/red"],"connections":[{"rooms":["team/red"]},{"rooms":["team/red"]}],"next":null}`, "since", "last_seen", "conn", "node", "device")
		user := h.do("GET", "/users/bob", "")
		nodes := h.do("GET", "/stats", "")["nodes"].([]any)
		if c := user["connections"].([]any)[0].(roomstest.Object); c["conn"] != bob.Conn || c["node"] != nodes[0].(roomstest.Object)["node"] && c["node"] != nodes[1].(roomstest.Object)["node"] {
			t.Errorf("bob is %v, nodes are %v", user, nodes)
		}
		first := h.do("GET", "/users/ann?limit=1", "")
		rest := h.do("GET", "/users/ann?limit=1&after="+first["next"].(string), "")
		one, other := first["connections"].([]any)[0].(roomstest.Object), rest["connections"].([]any)[0].(roomstest.Object)
		if len(first["connections"].([]any)) != 1 || rest["next"] != nil || one["conn"].(string) >= other["conn"].(string) || one["node"] == other["node"] {
			t.Errorf("connections in pages: %v, %v", first, rest)
		}
		same(t, "a user who is away", h.do("GET", "/users/cid", ""), `{"user":"cid","online":false,"source":"redis","rooms":[],"connections":[],"next":null}`)
		stats := h.do("GET", "/stats", "")
		same(t, "stats", stats, `{"users":2,"rooms":2,"connections":3,"members":4}`, "nodes")
		if len(nodes) != 2 {
			t.Errorf("nodes %v", nodes)
		}
		same(t, "health", h.do("GET", "/health", ""), `{"hub":"default","status":"ready","redis":"connected","delivery":"messages of all instances arrive","connections":1,"problems":[]}`)
		for _, c := range []*roomstest.Client{ann, away, bob} {
			c.WS.CloseNow()
			h.do("POST", "/users/"+c.User+"/disconnect", "")
		}
		h.c.Wait("them to be gone", func() bool {
			return h.do("GET", "/stats", "")["users"] == 0.0 && h.do("GET", "/stats", "")["connections"] == 0.0
		})
	})
}

func TestAPIActs(t *testing.T) {
	onBoth(t, apiConfig, func(t *testing.T, h here) {
		ann, away, bob := dial(t, h.c, "ann"), dial(t, h.other, "ann"), dial(t, h.other, "bob")
		same(t, "join", h.do("POST", "/users/ann/join", `{"room":"lobby"}`), `{"user":"ann","room":"lobby","connections":2}`)
		for _, c := range []*roomstest.Client{ann, away} {
			if ack := c.Next("ack"); ack["room"] != "lobby" {
				t.Errorf("%v", ack)
			}
		}
		same(t, "join of who is away", h.do("POST", "/users/cid/join", `{"room":"lobby"}`), `{"user":"cid","room":"lobby","connections":0}`)
		bob.Join("lobby")
		same(t, "kick of a connection", h.do("POST", "/rooms/lobby/kick", `{"conn":"`+away.Conn+`"}`), `{"room":"lobby","connections":1}`)
		same(t, "left", away.Next("left"), `{"type":"left","room":"lobby","reason":"kicked"}`)
		same(t, "leave", h.do("POST", "/users/ann/leave", `{"room":"lobby"}`), `{"user":"ann","room":"lobby","connections":1}`)
		same(t, "left", ann.Next("left"), `{"type":"left","room":"lobby","reason":"server"}`)
		same(t, "bob sees", bob.Next("presence")["events"], `[{"op":"leave","user":"ann","reason":"left"}]`)
		same(t, "kick", h.do("POST", "/rooms/lobby/kick", `{"user":"bob"}`), `{"room":"lobby","connections":1}`)
		same(t, "left", bob.Next("left"), `{"type":"left","room":"lobby","reason":"kicked"}`)

		same(t, "disconnect of another's connection", h.do("POST", "/users/bob/disconnect", `{"conn":"`+away.Conn+`"}`), `{"user":"bob","connections":0}`)
		same(t, "disconnect of a connection", h.do("POST", "/users/ann/disconnect", `{"conn":"`+away.Conn+`"}`), `{"user":"ann","connections":1}`)
		if code := away.Closed(); code != 4005 {
			t.Errorf("closed with %d", code)
		}
		ann.Quiet()
		same(t, "disconnect", h.do("POST", "/users/ann/disconnect", "{}"), `{"user":"ann","connections":1}`)
		same(t, "disconnect", h.do("POST", "/users/bob/disconnect", ""), `{"user":"bob","connections":1}`)
		for _, c := range []*roomstest.Client{ann, bob} {
			if code := c.Closed(); code != 4005 {
				t.Errorf("%s: closed with %d", c.User, code)
			}
		}
	})
}

func TestAPIModeration(t *testing.T) {
	onBoth(t, apiConfig, func(t *testing.T, h here) {
		there := *h.backend
		there.c = h.other
		ann, away := dial(t, h.c, "ann"), dial(t, h.other, "ann")
		for _, c := range []*roomstest.Client{ann, away} {
			c.Send(`{"type":"join","room":"lobby","presence":"none"}`)
			c.Next("ack")
		}
		const slow = `{"room":"lobby","limits":{"publish":{"events":1,"window":3600000}}`
		same(t, "slow mode", h.do("PUT", "/rooms/lobby/limits", `{"publish":{"events":1,"window":"1h"}}`), slow+"}")
		h.c.Wait("the other to know", func() bool { return there.do("GET", "/rooms/lobby", "")["limits"] != nil })
		for _, b := range []*backend{h.backend, &there} {
			same(t, "a slow room", b.do("GET", "/rooms/lobby", "")["limits"], `{"publish":{"events":1,"window":3600000}}`)
		}
		h.do("DELETE", "/limits/slow_mode/lobby%20ann", "") // of the run before
		// What the server says itself is not slowed.
		for range 2 {
			h.do("POST", "/rooms/lobby/messages", `{"data":1}`)
			ann.Next("message")
			away.Next("message")
		}
		ann.Send(`{"type":"publish","id":1,"room":"lobby","data":1}`)
		ann.Next("ack")
		away.Next("message")
		away.Send(`{"type":"publish","id":1,"room":"lobby","data":1}`)
		if limit := away.Refused("rate_limited")["limit"].(roomstest.Object); limit["name"] != "slow_mode" {
			t.Errorf("%v", limit)
		}
		same(t, "reset", there.do("DELETE", "/limits/slow_mode/lobby%20ann", ""), `{"limit":"slow_mode","key":"lobby ann"}`)
		away.Send(`{"type":"publish","id":2,"room":"lobby","data":1}`)
		away.Next("ack")
		ann.Next("message")
		same(t, "no slow mode", there.do("DELETE", "/rooms/lobby/limits", ""), `{"room":"lobby"}`)
		same(t, "no slow mode", there.do("PUT", "/rooms/lobby/limits", "{}"), `{"room":"lobby"}`)
		h.c.Wait("it to be lifted here", func() bool { return h.do("GET", "/rooms/lobby", "")["limits"] == nil })
		for range 2 {
			away.Send(`{"type":"publish","id":3,"room":"lobby","data":1}`)
			away.Next("ack")
			ann.Next("message")
		}
		same(t, "a key with slashes", h.do("DELETE", "/limits/connect/a%2Fb%25", ""), `{"limit":"connect","key":"a/b%"}`)

		before := time.Now().UnixMilli()
		banned := h.do("POST", "/users/ann/disconnect", `{"ban":"1h"}`)
		same(t, "ban", banned, `{"user":"ann","connections":2}`, "banned_until")
		if until := banned["banned_until"].(float64); until < float64(before+3_500_000) || until > float64(before+3_700_000) {
			t.Errorf("banned until %v, now is %d", until, before)
		}
		for _, c := range []*roomstest.Client{ann, away} {
			if code := c.Closed(); code != 4005 {
				t.Errorf("closed with %d", code)
			}
		}
		for _, b := range []*backend{h.backend, &there} {
			b.c.Wait("the ban to be known", func() bool { return b.do("GET", "/users/ann", "")["banned_until"] != nil })
			refused := roomstest.Connect(t, b.c.URL("/ws?user=ann"), nil)
			refused.Refused("forbidden")
			if code := refused.Closed(); code != 4002 {
				t.Errorf("closed with %d", code)
			}
		}
		same(t, "unban", there.do("DELETE", "/users/ann/ban", ""), `{"user":"ann"}`)
		h.c.Wait("ann to be let in", func() bool { return h.do("GET", "/users/ann", "")["banned_until"] == nil })
		dial(t, h.c, "ann")
		h.refused("POST", "/users/anon:c1/disconnect", `{"ban":"1h"}`, 400, "bad_request", "not the id of a user")
		h.do("POST", "/users/ann/disconnect", "")
	})
}
