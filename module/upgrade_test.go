package module

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// upgrade sends a handshake with these header lines instead of, or besides, the usual ones, and returns the response.
func upgrade(t *testing.T, addr, request string, lines ...string) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(roomstest.Patience))
	header := map[string]string{
		"Host": addr, "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
		"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		header[name] = value
	}
	fmt.Fprintf(conn, "%s HTTP/1.1\r\n", request)
	for name, value := range header {
		if value != "" && name != "body" {
			fmt.Fprintf(conn, "%s: %s\r\n", name, value)
		}
	}
	fmt.Fprint(conn, "\r\n", header["body"])
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestHandshake(t *testing.T) {
	c := caddytest.StartText(t, `:{$PORT} {
	rooms /ws {
		anonymous
		origins https://app.example.com *.trusted.example
	}
	handle_errors {
		respond "error {err.status_code}"
	}
	respond "page"
}`)
	for name, tc := range map[string]struct {
		request string
		lines   []string
		status  int
	}{
		"no subprotocol":           {"GET /ws", nil, 101},
		"our subprotocol":          {"GET /ws", []string{"Sec-WebSocket-Protocol: rooms.v1"}, 101},
		"with a token":             {"GET /ws", []string{"Sec-WebSocket-Protocol: rooms.v1, rooms.bearer.abc"}, 101},
		"not an upgrade":           {"GET /ws", []string{"Upgrade: "}, 200},
		"another path":             {"GET /other", nil, 200},
		"same origin":              {"GET /ws", []string{"Origin: http://" + c.Addr}, 101},
		"listed origin":            {"GET /ws", []string{"Origin: https://app.example.com"}, 101},
		"listed pattern":           {"GET /ws", []string{"Origin: http://a.trusted.example"}, 101},
		"fail/other origin":        {"GET /ws", []string{"Origin: https://evil.example"}, 403},
		"fail/other scheme":        {"GET /ws", []string{"Origin: http://app.example.com"}, 403},
		"fail/null origin":         {"GET /ws", []string{"Origin: null"}, 403},
		"fail/origin even if ours": {"GET /ws", []string{"Origin: https://evil.example", "Sec-WebSocket-Protocol: rooms.v1"}, 403},
		"fail/other subprotocols":  {"GET /ws", []string{"Sec-WebSocket-Protocol: chat, mqtt"}, 400},
		"fail/version":             {"GET /ws", []string{"Sec-WebSocket-Version: 8"}, 426},
		"fail/no key":              {"GET /ws", []string{"Sec-WebSocket-Key: "}, 400},
		"fail/bad key":             {"GET /ws", []string{"Sec-WebSocket-Key: short"}, 400},
		"fail/method":              {"POST /ws", []string{"Content-Length: 0"}, 405},
		"fail/body":                {"GET /ws", []string{"Content-Length: 3", "body: abc"}, 400},
	} {
		t.Run(name, func(t *testing.T) {
			resp := upgrade(t, c.Addr, tc.request, tc.lines...)
			if resp.StatusCode != tc.status {
				t.Fatalf("status %d, want %d", resp.StatusCode, tc.status)
			}
			switch tc.status {
			case 101:
				want := ""
				if strings.Contains(strings.Join(tc.lines, " "), "rooms.v1") {
					want = "rooms.v1" // and never the token
				}
				if got := resp.Header.Get("Sec-WebSocket-Protocol"); got != want {
					t.Errorf("subprotocol %q, want %q", got, want)
				}
			case 200:
			default:
				b, _ := io.ReadAll(resp.Body)
				if string(b) != fmt.Sprintf("error %d", tc.status) {
					t.Errorf("handle_errors was passed by: %q", b)
				}
			}
		})
	}
}

func TestWhoIsNotAuthenticatedIsRefused(t *testing.T) {
	c := caddytest.StartText(t, `:{$PORT} {
	rooms /ws
}`)
	if resp := upgrade(t, c.Addr, "GET /ws"); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("status %d, want 401", resp.StatusCode)
	}
	// A browser can't read the status, so who offers the protocol is told in it.
	client := roomstest.Connect(t, c.URL("/ws"), nil)
	client.Refused("unauthorized")
	if bye := client.Next("bye"); bye["code"] != 4001.0 || bye["reconnect_in"] != nil {
		t.Errorf("bye = %v", bye)
	}
	if code := client.Closed(); code != 4001 {
		t.Errorf("closed with %d, want 4001", code)
	}
}

// The hash is of "secret".
const basicAuth = `basic_auth /ws {
		ann $2a$04$qJOZeMbzYNgKdm0Px9lqb.PH150DZdtJ1eU/VZc5mlv9FtShnu0ZW
	}`

