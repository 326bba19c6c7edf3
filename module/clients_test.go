package module

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/net/websocket"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

const openConfig = `:{$PORT} {
	rooms /ws {
		anonymous
	}
}`

// TestOtherGoClient talks through another implementation of WebSocket than the server's.
func TestOtherGoClient(t *testing.T) {
	c := caddytest.StartText(t, openConfig)
	conn, err := websocket.Dial(c.URL("/ws"), "rooms.v1", "http://"+c.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, step := range []struct{ send, want string }{
		{"", `"type":"welcome"`},
		{`{"type":"join","id":1,"room":"lobby"}`, `"type":"ack","id":1`},
		{`{"type":"publish","room":"lobby","data":{"big":"` + strings.Repeat("x", 60_000) + `"},"echo":true}`, `"type":"message"`},
		{`{"type":"leave","id":2,"room":"lobby"}`, `"type":"ack","id":2`},
	} {
		if step.send != "" {
			if err := websocket.Message.Send(conn, step.send); err != nil {
				t.Fatal(err)
			}
		}
		for {
			var got string
			if err := websocket.Message.Receive(conn, &got); err != nil {
				t.Fatalf("waiting for %s: %v", step.want, err)
			}
			if strings.Contains(got, step.want) {
				break
			}
		}
	}
}

// TestNodeClient talks through the WebSocket of Node.js, which is that of browsers.
func TestNodeClient(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed (any version from 20): the same API is tested in a browser by examples/chat")
	}
	c := caddytest.StartText(t, openConfig)
	other := roomstest.Dial(t, c.URL("/ws"), nil)
	other.Join("lobby")
	script := fmt.Sprintf(`
		const ws = new WebSocket(%q, "rooms.v1");
		ws.onmessage = ({ data }) => {
			const frame = JSON.parse(data);
			if (frame.type === "welcome") ws.send(JSON.stringify({ type: "join", id: 1, room: "lobby" }));
			if (frame.type === "ack") ws.send(JSON.stringify({ type: "publish", room: "lobby", data: "héllo" }));
			if (frame.type === "message") { console.log(frame.data); ws.close(1000); }
		};
		ws.onclose = ({ code }) => console.log(code);
		ws.onerror = (e) => { console.log(e.message); process.exit(1); };`, c.URL("/ws"))
	cmd := exec.CommandContext(t.Context(), node, "--experimental-websocket", "--no-warnings", "-e", script)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // presence is gathered for a while, so the message may come first
		if m := other.Next("presence", "message"); m["type"] == "message" && m["data"] != "héllo" {
			t.Errorf("got %v", m)
		}
	}
	other.Send(`{"type":"publish","room":"lobby","data":"and to you"}`)
	if err := cmd.Wait(); err != nil || out.String() != "and to you\n1000\n" {
		t.Errorf("node: %v, %q", err, out.String())
	}
}
