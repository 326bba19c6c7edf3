package module

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// reloader starts a site whose text is the body of a server and returns what loads another body.
func reloader(t *testing.T, body string) (*caddytest.Caddy, func(body string) (int, string)) {
	t.Helper()
	c := caddytest.StartText(t, ":{$PORT} {\n"+body+"\n}")
	_, port, _ := strings.Cut(c.Addr, ":")
	return c, func(body string) (int, string) {
		return c.Reload("{\n\tadmin " + c.Admin + "\n}\n:" + port + " {\n" + body + "\n}")
	}
}

const public = "rooms /public {\n anonymous\n room lobby {\n publish none\n }\n }\n"
const staff = "rooms /staff {\n user {http.request.uri.query.user}\n }\n"

// TestReloadKeepsClientsUnderTheirOwnRules checks that a handler that goes away, or comes in before others, gives nobody the rules of another.
func TestReloadKeepsClientsUnderTheirOwnRules(t *testing.T) {
	for name, after := range map[string]string{
		"first handler removed": staff,
		"another handler added": "rooms /operators {\n user {http.request.uri.query.user}\n }\n" + public + staff,
	} {
		t.Run(name, func(t *testing.T) {
			c, load := reloader(t, public+staff)
			guest := roomstest.Dial(t, c.URL("/public"), nil)
			guest.Join("lobby")
			guest.Send(`{"type":"join","id":1,"room":"staff-secrets"}`)
			guest.Refused("forbidden")
			if status, answer := load(after); status != 200 {
				t.Fatal(status, answer)
			}
			guest.Send(`{"type":"join","id":1,"room":"staff-secrets"}`)
			o, err := guest.Read()
			if err == nil && o["type"] == "ack" {
				t.Errorf("a guest is in the room of the staff: %v", o)
			}
		})
	}
}

