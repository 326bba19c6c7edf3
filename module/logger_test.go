package module

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// TestLoggersMove makes loggers, with fields and names, before their target moves.
func TestLoggersMove(t *testing.T) {
	first, firstEntries := observer.New(zapcore.InfoLevel)
	second, secondEntries := observer.New(zapcore.DebugLevel)
	var target logTarget
	target.use(zap.New(first))
	logger := target.logger("a").With(zap.Int("n", 1))
	child := logger.Named("b").With(zap.Int("m", 2))
	child.Info("one")
	child.Debug("not enabled")
	target.use(zap.New(second))
	child.Debug("two", zap.Int("k", 3))
	logger.Info("three")

	for _, test := range []struct {
		entries *observer.ObservedLogs
		want    []string
	}{
		{firstEntries, []string{"a.b one map[m:2 n:1]"}},
		{secondEntries, []string{"a.b two map[k:3 m:2 n:1]", "a three map[n:1]"}},
	} {
		var got []string
		for _, e := range test.entries.All() {
			got = append(got, fmt.Sprint(e.LoggerName, " ", e.Message, " ", e.ContextMap()))
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

// entries returns the entries of a log in JSON that have this message.
func entries(t *testing.T, log, message string) (found []map[string]any) {
	t.Helper()
	for line := range strings.Lines(log) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == message {
			found = append(found, entry)
		}
	}
	return found
}

// TestConnectionLog ends connections in all ways there are, without and with log_connections, which comes with a reload.
func TestConnectionLog(t *testing.T) {
	config := func(admin, port, extra string) string {
		return fmt.Sprintf(`{
	admin %s
}
:%s {
	rooms /ws {
		user {http.request.uri.query.user}
		limit publish {
			on publish
			events 1
			window 1h
		}
		%s
	}
}`, admin, port, extra)
	}
	c := caddytest.StartText(t, config("{$CADDY_ADMIN}", "{$PORT}", ""))
	_, port, _ := strings.Cut(c.Addr, ":")
	silent := dial(t, c, "silent")
	_ = silent.WS.Close(1000, "")
	ann, bob, cut, flooder := dial(t, c, "ann"), dial(t, c, "bob"), dial(t, c, "cut"), dial(t, c, "flooder")
	if status, answer := c.Reload(config(c.Admin, port, "log_connections")); status != 200 {
		t.Fatalf("reload: %d %s", status, answer)
	}
	ann.Join("lobby")
	ann.Join("attic")
	bob.Join("lobby")
	bob.Send(`{"type":"publish","id":1,"room":"lobby","data":"to ann"}`)
	bob.Next("ack")
	ann.Next("presence", "message")
	ann.Next("presence", "message")
	ann.Quiet() // what it got before is counted by then
	_ = ann.WS.Close(3210, "enough")
	bob.Next("presence", "message")
	_ = bob.WS.Close(1000, "")
	_ = cut.WS.CloseNow()
	flooder.Join("lobby")
	for range 21 {
		flooder.Send(`{"type":"publish","room":"lobby"}`)
	}
	if code := flooder.Closed(); code != 4100 {
		t.Fatalf("closed with %d", code)
	}
	byUser := make(map[any]map[string]any)
	c.Wait("four entries", func() bool {
		for _, e := range entries(t, c.Log(), "connection ended") {
			byUser[e["user"]] = e
		}
		return len(byUser) == 4
	})
	for user, want := range map[string]map[string]any{
		"ann": {"code": 3210.0, "reason": "enough", "by": "client", "conn": ann.Conn, "room_count": 2.0, "rooms": []any{"attic", "lobby"},
			"messages_in": 3.0, "logger": "http.handlers.rooms.conn", "level": "info"},
		"bob":     {"code": 1000.0, "reason": "", "by": "client", "messages_in": 2.0, "rooms": []any{"lobby"}},
		"cut":     {"code": 1006.0, "reason": "lost", "by": "network", "rooms": []any{}},
		"flooder": {"code": 4100.0, "reason": "flood", "by": "server", "messages_in": 22.0},
	} {
		for field, value := range want {
			if got := byUser[user][field]; fmt.Sprint(got) != fmt.Sprint(value) {
				t.Errorf("%s of %s is %v, want %v", field, user, got, value)
			}
		}
		if user == "ann" {
			if out := byUser[user]["messages_out"]; out != 5.0 && out != 6.0 { // the pong may not be counted yet
				t.Errorf("messages_out of ann is %v, want 5 or 6", out)
			}
		}
		for _, field := range []string{"duration", "bytes_in", "bytes_out"} {
			if user == "cut" && field == "bytes_in" {
				continue
			}
			if v, _ := byUser[user][field].(float64); v <= 0 {
				t.Errorf("%s of %s is %v", field, user, byUser[user][field])
			}
		}
	}
}

// TestLogFollowsTheConfiguration changes where the log goes: what the hub, which is older, has to say goes there too.
func TestLogFollowsTheConfiguration(t *testing.T) {
	redis := redistest.Start(t)
	file := filepath.Join(t.TempDir(), "log")
	config := func(admin, port, log string) string {
		return fmt.Sprintf("{\n\tadmin %s\n\t%s\n}\n:%s {\n\trooms /ws {\n\t\tanonymous\n\t\tredis %s\n\t}\n}", admin, log, port, redis.URL())
	}
	first := filepath.Join(t.TempDir(), "first")
	c := caddytest.StartText(t, config("{$CADDY_ADMIN}", "{$PORT}", "log rooms {\n output file "+first+"\n include http.handlers.rooms\n}"))
	_, port, _ := strings.Cut(c.Addr, ":")
	logged := func(file, message string) func() bool {
		return func() bool {
			b, _ := os.ReadFile(file) // it may not be there yet
			return len(entries(t, string(b), message)) > 0
		}
	}
	c.Wait("the first log", logged(first, "redis connected"))
	if status, answer := c.Reload(config(c.Admin, port, "log rooms {\n output file "+file+"\n include http.handlers.rooms\n}")); status != 200 {
		t.Fatalf("reload: %d %s", status, answer)
	}
	redis.Kill()
	c.Wait("the second log", logged(file, "redis connection lost"))
	if logged(first, "redis connection lost")() {
		t.Error("the log of before has it too")
	}
}
