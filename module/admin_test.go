package module

import (
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// adminConfig names users by the query and tells their devices. Its pages are of the real endpoint.
const adminConfig = `:{$PORT} {
	rooms /ws {
		user {http.request.uri.query.user}
		device {http.request.uri.query.device}
		max_frame 1KiB
	}
	rooms /other health {
		anonymous
	}
}`

// ask sends a request to the admin endpoint and returns the status and the answer.
func ask(t *testing.T, c *caddytest.Caddy, method, path, body string) (status int, answer roomstest.Object, header http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+c.Admin+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		t.Fatalf("%s %s: %q: %v", method, path, b, err)
	}
	return resp.StatusCode, answer, resp.Header
}

// look returns an answer that must be good.
func look(t *testing.T, c *caddytest.Caddy, path string) roomstest.Object {
	t.Helper()
	status, answer, header := ask(t, c, http.MethodGet, path, "")
	if status != http.StatusOK || header.Get("Content-Type") != "application/json" {
		t.Fatalf("%s: %d %v", path, status, answer)
	}
	return answer
}

func post(t *testing.T, c *caddytest.Caddy, path, body string) roomstest.Object {
	t.Helper()
	status, answer, _ := ask(t, c, http.MethodPost, path, body)
	if status != http.StatusOK {
		t.Fatalf("%s %s: %d %v", path, body, status, answer)
	}
	return answer
}

// without returns an answer less what differs from one time to the next, at any depth.
func without(v any, keys ...string) any {
	switch v := v.(type) {
	case roomstest.Object:
		o := roomstest.Object{}
		for k, e := range v {
			if !strings.Contains(" "+strings.Join(keys, " ")+" ", " "+k+" ") {
				o[k] = without(e, keys...)
			}
		}
		return o
	case []any:
		list := make([]any, len(v))
		for i, e := range v {
			list[i] = without(e, keys...)
		}
		return list
	}
	return v
}

// same compares an answer, less some keys, with what is given as JSON.
func same(t *testing.T, what string, got any, want string, less ...string) {
	t.Helper()
	var wanted any
	if err := json.Unmarshal([]byte(want), &wanted); err != nil {
		t.Fatalf("%s: %v", want, err)
	}
	if got = without(got, less...); !reflect.DeepEqual(got, wanted) {
		b, _ := json.Marshal(got)
		t.Errorf("%s:\n got %s\nwant %s", what, b, want)
	}
}