func goroutinesOf(t *testing.T, c *caddytest.Caddy) int {
	t.Helper()
	resp, err := http.Get("http://" + c.Admin + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	var n int
	_, _ = fmt.Sscanf(string(b), "goroutine profile: total %d", &n)
	return n
}

// TestVanishedClientsLeaveNothing lets clients go in every phase.
func TestVanishedClientsLeaveNothing(t *testing.T) {
	c, _ := reloader(t, "rooms /ws {\n anonymous\n max_connections 400\n }\n rooms /closed other {\n }")
	time.Sleep(time.Second)
	before := goroutinesOf(t, c)
	request := func(path string) string {
		return "GET " + path + " HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" +
			"Sec-WebSocket-Protocol: rooms.v1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	}
	frame := func(s string) string { return string(append([]byte{0x81, 0x80 | byte(len(s)), 0, 0, 0, 0}, s...)) }
	join := frame(`{"type":"join","id":1,"room":"lobby"}`)
	for i := range 40 {
		for _, phase := range []string{
			"GET /ws HTTP/1.1\r\nHost: x\r\nUpg", // in the handshake
			request("/ws"),                       // before the welcome is read
			request("/ws") + join[:3],
			request("/ws") + join,
			request("/ws") + join + "\x88\x80\x00\x00\x00\x00", // close without a code
			request("/ws") + join + "\x88\x82\x00",             // half a close frame
			request("/closed"),                                 // refused
			request("/ws") + "\xff\xff\xff",
			request("/ws") + "\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00abc", // a message of 2^63-1 bytes
			request("/ws") + strings.Repeat(frame(`{"type":"ping"}`), 500),
		} {
			conn, err := net.Dial("tcp", c.Addr)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = conn.Write([]byte(phase))
			if i%3 == 0 {
				time.Sleep(time.Millisecond)
			}
			if i%2 == 0 {
				_ = conn.(*net.TCPConn).SetLinger(0) // reset
			}
			_ = conn.Close()
		}
	}
	time.Sleep(8 * time.Second)
	after := goroutinesOf(t, c)
	t.Logf("%d goroutines before, %d after", before, after)
	if after > before+10 {
		t.Errorf("%d goroutines before, %d after", before, after)
	}
}

// TestStopDoesNotWaitForOtherRequests checks that the notice goes out when the server begins to stop, not when its last HTTP request has ended.
func TestStopDoesNotWaitForOtherRequests(t *testing.T) {
	upstream, err := net.Listen("tcp", "127.0.0.1:0") // accepts, never answers
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	c, _ := reloader(t, "rooms /ws {\n anonymous\n drain 500ms\n }\n reverse_proxy "+upstream.Addr().String())
	ann := roomstest.Dial(t, c.URL("/ws"), nil)
	conn, err := net.Dial("tcp", c.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
	if u, err := upstream.Accept(); err == nil {
		defer u.Close()
	}
	c.Signal(syscall.SIGTERM)
	told := make(chan bool, 1)
	go func() { o, err := ann.Read(); told <- err == nil && o["type"] == "bye" }()
	select {
	case ok := <-told:
		if !ok {
			t.Error("no bye")
		}
	case <-time.After(4 * time.Second):
		t.Error("no bye within 4s of SIGTERM, while another request hangs")
		_ = conn.Close()
		<-told
	}
}

// TestStopIsInTime stops a server with clients in every phase but that of the request, for which net/http itself waits.
func TestStopIsInTime(t *testing.T) {
	c, _ := reloader(t, "rooms /ws {\n anonymous\n drain 1s\n }\n rooms /closed other {\n }")
	request := func(path string) string {
		return "GET " + path + " HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" +
			"Sec-WebSocket-Protocol: rooms.v1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	}
	for range 20 {
		for _, phase := range []string{
			request("/ws"), request("/ws") + "\x81", request("/closed"),
			request("/ws") + "\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00abc",
		} {
			conn, err := net.Dial("tcp", c.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = conn.Write([]byte(phase))
		}
	}
	time.Sleep(200 * time.Millisecond)
	start := time.Now()
	c.Stop()
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("stopping took %s", took)
	} else {
		t.Logf("stopping took %s", took)
	}
}

// TestOrigins tries what is no origin of ours.
func TestOriginsHostile(t *testing.T) {
	h := &Handler{Origins: []string{"app.example.com", "https://*.trusted.example"}}
	for origin, want := range map[string]bool{
		"https://app.example.com":                  true,
		"https://APP.example.com":                  true,
		"http://self.example:8080":                 true,
		"https://self.example:8080":                true,
		"http://self.example":                      false,
		"http://self.example:8081":                 false,
		"http://self.example:8080.evil.com":        false,
		"http://evil.com/self.example:8080":        false,
		"http://evil.com#self.example:8080":        false,
		"http://evil.com?self.example:8080":        false,
		"https://app.example.com@evil.com":         false,
		"https://app.example.com.evil.com":         false,
		"https://evilapp.example.com":              false,
		"https://a.trusted.example":                true,
		"http://a.trusted.example":                 false,
		"https://evil.com/.trusted.example":        false,
		"https://evil.com#.trusted.example":        false,
		"https://evil.com:1.trusted.example":       false,
		"https://evil.com%2f.trusted.example":      false,
		"https://evil.com\\.trusted.example":       false,
		"null":                                     false,
		"file://":                                  false,
		"app.example.com":                          false,
		"https://app.example.com https://evil.com": false,
		"https://app.example.com.":                 false,
		"https://[::1]":                            false,
	} {
		r := httptest.NewRequest("GET", "/ws", nil)
		r.Host = "self.example:8080"
		r.Header.Set("Origin", origin)
		if got := h.originAllowed(r); got != want {
			t.Errorf("%q: %v", origin, got)
		}
	}
}

// TestHeadersAreNoTemplates puts placeholders where a client may.
func TestHeadersAreNoTemplates(t *testing.T) {
	c, _ := reloader(t, "rooms /ws {\n anonymous\n device {http.request.header.User-Agent}\n auto_join {http.request.header.X-Room}\n user {http.request.header.X-User}\n }")
	h := http.Header{}
	h.Set("User-Agent", "{env.PATH}{file./etc/passwd}")
	h.Set("X-Room", "{env.HOME}")
	h.Set("X-User", "{env.HOME}")
	cl := roomstest.Dial(t, c.URL("/ws"), h)
	if cl.User != "{env.HOME}" {
		t.Errorf("user %q", cl.User)
	}
	cl.Refused("bad_request")
	p := cl.Join("a")
	if d := p["members"].([]any)[0].(roomstest.Object)["device"]; d != "{env.PATH}{file./etc/passwd}" {
		t.Errorf("device %q", d)
	}
}
