package presence

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// dump returns everything in Redis but what every call changes: write counters, lease ends and times of activity.
func dump(t *testing.T, client *redis.Client, k keys) map[string]string {
	t.Helper()
	all := map[string]string{}
	names, err := client.Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		switch kind := client.Type(t.Context(), name).Val(); kind {
		case "hash":
			fields := client.HGetAll(t.Context(), name).Val()
			if name == k.counters() {
				for iid := range fields {
					fields[iid] = "n"
				}
			}
			all[name] = fmt.Sprint(fields)
		case "set":
			members := client.SMembers(t.Context(), name).Val()
			slices.Sort(members)
			all[name] = fmt.Sprint(members)
		case "list":
			all[name] = fmt.Sprint(len(client.LRange(t.Context(), name, 0, -1).Val())) // what is in it has times
		case "zset":
			members := client.ZRange(t.Context(), name, 0, -1).Val()
			slices.Sort(members) // not by scores that are times
			all[name] = fmt.Sprint(members)
		default:
			t.Fatalf("key %q is a %s", name, kind)
		}
	}
	return all
}

// TestScriptsAgain runs every script of a life twice with the same arguments: the second time must change nothing and tell nobody, other
// programs included.
func TestScriptsAgain(t *testing.T) {
	t.Run("without events", func(t *testing.T) { scriptsAgain(t, "") })
	t.Run("with events", func(t *testing.T) { scriptsAgain(t, "events") })
}

func scriptsAgain(t *testing.T, events string) {
	const head = `{"hub":"h"`
	client := redistest.Start(t).Client()
	k := keys("p:{x}")
	sub := client.PSubscribe(t.Context(), "*")
	defer sub.Close()
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	published := func() (n int) {
		t.Helper()
		if err := client.Publish(t.Context(), "end", "").Err(); err != nil {
			t.Fatal(err)
		}
		for {
			msg, err := sub.ReceiveMessage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if msg.Channel == "end" {
				return n
			}
			n++
		}
	}
	change := func(iid string, stays int, args ...any) ([]string, []any) {
		return []string{k.counters(), k.roomsOf(iid), k.rooms(), k.members("r"), k.counts("r"), k.seq("r"), k.departed("r")},
			append([]any{iid, "e:", events, head, "r", 1, stays}, args...)
	}
	user := func(iid string) []string {
		return []string{k.counters(), k.usersOf(iid), k.online(), k.seen(), k.user("u")}
	}
	content := entry{user: "u", status: "online", state: "{}"}.content()
	busy := entry{user: "u", status: "busy", state: "{}"}.content()
	type step struct {
		name   string
		script *redis.Script
		tells  int // payloads the first time
		events int // the same, when there are events
		keys   []string
		args   []any
	}
	var steps []step
	add := func(name string, script *redis.Script, tells, events int, keys []string, args ...any) {
		steps = append(steps, step{name, script, tells, events, keys, args})
	}
	lease := []string{k.leases(), k.counters()}
	register := func(iid string) []any {
		return append([]any{iid, 60000, "users", ""}, (&Events{Rooms: events, Head: head}).reset()...)
	}
	add("register", registerScript, 1, 1, lease, register("i")...)
	add("register another", registerScript, 1, 0, lease, register("j")...)
	add("heartbeat", heartbeatScript, 0, 0, lease, "i", 60000)
	add("online", usersScript, 0, 1, user("i"), "i", events, head, "+", "c1", "u", "d", 0)
	add("online again", usersScript, 0, 0, user("j"), "j", events, head, "~", "c2", "u", "d", 12, "7\nknown")
	add("touch", touchScript, 0, 0, []string{k.counters(), k.seen()}, "i", "u", "nobody")
	add("status", statusScript, 1, 1, []string{k.counters(), k.user("u")}, "i", "users", "u", "away", events, head)
	add("status of nobody", statusScript, 0, 0, []string{k.counters(), k.user("nobody")}, "i", "users", "nobody", "away", events, head)
	keysOf, args := change("i", 1, 2, "+", "c1", content, "0", "c3", content)
	add("join", changeScript, 1, 2, keysOf, args...)
	keysOf, args = change("j", 1, 1, "=", "c2", content, "12", "34")
	add("join of another", changeScript, 1, 0, keysOf, args...)
	rooms := []string{k.counters(), k.roomsOf("i"), k.rooms(), k.members("r2"), k.counts("r2"), k.seq("r2"), k.departed("r2"), k.members("r3"), k.counts("r3"), k.seq("r3"), k.departed("r3")}
	add("join of two rooms", changeScript, 2, 4, rooms, "i", "e:", events, head, "r2", 2, 1, 2, "+", "c1", content, "0", "c3", content, "r3", 3, 1, 1, "=", "c1", content, "12", "34")
	add("leave of two rooms", changeScript, 2, 4, rooms, "i", "e:", events, head, "r2", 4, 0, 2, "-", "c1", "left", "-", "c3", "left", "r3", 5, 0, 1, "-", "c1", "left")
	users := []string{k.counters(), k.usersOf("i"), k.online(), k.seen(), k.user("v"), k.user("w"), k.user("v")}
	add("several online", usersScript, 0, 2, users, "i", events, head, "+", "c4", "v", "d", 0, "~", "c5", "w", "d", 0, "7\nknown", "+", "c6", "v", "e", 0)
	add("several offline", usersScript, 0, 2, users, "i", events, head, "-", "c4", "v", 1, "-", "c5", "w", 0, "-", "c6", "v", 0)
	keysOf, args = change("i", 1, 1, "+", "c1", busy)
	add("update", changeScript, 1, 0, keysOf, args...)
	keysOf, args = change("i", 1, 1, "-", "c3", "left")
	add("leave", changeScript, 1, 0, keysOf, args...)
	add("retire", retireScript, 0, 0, []string{k.leases(), k.counters(), k.reasons()}, "i", 0, "timeout")
	add("reap_fence", reapFence, 0, 0, lease, "i")
	add("reap_room", reapRoom, 1, 0, []string{k.counters(), k.reasons(), k.roomsOf("i"), k.members("r"), k.counts("r"), k.seq("r"), k.departed("r"), k.rooms()},
		"i", "r", "e:r", "0", events, head)
	add("reap_users", reapUsers, 0, 0, []string{k.counters(), k.usersOf("i"), k.online(), k.seen(), k.user("u")}, "i", events, head, "u")
	add("reap_end", reapEnd, 0, 0, []string{k.leases(), k.reasons(), k.roomsOf("i"), k.usersOf("i")}, "i")
	keysOf, args = change("j", 0, 1, "-", "c2", "left")
	add("last leave", changeScript, 1, 2, keysOf, args...)
	add("offline", usersScript, 0, 1, user("j"), "j", events, head, "-", "c2", "u", 0)

	for _, s := range steps {
		if err := s.script.Run(t.Context(), client, s.keys, s.args...).Err(); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		want := s.tells
		if events != "" {
			want += s.events
		}
		if n := published(); n != want {
			t.Errorf("%s published %d times, want %d", s.name, n, want)
		}
		once := dump(t, client, k)
		if err := s.script.Run(t.Context(), client, s.keys, s.args...).Err(); err != nil {
			t.Fatalf("%s again: %v", s.name, err)
		}
		// A registration asks the others to look after themselves, as often as it is made.
		if n := published(); n != 0 && s.script != registerScript {
			t.Errorf("%s again published %d times", s.name, n)
		}
		if again := dump(t, client, k); !maps.Equal(once, again) {
			t.Errorf("%s again made\n%v\nof\n%v", s.name, again, once)
		}
		if s.name == "leave" {
			if got := client.HGet(t.Context(), k.counts("r"), "u").Val(); got != "2" {
				t.Errorf("after the leave u has %s connections", got)
			}
		}
	}
	left := dump(t, client, k)
	want := []string{k.counters(), k.leases(), k.seq("r"), k.seq("r2"), k.seq("r3"), k.departed("r"), k.departed("r2"), k.departed("r3")}
	if got := slices.Sorted(maps.Keys(left)); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("left are %q", got)
	}
}

