package module

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

func TestAPIRefuses(t *testing.T) {
	b := newBackend(t, startAPI(t, memoryAPIConfig))
	brackets := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, test := range []struct {
		request string // method, path, body
		status  int
		code    string
		words   string
	}{
		// Names
		{"POST /rooms/a%20b/messages {\"data\":1}", 400, "bad_request", `bad room "a b"`},
		{"POST /rooms//messages {\"data\":1}", 400, "bad_request", "room is missing"},
		{"GET /rooms/", 400, "bad_request", "room is missing"},
		{"GET /rooms/" + strings.Repeat("x", 201), 400, "bad_request", "longer than 200"},
		{"POST /users/ann/join {\"room\":\"..\"}", 400, "bad_request", `"room" can't be . or ..`},
		{"GET /rooms/team/red", 404, "not_found", "a slash in a name is %2F"},
		{"GET /rooms/%FF/members", 400, "bad_request", "bad room"},
		{"GET /users/", 400, "bad_request", `bad user ""`},
		{"GET /users/a%0Ab", 400, "bad_request", `bad user "a\nb" (allowed: 1 to 256 bytes`},
		{"GET /users/a%00", 400, "bad_request", "bad user"},
		{"GET /users/a%FF", 400, "bad_request", "bad user"},
		{"GET /users/" + strings.Repeat("x", 257), 400, "bad_request", "bad user"},
		{"GET /users/" + strings.Repeat("%C3%A9", 150), 400, "bad_request", "bad user"},
		{"POST /users//join {\"room\":\"lobby\"}", 400, "bad_request", `bad user ""`},
		{"DELETE /users/a%01/ban", 400, "bad_request", "bad user"},
		{"POST /users/a%01/messages {\"data\":1}", 400, "bad_request", "bad user"},
		{"POST /users/a%01/disconnect", 400, "bad_request", "bad user"},
		{"PUT /rooms/a%20b/limits {}", 400, "bad_request", "bad room"},
		{"DELETE /rooms/a%20b/limits", 400, "bad_request", "bad room"},
		{"POST /rooms/a%20b/kick {\"user\":\"ann\"}", 400, "bad_request", "bad room"},

		// Parameters
		{"GET /rooms?room=x", 400, "bad_request", `unknown parameter "room" (allowed: prefix, after, limit)`},
		{"GET /rooms?limit=0", 400, "bad_request", `bad limit "0" (allowed: 1 to 1000)`},
		{"GET /rooms?limit=1001", 400, "bad_request", `bad limit "1001"`},
		{"GET /rooms?limit=1&limit=2", 400, "bad_request", "given 2 times"},
		{"GET /rooms?prefix=a%20b", 400, "bad_request", `bad room "a b"`},
		{"GET /rooms/lobby?x", 400, "bad_request", "unknown parameter"},
		{"GET /rooms/lobby/members?prefix=x", 400, "bad_request", "unknown parameter"},
		{"GET /users/ann?x", 400, "bad_request", "unknown parameter"},
		{"GET /stats?x=%zz", 400, "bad_request", "query: "},
		{"GET /stats?x", 400, "bad_request", "unknown parameter"},
		{"POST /messages?x {}", 400, "bad_request", "unknown parameter"},
		{"POST /rooms/lobby/kick?x {}", 400, "bad_request", "unknown parameter"},
		{"POST /users/ann/disconnect?x", 400, "bad_request", "unknown parameter"},
		{"DELETE /users/ann/ban?x", 400, "bad_request", "unknown parameter"},
		{"DELETE /rooms/lobby/limits?x", 400, "bad_request", "unknown parameter"},
		{"DELETE /limits/join/ann?x", 400, "bad_request", "unknown parameter"},

		// Bodies
		{"POST /rooms/lobby/messages", 400, "bad_request", "body is missing"},
		{"POST /rooms/lobby/messages {}", 400, "bad_request", `"data" is missing`},
		{"POST /rooms/lobby/messages null", 400, "bad_request", "it can't be a JSON null"},
		{"POST /rooms/lobby/messages []", 400, "bad_request", "it can't be a JSON array"},
		{"POST /rooms/lobby/messages {\"data\":", 400, "bad_request", "bad body: unexpected EOF"},
		{"POST /rooms/lobby/messages {\"data\":1}{}", 400, "bad_request", "something follows"},
		{"POST /rooms/lobby/messages {\"data\":1} x", 400, "bad_request", "something follows"},
		{"POST /rooms/lobby/messages {\"data\":nonsense}", 400, "bad_request", "bad body"},
		{"POST /rooms/lobby/messages {\"data\":01}", 400, "bad_request", "bad body"},
		{"POST /rooms/lobby/messages {\"data\":1,}", 400, "bad_request", "bad body"},
		{"POST /rooms/lobby/messages {\"data\":\"\xff\"}", 400, "bad_request", "body is not UTF-8"},
		{"POST /rooms/lobby/messages {\"data\":1,\"room\":\"den\"}", 400, "bad_request", `unknown field "room"`},
		{"POST /rooms/lobby/messages {\"data\":1,\"event\":7}", 400, "bad_request", "event can't be a JSON number"},
		{"POST /rooms/lobby/messages {\"data\":1,\"event\":\"" + strings.Repeat("x", 65) + "\"}", 400, "bad_request", "longer than 64 bytes"},
		{"POST /rooms/lobby/messages {\"data\":1,\"event\":\"a\\u0000\"}", 400, "bad_request", "control character"},
		{"POST /rooms/lobby/messages {\"data\":1,\"to_user\":\"\"}", 400, "bad_request", `bad to_user ""`},
		{"POST /rooms/lobby/messages {\"data\":1,\"to_user\":null}", 400, "bad_request", `bad to_user ""`},
		{"POST /rooms/lobby/messages {\"data\":1,\"to_user\":7}", 400, "bad_request", "can't be a JSON number"},
		{"POST /rooms/lobby/messages {\"data\":1,\"exclude_conn\":\"\"}", 400, "bad_request", `bad exclude_conn ""`},
		{"POST /rooms/lobby/messages {\"data\":1,\"exclude_user\":\"" + strings.Repeat("x", 257) + "\"}", 400, "bad_request", `bad exclude_user "xxx`},
		{"POST /users/ann/messages {\"data\":1,\"to_user\":\"ann\"}", 400, "bad_request", `unknown field "to_user"`},
		{"POST /rooms/lobby/messages {\"data\":\"" + strings.Repeat("x", 1024) + "\"}", 413, "too_large", "body is too long (allowed: 1024 bytes)"},
		{"POST /users/ann/messages {\"data\":\"" + strings.Repeat("x", 1024) + "\"}", 413, "too_large", "allowed: 1024 bytes"},
		{"POST /messages {\"messages\":7}", 400, "bad_request", "messages can't be a JSON number"},
		{"POST /messages {\"messages\":[{\"room\":\"lobby\",\"data\":" + brackets(10_000) + "}]}", 400, "bad_request", "exceeded max depth"},
		{"POST /rooms/lobby/kick {}", 400, "bad_request", "exactly one of them"},
		{"POST /rooms/lobby/kick {\"user\":\"ann\",\"conn\":\"c\"}", 400, "bad_request", "exactly one of them"},
		{"POST /rooms/lobby/kick {\"user\":\"\"}", 400, "bad_request", `bad user ""`},
		{"POST /rooms/lobby/kick {\"conn\":null}", 400, "bad_request", `bad conn ""`},
		{"POST /rooms/lobby/kick {\"conn\":\"" + strings.Repeat("x", 64<<10) + "\"}", 413, "too_large", "allowed: 65536 bytes"},
		{"POST /users/ann/disconnect null", 400, "bad_request", "it can't be a JSON null"},
		{"PUT /rooms/lobby/limits null", 400, "bad_request", "it can't be a JSON null"},
		{"POST /users/ann/disconnect {\"conn\":\"\"}", 400, "bad_request", `bad conn ""`},
		{"POST /users/ann/disconnect {\"conn\":null}", 400, "bad_request", `bad conn ""`},
		{"POST /users/ann/disconnect {\"conn\":\"c\",\"ban\":\"1m\"}", 400, "bad_request", `both "conn" and "ban"`},
		{"POST /users/ann/disconnect {\"ban\":\"\"}", 400, "bad_request", `bad ban "" (allowed: 1s to 720h0m0s)`},
		{"POST /users/ann/disconnect {\"ban\":null}", 400, "bad_request", `bad ban ""`},
		{"POST /users/ann/disconnect {\"ban\":\"999ms\"}", 400, "bad_request", `bad ban "999ms"`},
		{"POST /users/ann/disconnect {\"ban\":\"31d\"}", 400, "bad_request", `bad ban "31d"`},
		{"POST /users/ann/disconnect {\"ban\":60}", 400, "bad_request", "can't be a JSON number"},
		{"POST /users/ann/join {}", 400, "bad_request", "room is missing"},
		{"POST /users/ann/leave {\"room\":\"a b\"}", 400, "bad_request", "bad room"},
		{"PUT /rooms/lobby/limits {\"publish\":{}}", 400, "bad_request", "bad events 0 (allowed: 1 to 1000000)"},
		{"PUT /rooms/lobby/limits {\"publish\":{\"events\":1}}", 400, "bad_request", `bad window ""`},
		{"PUT /rooms/lobby/limits {\"publish\":{\"events\":1,\"window\":\"1ms\"}}", 400, "bad_request", `bad window "1ms"`},
		{"PUT /rooms/lobby/limits {\"publish\":{\"events\":1.5,\"window\":\"1s\"}}", 400, "bad_request", "publish.events can't be a JSON number"},
		{"PUT /rooms/lobby/limits {\"publish\":null}", 400, "bad_request", "publish can't be a JSON null"},
		{"PUT /rooms/lobby/limits {\"publish\":7}", 400, "bad_request", "can't be a JSON number"},
		{"PUT /rooms/lobby/limits {\"publish\":{\"burst\":7}}", 400, "bad_request", `unknown field "burst"`},
		{"PUT /rooms/lobby/limits {\"join\":{}}", 400, "bad_request", `unknown field "join"`},
		{"PUT /rooms/lobby/limits", 400, "bad_request", "body is missing"},
		{"DELETE /limits/nothing/ann", 404, "not_found", `no limit "nothing"`},

		// Methods
		{"GET /messages", 405, "bad_request", "(allowed: POST)"},
		{"POST /rooms/lobby/limits {}", 405, "bad_request", "(allowed: PUT, DELETE)"},
		{"OPTIONS /rooms/lobby/messages", 405, "bad_request", "(allowed: POST)"},
		{"GET /users/ann/ban", 405, "bad_request", "(allowed: DELETE)"},
	} {
		method, rest, _ := strings.Cut(test.request, " ")
		path, body, _ := strings.Cut(rest, " ")
		b.refused(method, path, body, test.status, test.code, test.words)
	}

	const message = `{"data":1}`
	for _, media := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/json, text/plain", "application/jsonp", "\xff"} {
		b.with("Content-Type", media).refused("POST", "/rooms/lobby/messages", message, 415, "bad_request", "(allowed: application/json)")
		b.with("Content-Type", media).refused("POST", "/users/ann/disconnect", `{}`, 415, "bad_request", "(allowed: application/json)")
	}
	b.with("Content-Type", "Application/JSON; charset=utf-8").do("POST", "/rooms/lobby/messages", message)
	for _, key := range [][]string{{""}, {"a b"}, {"é"}, {strings.Repeat("x", 201)}, {"a", "b"}} {
		b.with(idempotencyField, key...).refused("POST", "/rooms/lobby/messages", message, 400, "bad_request", "(allowed: one, of 1 to 200 visible ASCII characters)")
	}
	b.with("Sec-Fetch-Site", "cross-site").refused("POST", "/rooms/lobby/messages", message, 403, "forbidden", "cross-origin")
}