func TestBehindBasicAuth(t *testing.T) {
	c := caddytest.StartText(t, `:{$PORT} {
	`+basicAuth+`
	rooms /ws {
		device {http.request.header.User-Agent}
		auto_join user:{http.auth.user.id}
	}
}`)
	if resp := upgrade(t, c.Addr, "GET /ws"); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("status %d, want 401", resp.StatusCode)
	}
	r, _ := http.NewRequest(http.MethodGet, "http://x", nil)
	r.SetBasicAuth("ann", "secret")
	r.Header.Set("User-Agent", "test/1\u0080\t")
	client := roomstest.Dial(t, c.URL("/ws"), r.Header)
	if client.User != "ann" {
		t.Errorf("user %q, want ann", client.User)
	}
	ack := client.Next("ack")
	if ack["room"] != "user:ann" {
		t.Errorf("joined %v by the server, want user:ann", ack["room"])
	}
	member := ack["presence"].(roomstest.Object)["members"].([]any)[0].(roomstest.Object)
	if member["device"] != "test/1" {
		t.Errorf("device %q, want test/1", member["device"])
	}
}

func TestBehindForwardAuth(t *testing.T) {
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if cookie, err := r.Cookie("session"); err == nil && cookie.Value == "good" {
			w.Header().Set("X-User", "ann")
			return
		}
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer auth.Close()
	c := caddytest.StartText(t, `:{$PORT} {
	route /ws {
		request_header -X-User
		forward_auth `+auth.Listener.Addr().String()+` {
			uri /auth
			copy_headers X-User
		}
		rooms {
			user {http.request.header.X-User}
		}
	}
}`)
	if resp := upgrade(t, c.Addr, "GET /ws", "X-User: mallory"); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("status %d, want 401", resp.StatusCode)
	}
	client := roomstest.Dial(t, c.URL("/ws"), http.Header{"Cookie": {"session=good"}, "X-User": {"mallory"}})
	if client.User != "ann" {
		t.Errorf("user %q, want ann", client.User)
	}
}

func TestUserIDsThatCanNotBe(t *testing.T) {
	c := caddytest.StartText(t, `:{$PORT} {
	rooms /ws {
		user {http.request.header.X-User}
		anonymous
	}
}`)
	for name, user := range map[string]string{
		"like an anonymous one": "anon:cAbC",
		"none for a path":       "..",
		"too long":              strings.Repeat("x", 257),
	} {
		t.Run(name, func(t *testing.T) {
			if resp := upgrade(t, c.Addr, "GET /ws", "X-User: "+user); resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("status %d, want 401", resp.StatusCode)
			}
		})
	}
}

func TestConnectLimit(t *testing.T) {
	c := caddytest.StartText(t, `:{$PORT} {
	rooms /ws {
		anonymous
		limit connect {
			on connect
			events 2
			window 1h
		}
	}
}`)
	for range 2 {
		if resp := upgrade(t, c.Addr, "GET /ws"); resp.StatusCode != 101 {
			t.Fatalf("status %d, want 101", resp.StatusCode)
		}
	}
	// Also who offers the protocol gets the status: accepting would cost what the limit is to save.
	resp := upgrade(t, c.Addr, "GET /ws", "Sec-WebSocket-Protocol: rooms.v1")
	if resp.StatusCode != http.StatusTooManyRequests {
		t.Fatalf("status %d, want 429", resp.StatusCode)
	}
	if got := resp.Header.Get("RateLimit-Policy"); got != `"connect";q=2;w=3600` {
		t.Errorf("RateLimit-Policy: %s", got)
	}
	if got := resp.Header.Get("RateLimit"); !strings.HasPrefix(got, `"connect";r=0;t=`) {
		t.Errorf("RateLimit: %s", got)
	}
	if got := resp.Header.Get("Retry-After"); got == "" || got == "0" {
		t.Errorf("Retry-After: %q", got)
	}
}