func TestAdminShows(t *testing.T) {
	c := caddytest.StartText(t, adminConfig)
	ann, annToo, bob := dial(t, c, "ann&device=phone"), dial(t, c, "ann&device=desk"), dial(t, c, "b%2Fb")
	ann.Send(`{"type":"join","id":1,"room":"team/red","state":{"name":"<Ann>"}}`)
	ann.Next("ack")
	annToo.Join("team/red")
	bob.Join("team/red")
	bob.Join("den")

	same(t, "hubs", look(t, c, "/rooms/"), `{"hubs":[
		{"hub":"default","state":"open","connections":3,"rooms":2,"members":4},
		{"hub":"health","state":"open","connections":0,"rooms":0,"members":0}]}`, "node")
	same(t, "rooms", look(t, c, "/rooms/default/rooms"), `{"rooms":[
		{"room":"den","count":1,"connections":1},{"room":"team/red","count":2,"connections":3}],"next":null}`)
	same(t, "first room", look(t, c, "/rooms/default/rooms?limit=1"), `{"rooms":[{"room":"den","count":1,"connections":1}],"next":"den"}`)
	same(t, "second room", look(t, c, "/rooms/default/rooms?limit=1&after=den"), `{"rooms":[{"room":"team/red","count":2,"connections":3}],"next":null}`)
	same(t, "rooms with a prefix", look(t, c, "/rooms/default/rooms?prefix=te"), `{"rooms":[{"room":"team/red","count":2,"connections":3}],"next":null}`)
	same(t, "rooms of a hub named health", look(t, c, "/rooms/health/rooms"), `{"rooms":[],"next":null}`)

	const members = `{"room":"team/red","count":2,"connections":3,"members":[
		{"user":"ann","status":"online","state":{"name":"<Ann>"},"device":"phone","conns":2},
		{"user":"b/b","status":"online","state":{},"conns":1}],"next":null}`
	for _, path := range []string{"team%2Fred", "team/red", "%74eam%2fred"} {
		same(t, path, look(t, c, "/rooms/default/rooms/"+path), members, "since")
	}
	page := look(t, c, "/rooms/default/rooms/team%2Fred?limit=1&after=ann")
	if page["next"] != nil || len(page["members"].([]any)) != 1 || page["members"].([]any)[0].(roomstest.Object)["since"].(float64) < 1e12 {
		t.Errorf("second member: %v", page)
	}
	same(t, "a room with nobody", look(t, c, "/rooms/default/rooms/..%2F..%2Fx"), `{"room":"../../x","count":0,"connections":0,"members":[],"next":null}`)

	user := look(t, c, "/rooms/default/users/ann")
	same(t, "user", user, `{"user":"ann","online":true,"source":"memory","status":"online","devices":["desk","phone"],"conns":2,"connections":[
		{"rooms":["team/red"]},{"rooms":["team/red"]}]}`, "since", "last_seen", "conn", "device")
	if user["since"].(float64) < 1e12 || user["last_seen"].(float64) < user["since"].(float64) {
		t.Errorf("user: %v", user)
	}
	same(t, "a user with a slash", look(t, c, "/rooms/default/users/b%2Fb"), `{"user":"b/b","online":true,"source":"memory","status":"online","devices":[],"conns":1,
		"connections":[{"conn":"`+bob.Conn+`","rooms":["den","team/red"]}]}`, "since", "last_seen")
	same(t, "a user who is away", look(t, c, "/rooms/default/users/cid"), `{"user":"cid","online":false,"source":"memory","connections":[]}`)

	same(t, "connections", look(t, c, "/rooms/default/connections?user=ann&room=team/red&limit=1000"), `{"connections":[
		{"user":"ann","rooms":["team/red"]},{"user":"ann","rooms":["team/red"]}],"next":null}`, "since", "conn", "device")
	same(t, "connections in a room", look(t, c, "/rooms/default/connections?room=den"), `{"connections":[
		{"conn":"`+bob.Conn+`","user":"b/b","rooms":["den","team/red"]}],"next":null}`, "since")
	first := look(t, c, "/rooms/default/connections?limit=2")
	rest := look(t, c, "/rooms/default/connections?limit=2&after="+first["next"].(string))
	if len(first["connections"].([]any)) != 2 || len(rest["connections"].([]any)) != 1 || rest["next"] != nil {
		t.Errorf("connections: %v, %v", first, rest)
	}
	dial(t, c, "dan")
	same(t, "a connection in no room", look(t, c, "/rooms/default/connections?user=dan"), `{"connections":[{"user":"dan","rooms":[]}],"next":null}`, "since", "conn")
}