// TestAPINames has users with names that a path must not be split at, or cleaned of.
func TestAPINames(t *testing.T) {
	// No path matcher stands before it: Caddy's cleans what it matches.
	c := startAPI(t, strings.Replace(memoryAPIConfig, "rooms_api /api/*", "rooms_api", 1))
	b := &backend{t: t, c: c, header: http.Header{"Authorization": {"Bearer " + apiSecret}}}
	b.contract = newContract(t, "", b.send("GET", "/openapi.json", "").raw)
	for _, user := range []string{"a/b", "100%", "%2F", "a b", "../x", "x/..", "...", "a?b#c", "日本", `"<&>"`, "a+b;c=d", strings.Repeat("é", 128)} {
		path := url.PathEscape(user)
		client := roomstest.Dial(t, c.URL("/ws?user="+url.QueryEscape(user)), nil)
		same(t, user, b.do("POST", "/users/"+path+"/join", `{"room":"lobby"}`)["connections"], "1")
		client.Next("ack")
		b.do("POST", "/users/"+path+"/messages", `{"data":1}`)
		if m := client.Next("message"); m["to"] != user {
			t.Errorf("%s: %v", user, m)
		}
		if u := b.do("GET", "/users/"+path, ""); u["user"] != user || u["online"] != true {
			t.Errorf("%s is %v", user, u)
		}
		same(t, user, b.do("POST", "/users/"+path+"/disconnect", "")["connections"], "1")
	}
}

