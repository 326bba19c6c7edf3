package module

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// listener reads a tail line by line.
type listener struct {
	t     *testing.T
	lines *bufio.Reader
}

// tail begins to listen to a room, whose name is encoded, until the test ends.
func tail(t *testing.T, c *caddytest.Caddy, room string) *listener {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+c.Admin+"/rooms/default/tail/"+room, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatalf("%s, %s", resp.Status, resp.Header.Get("Content-Type"))
	}
	return &listener{t, bufio.NewReader(resp.Body)}
}

func (l *listener) next() (o roomstest.Object) {
	l.t.Helper()
	line, err := l.lines.ReadBytes('\n')
	if err != nil {
		l.t.Fatal(err)
	}
	if err := json.Unmarshal(line, &o); err != nil {
		l.t.Fatalf("%q: %v", line, err)
	}
	return o
}

func TestTailOfTwoInstances(t *testing.T) {
	a, b, _ := startTwo(t)
	l := tail(t, a, "team%2Fred")
	ann, bob := dial(t, a, "ann"), dial(t, b, "bob")
	ann.Join("team/red")
	bob.Join("team/red")
	ann.Send(`{"type":"publish","room":"team/red","event":"here"}`)
	same(t, "of this instance", l.next(), `{"type":"message","room":"team/red","event":"here","data":null,"from":{"user":"ann"}}`, "ts", "conn")
	bob.Send("{\"type\":\"publish\",\"room\":\"team/red\",\"event\":\"there\",\"data\":[1,\r\n2]}")
	same(t, "of the other instance", l.next(), `{"type":"message","room":"team/red","event":"there","data":[1,2],"from":{"user":"bob"}}`, "ts", "conn")
	post(t, b, "/rooms/default/publish", `{"room":"team/red","data":3}`)
	same(t, "of an operator", l.next(), `{"type":"message","room":"team/red","event":"message","data":3,"from":null}`, "ts")
	same(t, "the room it hears", look(t, a, "/rooms/default/rooms"), `{"rooms":[{"room":"team/red","count":2,"connections":1}],"next":null}`)
	a.Stop()
	if line, err := l.lines.ReadBytes('\n'); !errors.Is(err, io.EOF) || len(line) > 0 {
		t.Errorf("at the end it says %q, %v", line, err)
	}
	if strings.Contains(a.Log(), "failed to stop local admin server") {
		t.Error("caddy waited for the tail in vain")
	}
}

// TestTailStays waits for longer than the admin endpoint allows a request to take to be read, and a line to be written.
func TestTailStays(t *testing.T) {
	t.Parallel()
	c := caddytest.StartText(t, adminConfig)
	lobby, silent := tail(t, c, "lobby"), tail(t, c, "den")
	<-time.After(11 * time.Second)
	post(t, c, "/rooms/default/publish", `{"room":"lobby","data":1}`)
	if m := lobby.next(); m["data"] != 1.0 {
		t.Errorf("got %v", m)
	}
	c.Stop()
	for _, l := range []*listener{lobby, silent} {
		if line, err := l.lines.ReadBytes('\n'); !errors.Is(err, io.EOF) || len(line) > 0 {
			t.Errorf("at the end it says %q, %v", line, err)
		}
	}
}

// TestTailWithoutAReader opens a tail and reads nothing of it: nobody waits for it, neither who publishes nor the process at its end.
func TestTailWithoutAReader(t *testing.T) {
	t.Parallel()
	c := caddytest.StartText(t, strings.Replace(adminConfig, "max_frame 1KiB", "max_frame 1MiB", 1))
	conn, err := net.Dial("tcp", c.Admin)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "GET /rooms/default/tail/lobby HTTP/1.1\r\nHost: %s\r\n\r\n", c.Admin); err != nil {
		t.Fatal(err)
	}
	ann := dial(t, c, "ann")
	ann.Join("lobby")
	body := fmt.Sprintf(`{"room":"lobby","data":%q}`, strings.Repeat("x", 1<<19))
	for range 40 {
		same(t, "publish", post(t, c, "/rooms/default/publish", body), `{"room":"lobby"}`)
		ann.Next("message")
	}
	c.Stop()
	if strings.Contains(c.Log(), "failed to stop local admin server") {
		t.Error("caddy waited for the tail in vain")
	}
}
