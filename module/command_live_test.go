package module

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
)

// caddyRooms runs caddy rooms, as a process, on the Caddy c, and returns what it printed and its exit code.
func caddyRooms(t *testing.T, c *caddytest.Caddy, in string, args ...string) (out, errs string, code int) {
	t.Helper()
	cmd := exec.Command(caddytest.Binary(t), append([]string{"rooms"}, args...)...)
	var o, e bytes.Buffer
	cmd.Env = append(os.Environ(), "CADDY_ADMIN="+c.Admin)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(in), &o, &e
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// fields returns the lines of a text with single spaces.
func fields(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return lines
}

// TestCommandsLive runs each subcommand on a real server, with people in a room.
func TestCommandsLive(t *testing.T) {
	c := caddytest.StartText(t, `:{$PORT} {
	rooms /ws {
		user {http.request.uri.query.user}
	}
}`)
	ok := func(in string, args ...string) []string {
		t.Helper()
		out, errs, code := caddyRooms(t, c, in, args...)
		if code != 0 || errs != "" {
			t.Errorf("caddy rooms %q: exit code %d, %s", args, code, errs)
		}
		return fields(out)
	}
	expect := func(got []string, want ...string) {
		t.Helper()
		if len(got) != len(want) {
			t.Fatalf("printed %q, want %q", got, want)
		}
		for i, line := range want {
			if before, after, _ := strings.Cut(line, "*"); !strings.HasPrefix(got[i], before) || !strings.HasSuffix(got[i], after) {
				t.Errorf("printed %q, want %q", got[i], line)
			}
		}
	}

	ann, bob := dial(t, c, "ann"), dial(t, c, "b%E2%80%AEob")
	ann.Send(`{"type":"join","id":1,"room":"lobby","state":{"name":"Ann"}}`)
	ann.Next("ack")
	bob.Join("lobby")
	ann.Next("presence")
	bob.Join("a/..")

	expect(ok("", "status"), "HUB NODE STATUS REDIS DELIVERY CONNECTIONS ROOMS MEMBERS", "default * 2 2 3")
	expect(ok("", "rooms"), "ROOM USERS CONNECTIONS", "a/.. 1 1", "lobby 2 2", "2 rooms")
	expect(ok("", "rooms", "--prefix", "lob"), "ROOM USERS CONNECTIONS", "lobby 2 2", "1 room")
	expect(ok("", "members", "lobby"), "USER STATUS CONNECTIONS SINCE DEVICE STATE",
		`ann online 1 *s - {"name":"Ann"}`, `"b\u202eob" online 1 *s - {}`, "2 users, 2 connections")
	expect(ok("", "members", "a/.."), "USER STATUS CONNECTIONS SINCE DEVICE STATE", `"b\u202eob" online 1 *s - {}`, "1 user, 1 connection")
	expect(ok("", "members", "a/..", "--json"), `{"room":"a/..","count":1,"connections":1,"members":[{"user":"b\u202eob",*],"next":null}`)
	expect(ok("", "members", "..."), "USER STATUS CONNECTIONS SINCE DEVICE STATE", "0 users, 0 connections")

	tail := startTail(t, c, "lobby")
	expect(ok("", "publish", "lobby", `{"n":1.0}`, "--event", "notice"), "published to lobby")
	expect(ok(`"<piped>"`, "publish", "lobby", "-"), "published to lobby")
	if m := ann.Next("message"); m["event"] != "notice" || m["from"] != nil {
		t.Errorf("got %v", m)
	}
	if m := ann.Next("message"); m["event"] != "message" || m["data"] != "<piped>" {
		t.Errorf("got %v", m)
	}
	bob.Send(`{"type":"publish","id":1,"room":"lobby","event":"chat","data":"\u009b"}`)
	c.Wait("the tail's lines", func() bool { return strings.Count(tail.out.String(), "\n") >= 3 })
	expect(fields(tail.out.String()), `* notice - {"n":1.0}`, `* message - "<piped>"`, `* chat "b\u202eob" "\u009b"`)
	tail.interrupt(t)

	expect(ok("", "kick", "ann", "--room", "lobby"), "ann is taken out of lobby: 1 connection")
	ann.Next("message") // of bob
	if left := ann.Next("left"); left["room"] != "lobby" {
		t.Errorf("got %v", left)
	}
	expect(ok("", "kick", "ann"), "ann is disconnected: 1 connection")
	ann.Next("bye")

	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"rooms", "--hub", "chat"}, `no hub "chat": --hub can be default`},
		{[]string{"publish", "no room", "1"}, "no room"},
		{[]string{"status", "--address", "localhost:1"}, "is caddy running?"},
	} {
		if out, errs, code := caddyRooms(t, c, "", test.args...); code != 1 || out != "" || !strings.Contains(errs, test.want) {
			t.Errorf("caddy rooms %q: exit code %d, printed %q and %q, want %q", test.args, code, out, errs, test.want)
		}
	}
	if status, answer := c.Reload("{\n\tadmin " + c.Admin + "\n}\nhttp://" + c.Addr + " {\n}"); status != 200 {
		t.Fatalf("reload: %d %s", status, answer)
	}
	c.Wait("the hub to go", func() bool {
		_, errs, code := caddyRooms(t, c, "", "status")
		return code == 1 && strings.Contains(errs, "but no hub")
	})
}

// tailProcess is a running caddy rooms tail.
type tailProcess struct {
	cmd       *exec.Cmd
	out, errs caddytest.Output
}

// startTail returns when the server sends messages.
func startTail(t *testing.T, c *caddytest.Caddy, room string) *tailProcess {
	t.Helper()
	p := &tailProcess{cmd: exec.Command(caddytest.Binary(t), "rooms", "tail", room, "--address", c.Admin)}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.errs
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill() }) // for a test that fails
	c.Wait("the tail", func() bool { return strings.Contains(p.errs.String(), "until interrupted") })
	return p
}

// interrupt ends it as Ctrl+C does, which it takes as success.
func (p *tailProcess) interrupt(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("interrupted tail: %v, %s", err, p.errs.String())
	}
}