func TestAdminRefuses(t *testing.T) {
	c := caddytest.StartText(t, adminConfig)
	long := strings.Repeat("x", 257)
	for _, test := range []struct {
		request string // method, path, body
		status  int
		words   string // part of the error
	}{
		{"GET /rooms/nowhere/rooms", 404, `no hub "nowhere" (there are: default, health)`},
		{"GET /rooms/default", 404, "nothing is at /rooms/default "},
		{"GET /rooms/default/nothing", 404, "nothing is at /rooms/default/nothing "},
		{"GET /rooms/default/users", 404, "nothing is at"},
		{"GET /rooms/default/connections/c1", 404, "nothing is at"},
		{"POST /rooms/", 405, "(allowed: GET, HEAD)"},
		{"DELETE /rooms/default/rooms/lobby", 405, "(allowed: GET, HEAD)"},
		{"HEAD /rooms/default/tail/lobby", 405, ""},
		{"GET /rooms/default/kick", 405, "(allowed: POST)"},
		{"POST /rooms/health/live", 405, "(allowed: GET, HEAD)"},
		{"PUT /rooms/health/ready", 405, "(allowed: GET, HEAD)"},

		{"GET /rooms/?limit=1", 400, `unknown parameter "limit" (allowed: none)`},
		{"GET /rooms/default/rooms?room=x", 400, `unknown parameter "room" (allowed: prefix, after, limit)`},
		{"GET /rooms/default/rooms?limit=0", 400, `bad limit "0" (allowed: 1 to 1000)`},
		{"GET /rooms/default/rooms?limit=1001", 400, `bad limit "1001" (allowed: 1 to 1000)`},
		{"GET /rooms/default/rooms?limit=many", 400, `bad limit "many" (allowed: 1 to 1000)`},
		{"GET /rooms/default/rooms?limit=", 400, `bad limit ""`},
		{"GET /rooms/default/rooms?limit=1&limit=2", 400, `parameter "limit" is given 2 times`},
		{"GET /rooms/default/rooms?limit=%zz", 400, "query: "},
		{"GET /rooms/default/rooms?prefix=a%20b", 400, `room "a b": `},
		{"GET /rooms/default/rooms/a%20b", 400, `room "a b": "room" may only have`},
		{"GET /rooms/default/rooms/", 400, `room is missing`},
		{"GET /rooms/default/rooms/" + strings.Repeat("x", 201), 400, "longer than 200"},
		{"GET /rooms/default/rooms/%2E%2E", 400, "can't be . or .."},
		{"GET /rooms/default/tail/a%20b", 400, `room "a b": `},
		{"GET /rooms/default/tail/lobby?limit=1", 400, `unknown parameter "limit" (allowed: none)`},
		{"GET /rooms/default/users/", 400, "bad user"},
		{"GET /rooms/default/users/a%0Ab", 400, `bad user "a\nb" (allowed: 1 to 256 bytes`},
		{"GET /rooms/default/users/a%FF", 400, "bad user"},
		{"GET /rooms/default/users/" + long, 400, "bad user"},
		{"GET /rooms/default/connections?user=", 400, "bad user"},
		{"GET /rooms/default/connections?room=", 400, `room is missing`},
		{"GET /rooms/health/ready?strict=maybe", 400, `bad strict "maybe"`},
		{"GET /rooms/health/ready?stric", 400, `unknown parameter "stric" (allowed: strict)`},

		{"POST /rooms/default/disconnect", 400, "bad body: EOF"},
		{"POST /rooms/default/disconnect {}", 400, "exactly one of them"},
		{"POST /rooms/default/disconnect null", 400, "it can't be a JSON null"},
		{`POST /rooms/default/disconnect {"user":"ann","conn":"c1"}`, 400, `user "ann" and conn "c1": exactly one`},
		{`POST /rooms/default/disconnect {"user":"ann","room":"lobby"}`, 400, `unknown field "room" (allowed: {"user":"…"} or {"conn":"…"})`},
		{`POST /rooms/default/disconnect {"user":42}`, 400, "user can't be a JSON number"},
		{`POST /rooms/default/disconnect {"user":"ann"} {}`, 400, "something follows"},
		{`POST /rooms/default/disconnect {"user":"` + long + `"}`, 400, "bad user"},
		{`POST /rooms/default/disconnect {"conn":"\u0000"}`, 400, "bad conn"},
		{`POST /rooms/default/disconnect {"user":"` + strings.Repeat("x", 64<<10) + `"}`, 413, "allowed: 65536 bytes"},
		{`POST /rooms/default/disconnect?user=ann {"user":"ann"}`, 400, `unknown parameter "user"`},
		{`POST /rooms/default/kick {"user":"ann"}`, 400, `room is missing`},
		{`POST /rooms/default/kick {"room":"lobby"}`, 400, "exactly one of them"},
		{`POST /rooms/default/kick {"room":"a b","user":"ann"}`, 400, `room "a b"`},

		{`POST /rooms/default/publish {"room":"lobby"}`, 400, `"data" is missing`},
		{`POST /rooms/default/publish {"room":"","data":1}`, 400, `room is missing`},
		{`POST /rooms/default/publish {"room":"lobby","event":"a\nb","data":1}`, 400, "control character"},
		{`POST /rooms/default/publish {"room":"lobby","event":"` + strings.Repeat("x", 65) + `","data":1}`, 400, "longer than 64 bytes"},
		{`POST /rooms/default/publish {"room":"lobby","data":"` + "\xff" + `"}`, 400, "not UTF-8"},
		{`POST /rooms/default/publish {"room":"lobby","data":nonsense}`, 400, "bad body: "},
		{`POST /rooms/default/publish {"room":"lobby","data":1,"from":"ann"}`, 400, `unknown field "from"`},
		{`POST /rooms/default/publish {"room":"lobby","data":"` + strings.Repeat("x", 1024) + `"}`, 413, "allowed: 1024 bytes"},
	} {
		method, rest, _ := strings.Cut(test.request, " ")
		path, body, _ := strings.Cut(rest, " ")
		if method == http.MethodHead {
			resp, err := http.Head("http://" + c.Admin + path)
			if err != nil || resp.StatusCode != test.status || resp.Header.Get("Allow") != "GET" {
				t.Errorf("%s: %v, %v", test.request, resp, err)
			}
			continue
		}
		status, answer, header := ask(t, c, method, path, body)
		if words, _ := answer["error"].(string); status != test.status || !strings.Contains(words, test.words) {
			t.Errorf("%.120s: %d %v, want %d with %s", test.request, status, answer, test.status, test.words)
		}
		if status == http.StatusMethodNotAllowed && !strings.Contains(test.words, header.Get("Allow")) || (header.Get("Allow") != "") != (status == http.StatusMethodNotAllowed) {
			t.Errorf("%s: Allow is %q", test.request, header.Get("Allow"))
		}
	}
}