// TestAPINamesLikePaths asks for users and rooms whose names, decoded, would lead a path out of the API: they get no answer but the API's. What is
// elsewhere is not the API's.
func TestAPINamesLikePaths(t *testing.T) {
	const elsewhere = "\n\trespond elsewhere 418\n}"
	for _, guard := range []string{"secret {env.NEW_SECRET}", "unprotected"} {
		config := strings.Replace(memoryAPIConfig, "secret {env.NEW_SECRET} {env.OLD_SECRET}", guard, 1)
		b := newBackend(t, startAPI(t, strings.TrimSuffix(config, "\n}")+elsewhere))
		others := []string{"/", "/api", "/apis/health", "/x/api/health"}
		for path, name := range map[string]string{
			"/users/..%2F..%2Fx": "../../x", "/rooms/..%2F..%2Fx": "../../x", "/rooms/a%2F..%2F..%2F..%2Fws": "a/../../../ws", "/users/%2e%2e%2f.%2e": "../..",
		} {
			if guard == "unprotected" {
				others = append(others, "/api"+path) // or it would be past what may be in front
			} else if answer := b.do("GET", path, ""); answer["user"] != name && answer["room"] != name {
				t.Errorf("%s: %v", path, answer)
			}
		}
		for _, path := range others {
			resp, err := http.Get("http://" + b.c.Addr + path)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusTeapot {
				t.Errorf("%s: %d", path, resp.StatusCode)
			}
		}
	}
}