// TestFencedWrites has an instance that was reaped write.
func TestFencedWrites(t *testing.T) {
	client := redistest.Start(t).Client()
	k := keys("p:{x}")
	user := []string{k.counters(), k.usersOf("i"), k.online(), k.seen(), k.user("u")}
	for name, run := range map[string]func() *redis.Cmd{
		"change": func() *redis.Cmd {
			return changeScript.Run(t.Context(), client,
				[]string{k.counters(), k.roomsOf("i"), k.rooms(), k.members("r"), k.counts("r"), k.seq("r"), k.departed("r")},
				"i", "e:", "", "", "r", 1, 1, 1, "+", "c", "u\nonline\n\n{}")
		},
		"online": func() *redis.Cmd {
			return usersScript.Run(t.Context(), client, user, "i", "", "", "+", "c", "u", "", 0)
		},
		"offline": func() *redis.Cmd { return usersScript.Run(t.Context(), client, user, "i", "", "", "-", "c", "u", 0) },
		"status": func() *redis.Cmd {
			return statusScript.Run(t.Context(), client, []string{k.counters(), k.user("u")}, "i", "users", "u", "busy", "", "")
		},
		"touch": func() *redis.Cmd {
			return touchScript.Run(t.Context(), client, []string{k.counters(), k.seen()}, "i", "u")
		},
		"heartbeat": func() *redis.Cmd {
			return heartbeatScript.Run(t.Context(), client, []string{k.leases(), k.counters()}, "i", 1000)
		},
	} {
		res, err := run().Slice()
		if err != nil || len(res) != 1 || res[0] != int64(0) {
			t.Errorf("%s: %v, %v", name, res, err)
		}
		if left := dump(t, client, k); len(left) != 0 {
			t.Errorf("%s left %v", name, left)
		}
	}
}

// TestReapingTheLiving asks to remove an instance that writes.
func TestReapingTheLiving(t *testing.T) {
	client := redistest.Start(t).Client()
	k := keys("p:{x}")
	lease := []string{k.leases(), k.counters()}
	if err := registerScript.Run(t.Context(), client, lease, "i", 60000, "users", "").Err(); err != nil {
		t.Fatal(err)
	}
	if n, err := reapFence.Run(t.Context(), client, lease, "i").Int(); err != nil || n != 0 {
		t.Errorf("reap_fence: %d, %v", n, err)
	}
	cursor, err := reapRoom.Run(t.Context(), client,
		[]string{k.counters(), k.reasons(), k.roomsOf("i"), k.members("r"), k.counts("r"), k.seq("r"), k.departed("r"), k.rooms()}, "i", "r", "e:r", "0", "", "").Text()
	if err != nil || cursor != "" {
		t.Errorf("reap_room: %q, %v", cursor, err)
	}
	if n, err := reapUsers.Run(t.Context(), client, []string{k.counters(), k.usersOf("i"), k.online(), k.seen()}, "i", "", "").Int(); err != nil || n != 0 {
		t.Errorf("reap_users: %d, %v", n, err)
	}
}