func TestAdminAcrossInstances(t *testing.T) {
	a, b, redis := startTwo(t)
	ann, annThere, bob := dial(t, a, "ann"), dial(t, b, "ann"), dial(t, b, "bob")
	ann.Join("lobby")
	bob.Join("lobby")
	ann.Next("presence")
	bob.Join("team/red")

	same(t, "hubs", look(t, a, "/rooms/"), `{"hubs":[
		{"hub":"default","redis":"`+redis.URL()+`","state":"open","connections":1,"rooms":1,"members":1}]}`, "node")
	same(t, "rooms here", look(t, a, "/rooms/default/rooms"), `{"rooms":[{"room":"lobby","count":2,"connections":1}],"next":null}`)
	same(t, "a room of the other instance", look(t, a, "/rooms/default/rooms/team%2Fred"), `{"room":"team/red","count":1,"connections":0,
		"members":[{"user":"bob","status":"online","state":{},"conns":1}],"next":null}`, "since")
	a.Wait("both connections of ann to be known", func() bool { return look(t, a, "/rooms/default/users/ann")["conns"] == 2.0 })
	same(t, "a user on both", look(t, a, "/rooms/default/users/ann"), `{"user":"ann","online":true,"source":"redis","status":"online","devices":[],"conns":2,
		"connections":[{"conn":"`+ann.Conn+`","rooms":["lobby"]}]}`, "since", "last_seen")
	same(t, "a user of the other instance", look(t, a, "/rooms/default/users/bob"), `{"user":"bob","online":true,"source":"redis","status":"online","devices":[],"conns":1,
		"connections":[]}`, "since", "last_seen")

	same(t, "publish", post(t, a, "/rooms/default/publish", `{"room":"lobby","event":"notice","data":{"text":"noon"}}`), `{"room":"lobby"}`)
	same(t, "publish where nobody is here", post(t, a, "/rooms/default/publish", `{"room":"team/red","data":null}`), `{"room":"team/red"}`)
	same(t, "ann hears", ann.Next("message"), `{"type":"message","room":"lobby","event":"notice","data":{"text":"noon"},"from":null}`, "ts")
	same(t, "bob hears", bob.Next("message"), `{"type":"message","room":"lobby","event":"notice","data":{"text":"noon"},"from":null}`, "ts")
	same(t, "bob hears", bob.Next("message"), `{"type":"message","room":"team/red","event":"message","data":null,"from":null}`, "ts")

	same(t, "kick", post(t, a, "/rooms/default/kick", `{"room":"lobby","user":"bob"}`), `{"connections":1}`)
	same(t, "bob is told", bob.Next("left"), `{"type":"left","room":"lobby","reason":"kicked"}`)
	same(t, "ann sees", ann.Next("presence")["events"], `[{"op":"leave","user":"bob","reason":"kicked"}]`)
	same(t, "kick of a connection that is in another room", post(t, b, "/rooms/default/kick", `{"room":"lobby","conn":"`+bob.Conn+`"}`), `{"connections":0}`)
	same(t, "kick of a connection", post(t, b, "/rooms/default/kick", `{"room":"team/red","conn":"`+bob.Conn+`"}`), `{"connections":1}`)
	bob.Next("left")

	same(t, "disconnect", post(t, a, "/rooms/default/disconnect", `{"user":"ann"}`), `{"connections":2}`)
	for _, c := range []*roomstest.Client{ann, annThere} {
		if code := c.Closed(); code != 4005 {
			t.Errorf("closed with %d", code)
		}
	}
	same(t, "disconnect of a connection elsewhere", post(t, a, "/rooms/default/disconnect", `{"conn":"`+bob.Conn+`"}`), `{"connections":1}`)
	if code := bob.Closed(); code != 4005 {
		t.Errorf("closed with %d", code)
	}
	a.Wait("ann to be offline", func() bool { return look(t, b, "/rooms/default/users/ann")["online"] == false })
}