// TestAPIDeepAndDouble says what happens to what JSON leaves open: nesting is allowed as deeply as encoding/json reads it, and of a field that
// comes twice the last one counts.
func TestAPIDeepAndDouble(t *testing.T) {
	c := startAPI(t, strings.Replace(memoryAPIConfig, "max_frame 1KiB", "max_frame 64KiB", 1))
	b := newBackend(t, c)
	ann := dial(t, c, "ann")
	ann.Join("lobby")
	deep := strings.Repeat("[", 9_999) + strings.Repeat("]", 9_999)
	b.send("POST", "/rooms/lobby/messages", `{"data":`+deep+`}`)
	if _, frame, err := ann.WS.Read(t.Context()); err != nil || !bytes.Contains(frame, []byte(deep)) {
		t.Errorf("%.100s: %v", frame, err)
	}
	b.refused("POST", "/rooms/lobby/messages", `{"data":[`+deep+`]}`, 400, "bad_request", "exceeded max depth")
	b.do("POST", "/rooms/lobby/messages", `{"data":1,"event":"first","data":2,"event":"last"}`)
	same(t, "twice", ann.Next("message"), `{"type":"message","room":"lobby","event":"last","data":2,"from":null}`, "ts")
}

// TestAPIRawRequests sends what an HTTP client would not.
func TestAPIRawRequests(t *testing.T) {
	c := startAPI(t, memoryAPIConfig)
	for _, test := range []struct{ request, status string }{
		{"GET /api/users/../health HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + apiSecret + "\r\n\r\n", "404"},
		{"GET /api/users/%zz HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + apiSecret + "\r\n\r\n", "400"},
		{"GET http://x/api/health HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + apiSecret + "\r\n\r\n", "200"},
		{"GET /api/health HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + apiSecret + "\r\nAuthorization: Bearer wrong\r\n\r\n", "401"},
		{"POST /api/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + apiSecret + "\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "400"},
	} {
		conn, err := net.Dial("tcp", c.Addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(roomstest.Patience))
		if _, err := io.WriteString(conn, test.request); err != nil {
			t.Fatal(err)
		}
		line := make([]byte, len("HTTP/1.1 200"))
		if _, err := io.ReadFull(conn, line); err != nil || !strings.HasSuffix(string(line), test.status) {
			t.Errorf("%q: %q %v, want %s", test.request, line, err, test.status)
		}
		conn.Close()
	}
}

func TestAPIIdempotency(t *testing.T) {
	onBoth(t, apiConfig, func(t *testing.T, h here) {
		there := *h.backend
		there.c = h.other
		ann := dial(t, h.other, "ann")
		ann.Send(`{"type":"join","room":"lobby","presence":"none"}`)
		ann.Next("ack")
		key := "key-" + h.c.Addr
		once, again := h.with(idempotencyField, key), there.with(idempotencyField, key)
		for _, path := range []string{"/rooms/lobby/messages", "/users/ann/messages", "/messages"} {
			body := `{"data":"` + path + `"}`
			if path == "/messages" {
				body = `{"messages":[{"user":"ann","data":1},{"room":"a b","data":1}]}`
			}
			once, again := h.with(idempotencyField, key+path), there.with(idempotencyField, key+path)
			first := once.send("POST", path, body)
			for _, b := range []*backend{once, again} {
				replay := b.send("POST", path, body)
				if first.status != http.StatusOK || replay.status != http.StatusOK || first.header.Get(replayedField) != "" || replay.header.Get(replayedField) != "true" ||
					!bytes.Equal(first.raw, replay.raw) {
					t.Errorf("%s: %d %s, then %d %v %s", path, first.status, first.raw, replay.status, replay.header, replay.raw)
				}
			}
			ann.Next("message")
			ann.Quiet()
			for _, b := range []*backend{once, again} {
				b.refused("POST", path, body+" ", 422, "bad_request", "another request had this Idempotency-Key")
			}
		}
		again.refused("POST", "/rooms/lobby/messages", `{"data":1,"x":1}`, 400, "bad_request", "unknown field")
		once.do("POST", "/rooms/lobby/messages", `{"data":1}`) // what was refused is not kept
		again.refused("POST", "/rooms/den/messages", `{"data":1}`, 422, "bad_request", "another path")
		ann.Next("message")

		// Many at once: one is done, the others are its replays, or too early.
		var wg sync.WaitGroup
		results := make(chan string, 40)
		for i := range cap(results) {
			b := h.with(idempotencyField, key+"-many")
			if i%2 == 0 {
				b = there.with(idempotencyField, key+"-many")
			}
			wg.Go(func() {
				a := b.exchange("POST", "/rooms/lobby/messages", `{"data":"many"}`, false)
				results <- fmt.Sprint(a.status, a.header.Get(replayedField), a.header.Get("Retry-After"))
			})
		}
		wg.Wait()
		close(results)
		seen := map[string]int{}
		for r := range results {
			seen[r]++
		}
		if seen["200"] != 1 || seen["200"]+seen["200true"]+seen["4091"] != cap(results) {
			t.Errorf("%v", seen)
		}
		if m := ann.Next("message"); m["data"] != "many" {
			t.Errorf("%v", m)
		}
		ann.Quiet()
	})
}

// TestAPILimit has a limit that is of the room hold for the API, and say so as RFC 9457 and the fields for limits have it.
func TestAPILimit(t *testing.T) {
	config := strings.Replace(apiConfig, "max_frame 1KiB", `max_frame 1KiB
		limit room_pace {
			on publish
			key {rooms.room}
			events 3
			window 1h
		}
		limit strict_pace {
			on publish
			key all:{rooms.room}
			events 100
			window 1h
			on_outage deny
		}`, 1)
	a, b, redis := startTwoAPIs(t, config)
	here, there := newBackend(t, a), newBackend(t, b)
	ann := dial(t, a, "ann")
	ann.Send(`{"type":"join","room":"lobby","presence":"none"}`)
	ann.Next("ack")
	for _, backend := range []*backend{here, there} {
		backend.do("POST", "/rooms/lobby/messages", `{"data":1}`)
		ann.Next("message")
	}
	ann.Send(`{"type":"publish","id":1,"room":"lobby","data":1}`)
	ann.Next("ack")
	for _, backend := range []*backend{here, there} {
		got := backend.refused("POST", "/rooms/lobby/messages", `{"data":1}`, 429, "rate_limited", `limit "room_pace" of 3 per 1h0m0s reached`)
		limit, _ := got.body["limit"].(roomstest.Object)
		same(t, "limit", limit, `{"name":"room_pace","events":3,"window":3600000,"remaining":0}`, "reset")
		after, _ := got.body["retry_after"].(float64)
		var seconds int
		if _, err := fmt.Sscan(got.header.Get("Retry-After"), &seconds); err != nil || after <= 0 || float64(seconds) < after/1000 || float64(seconds) > after/1000+1 {
			t.Errorf("retry_after is %v, Retry-After %q", after, got.header.Get("Retry-After"))
		}
		if got.header.Get("RateLimit-Policy") != `"room_pace";q=3;w=3600` || !strings.HasPrefix(got.header.Get("RateLimit"), `"room_pace";r=0;t=`) {
			t.Errorf("fields %v", got.header)
		}
	}
	batch := here.send("POST", "/messages", `{"messages":[{"room":"lobby","data":1},{"user":"ann","data":2},{"room":"den","data":3}]}`)
	results := batch.body["results"].([]any)
	if first := results[0].(roomstest.Object); batch.body["failed"] != 1.0 || first["status"] != 429.0 || first["code"] != "rate_limited" || first["limit"] == nil ||
		first["retry_after"] == nil || first["type"] != nil || first["title"] != nil {
		t.Errorf("%s", batch.raw)
	}
	if m := ann.Next("message"); m["data"] != 2.0 {
		t.Errorf("%v", m)
	}
	ann.Quiet()

	redis.Kill()
	a.WaitLog("redis connection lost")
	got := here.refused("POST", "/rooms/den/messages", `{"data":1}`, 503, "unavailable", `limit "strict_pace" can't be decided now`)
	if got.body["limit"] != nil || got.body["retry_after"] == nil || got.header.Get("Retry-After") == "" {
		t.Errorf("%s %v", got.raw, got.header)
	}
}

// TestAPIWithoutRedis has every answer say that it may not hold elsewhere.
func TestAPIWithoutRedis(t *testing.T) {
	a, _, redis := startTwoAPIs(t, apiConfig)
	b := newBackend(t, a)
	ann := dial(t, a, "ann")
	ann.Join("lobby")
	redis.Kill()
	a.WaitLog("redis connection lost")
	checkDegraded(t, b, ann, true)
	if h := b.do("GET", "/health", ""); h["status"] != "degraded" {
		t.Errorf("%v", h)
	}
	if a := b.exchange("GET", "/health?strict", "", false); a.status != http.StatusServiceUnavailable || a.body["status"] != "degraded" {
		t.Errorf("%d %s", a.status, a.raw)
	}
	batch := b.do("POST", "/messages", `{"messages":[{"room":"lobby","data":1}]}`)
	if batch["results"].([]any)[0].(roomstest.Object)["degraded"] != true {
		t.Errorf("%v", batch)
	}
	ann.Next("message")
	once := b.with(idempotencyField, "away")
	first, replay := once.exchange("POST", "/rooms/lobby/messages", `{"data":2}`, false), once.exchange("POST", "/rooms/lobby/messages", `{"data":2}`, false)
	if first.body["degraded"] != true || replay.header.Get(replayedField) != "true" || !bytes.Equal(first.raw, replay.raw) {
		t.Errorf("%s, then %s", first.raw, replay.raw)
	}
}

// checkDegraded asks for everything, and expects that answers say that they are degraded, or that they don't.
func checkDegraded(t *testing.T, b *backend, ann *roomstest.Client, want bool) {
	t.Helper()
	for _, request := range []string{
		`POST /rooms/lobby/messages {"data":1}`, `POST /users/ann/messages {"data":1}`,
		`GET /rooms`, `GET /rooms/lobby`, `GET /rooms/lobby/members`, `GET /users/ann`, `GET /stats`,
		`PUT /rooms/lobby/limits {"publish":{"events":1,"window":"10s"}}`, `DELETE /rooms/lobby/limits`,
		`POST /users/ann/join {"room":"den"}`, `POST /users/ann/leave {"room":"den"}`, `POST /rooms/den/kick {"user":"ann"}`,
		`POST /users/bob/disconnect`, `POST /users/bob/disconnect {"ban":"1m"}`, `DELETE /users/bob/ban`, `DELETE /limits/connect/127.0.0.1`,
	} {
		method, rest, _ := strings.Cut(request, " ")
		path, body, _ := strings.Cut(rest, " ")
		if answer := b.do(method, path, body); (answer["degraded"] == true) != want {
			t.Errorf("%s: %v", request, answer)
		}
	}
	for range 4 { // two messages, join and leave
		ann.Next("message", "ack", "left")
	}
}

// TestAPIReload reloads while requests run: none is answered by an error.
func TestAPIReload(t *testing.T) {
	a, _, _ := startTwoAPIs(t, apiConfig)
	b := newBackend(t, a)
	ann := dial(t, a, "ann")
	ann.Send(`{"type":"join","room":"lobby","presence":"none"}`)
	ann.Next("ack")
	done := make(chan struct{})
	var wg sync.WaitGroup
	var answered atomic.Int64
	for range 4 {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				req, _ := http.NewRequest("POST", "http://"+a.Addr+"/api/rooms/lobby/messages", strings.NewReader(`{"data":1}`))
				req.Header = b.header.Clone()
				req.Header.Set("Content-Type", "application/json")
				resp, err := client.Do(req)
				if err != nil {
					continue // the listener of the configuration before was closed with the connection in its queue
				}
				answered.Add(1)
				if resp.StatusCode != http.StatusOK {
					answer, _ := io.ReadAll(resp.Body)
					t.Errorf("%d %s", resp.StatusCode, answer)
				}
				resp.Body.Close()
			}
		})
	}
	go func() { // who reads slowly is closed
		for {
			if _, err := ann.Read(); err != nil {
				return
			}
		}
	}()
	for i := range 20 {
		config := strings.Replace(apiConfig, "max_frame 1KiB", fmt.Sprintf("max_frame %dKiB", 2+i%2), 1)
		if status, answer := a.Reload(config); status != http.StatusOK {
			t.Fatalf("%d %s", status, answer)
		}
	}
	close(done)
	wg.Wait()
	if answered.Load() < 20 {
		t.Errorf("%d answers", answered.Load())
	}
	// Another secret holds at once.
	if status, answer := a.Reload(strings.Replace(apiConfig, "{env.NEW_SECRET} {env.OLD_SECRET}", "{env.OLD_SECRET}", 1)); status != http.StatusOK {
		t.Fatalf("%d %s", status, answer)
	}
	b.refused("GET", "/stats", "", 401, "unauthorized", "no valid secret")
	b.with("Authorization", "Bearer "+oldAPISecret).do("GET", "/stats", "")
}

// TestAPINotLive asks an API whose configuration or hub is not live yet.
func TestAPINotLive(t *testing.T) {
	a := &API{Unprotected: true}
	a.logger, a.gate = zap.NewNop(), gate{make(chan struct{}), nil}
	a.hub = newSharedHub(hubKey{name: "early"}, nil, time.Second, a.logger)
	ended, end := context.WithCancel(t.Context())
	end()
	ask := func(ctx context.Context, path string, status int, words string) {
		t.Helper()
		w := httptest.NewRecorder()
		if err := a.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", path, nil), nil); err != nil {
			t.Error(err)
		}
		if w.Code != status || !strings.Contains(w.Body.String(), words) {
			t.Errorf("%s: %d %s, want %d %s", path, w.Code, w.Body, status, words)
		}
	}
	ask(ended, "/stats", 503, "not live")
	a.gate.open()
	ask(t.Context(), "/stats", 503, "the hub is starting")
	ask(t.Context(), "/health", 503, `"status":"starting"`)
	ask(t.Context(), "/openapi.json", 200, "openapi")
}