func TestAcceptLimit(t *testing.T) {
	c := caddytest.StartText(t, `:{$PORT} {
	rooms /ws {
		user {http.request.uri.query.user}
		limit accept {
			on connect
			key all
			events 2
			window 1h
			scope instance
		}
		limit connect {
			on connect
			key {http.request.uri.query.from}
			events 1
			window 1h
		}
	}
}`)
	// Neither who is not authenticated nor who is over a limit of his own takes a place.
	for n := range 3 {
		if resp := upgrade(t, c.Addr, fmt.Sprint("GET /ws?from=", n)); resp.StatusCode != http.StatusUnauthorized {
			t.Fatalf("status %d, want 401", resp.StatusCode)
		}
		if resp := upgrade(t, c.Addr, "GET /ws?user=ann&from=0"); resp.StatusCode != http.StatusTooManyRequests {
			t.Fatalf("status %d, want 429", resp.StatusCode)
		}
	}
	for _, user := range []string{"ann", "bob"} {
		if resp := upgrade(t, c.Addr, fmt.Sprintf("GET /ws?user=%[1]s&from=%[1]s", user)); resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("status %d, want 101", resp.StatusCode)
		}
	}
	resp := upgrade(t, c.Addr, "GET /ws?user=cid&from=cid")
	if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" || resp.Header.Get("RateLimit-Policy") != `"accept";q=2;w=3600` {
		t.Errorf("status %d, %v", resp.StatusCode, resp.Header)
	}
	client := roomstest.Connect(t, c.URL("/ws?user=dan&from=dan"), nil)
	refusal := client.Refused("rate_limited")
	if limit, ok := refusal["limit"].(roomstest.Object); !ok || limit["name"] != "accept" || refusal["retry_after"].(float64) <= 0 {
		t.Errorf("refused with %v", refusal)
	}
	if bye := client.Next("bye"); bye["reconnect_in"] != refusal["retry_after"] {
		t.Errorf("bye %v after %v", bye, refusal)
	}
	if code := client.Closed(); code != 4101 {
		t.Errorf("closed with %d, want 4101", code)
	}
}

// TestSharedLimitWithoutRedis: who can't be decided on is told that, and is given no turn.
func TestSharedLimitWithoutRedis(t *testing.T) {
	c := caddytest.StartText(t, `:{$PORT} {
	rooms /ws {
		anonymous
		no_default_limits
		redis redis://127.0.0.1:1
		limit accept {
			on connect
			key all
			events 1000
			window 1s
			on_outage deny
		}
	}
}`)
	client := roomstest.Connect(t, c.URL("/ws"), nil)
	client.Refused("unavailable")
	if code := client.Closed(); code != 4102 {
		t.Errorf("closed with %d, want 4102", code)
	}
}

func TestMaxConnections(t *testing.T) {
	c := caddytest.StartText(t, `:{$PORT} {
	rooms /ws {
		anonymous
		max_connections 1
	}
}`)
	roomstest.Dial(t, c.URL("/ws"), nil)
	resp := upgrade(t, c.Addr, "GET /ws")
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("status %d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
	client := roomstest.Connect(t, c.URL("/ws"), nil)
	client.Refused("unavailable")
	if code := client.Closed(); code != 4101 {
		t.Errorf("closed with %d, want 4101", code)
	}
}

func TestOverTLS(t *testing.T) {
	c := caddytest.StartText(t, `{
	skip_install_trust
	auto_https disable_redirects
}
https://localhost:{$PORT} {
	tls internal
	rooms /ws {
		anonymous
	}
	respond "page"
}`)
	_, port, _ := net.SplitHostPort(c.Addr)
	// The certificate is of a CA that this Caddy has made for itself.
	config := &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"}
	dial := func() *roomstest.Client {
		c.Wait("the certificate", func() bool {
			conn, err := tls.Dial("tcp", c.Addr, config)
			if err != nil {
				return false
			}
			return conn.Close() == nil
		})
		return roomstest.DialWith(t, "wss://localhost:"+port+"/ws", &http.Client{Transport: &http.Transport{TLSClientConfig: config}})
	}
	ann, bob := dial(), dial()
	ann.Join("lobby")
	bob.Join("lobby")
	ann.Next("presence")
	big := strings.Repeat("x", 40_000) // more than a TLS record
	for range 5 {                      // as many at once as a send queue holds
		for i := range 10 {
			bob.Send(`{"type":"publish","room":"lobby","data":"%d%s"}`, i, big)
		}
		for i := range 10 {
			if m := ann.Next("message"); m["data"] != fmt.Sprint(i)+big {
				t.Fatalf("message %d is wrong", i)
			}
		}
	}
	_ = bob.WS.Close(1000, "")
	if e := ann.Events(); len(e) != 1 || !strings.HasSuffix(e[0], "left") {
		t.Errorf("ann saw %v", e)
	}
}

func TestExtendedConnectIsNotImplemented(t *testing.T) {
	for name, change := range map[string]func(*http.Request){
		"h2": func(r *http.Request) {
			r.ProtoMajor, r.Proto = 2, "HTTP/2.0"
			r.Header[":protocol"] = []string{"websocket"}
		},
		"h3": func(r *http.Request) { r.ProtoMajor, r.Proto = 3, "websocket" },
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodConnect, "/ws", nil)
			change(r)
			err := new(Handler).ServeHTTP(httptest.NewRecorder(), r, nil)
			var he caddyhttp.HandlerError
			if !errors.As(err, &he) || he.StatusCode != http.StatusNotImplemented {
				t.Errorf("got %v, want status 501", err)
			}
		})
	}
}