// TestOrderWithoutRedis has whoever gives an order learn that it stays on this instance.
func TestOrderWithoutRedis(t *testing.T) {
	a, _, redis := startTwo(t)
	redis.Kill()
	a.WaitLog("redis connection lost")
	same(t, "kick", post(t, a, "/rooms/default/kick", `{"room":"lobby","user":"bob"}`), `{"connections":0,"degraded":true}`)
	same(t, "disconnect", post(t, a, "/rooms/default/disconnect", `{"conn":"c1"}`), `{"connections":0,"degraded":true}`)
}

// TestAdminShowsOnlyWhatCanBeSeen has a client say what would steer the terminal of whoever looks with curl.
func TestAdminShowsOnlyWhatCanBeSeen(t *testing.T) {
	c := caddytest.StartText(t, adminConfig)
	const text = "\u009b31m\u202e\u007f\U000e0041é"
	heard, ann := tail(t, c, "lobby"), dial(t, c, "ann")
	ann.Send(`{"type":"join","id":1,"room":"lobby","state":{"text":"%s"}}`, text)
	ann.Next("ack")
	ann.Send(`{"type":"publish","room":"lobby","data":"%s"}`, text)
	resp, err := http.Get("http://" + c.Admin + "/rooms/default/rooms/lobby")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	shown, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	line, err := heard.lines.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range [][]byte{shown, line} {
		if want := `"\u009b31m\u202e\u007f\udb40\udc41é"`; !strings.Contains(string(doc), want) {
			t.Errorf("shown is %q, want %s in it", doc, want)
		}
	}
}
