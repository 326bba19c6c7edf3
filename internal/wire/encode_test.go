package wire

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/presence"
)

func TestAppend(t *testing.T) {
	ann := presence.Member{User: "42", Status: "online", State: `{"name":"Ann"}`, Conns: 2, Since: 1795426100000}
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"welcome": {
			AppendWelcome(nil, &Welcome{Conn: "c7", User: "42", Node: "a1", Ping: 25 * time.Second, MaxRooms: 64, MaxFrame: 65536,
				Limits: []Limit{{"publish", "publish", 20, time.Second}}}),
			`{"type":"welcome","version":1,"conn":"c7","user":"42","ping":25,"node":"a1","limits":[{"name":"publish","on":"publish","events":20,"window":1000}],"max":{"rooms":64,"frame":65536,"state":2048}}`,
		},
		"ack of a join": {
			AppendAck(nil, &Ack{ID: []byte("1"), Room: "lobby", Mode: PresenceFull,
				Snapshot: &presence.Snapshot{PSeq: 77, Count: 12, Members: []presence.Member{ann}}}),
			`{"type":"ack","id":1,"room":"lobby","presence":{"pseq":77,"count":12,"members":[{"user":"42","status":"online","state":{"name":"Ann"},"conns":2,"since":1795426100000}]}}`,
		},
		"ack of a join that counts": {
			AppendAck(nil, &Ack{ID: []byte("1"), Room: "lobby", Mode: PresenceCount, Snapshot: &presence.Snapshot{PSeq: 77, Count: 12}}),
			`{"type":"ack","id":1,"room":"lobby","presence":{"pseq":77,"count":12}}`,
		},
		"bare ack, degraded": {
			AppendAck(nil, &Ack{ID: []byte(`"x"`), Room: "lobby", Degraded: true}),
			`{"type":"ack","id":"x","room":"lobby","degraded":true}`,
		},
		"last page of members": {
			AppendAck(nil, &Ack{ID: []byte("5"), Room: "lobby", Mode: PresenceFull, Page: true, Snapshot: &presence.Snapshot{PSeq: 78, Count: 12}}),
			`{"type":"ack","id":5,"room":"lobby","presence":{"pseq":78,"count":12,"members":[],"next":null}}`,
		},
		"page of members": {
			AppendAck(nil, &Ack{ID: []byte("5"), Room: "lobby", Mode: PresenceFull, Page: true, Snapshot: &presence.Snapshot{PSeq: 78, Count: 12, Next: "42"}}),
			`{"type":"ack","id":5,"room":"lobby","presence":{"pseq":78,"count":12,"members":[],"next":"42"}}`,
		},
		"members and who has left": {
			AppendAck(nil, &Ack{ID: []byte("5"), Room: "lobby", Mode: PresenceFull, Page: true, Snapshot: &presence.Snapshot{PSeq: 78, Count: 12, Next: "42"},
				Recent: []presence.Departed{{User: "a\"\\\u2028", State: "{\n\"x\":\"%s\"}", At: 1795426100000}, {User: "b", State: "{}", At: 1}}, Degraded: true}),
			`{"type":"ack","id":5,"room":"lobby","presence":{"pseq":78,"count":12,"members":[],"next":"42","recent":[{"user":"a\"\\` + "\u2028" + `","state":{` + "\n" +
				`"x":"%s"},"last_seen":1795426100000},{"user":"b","state":{},"last_seen":1}]},"degraded":true}`,
		},
		"nobody has left": {
			AppendAck(nil, &Ack{Room: "lobby", ID: []byte("5"), Mode: PresenceFull, Page: true, Snapshot: &presence.Snapshot{PSeq: 78, Count: 12}, Recent: []presence.Departed{}}),
			`{"type":"ack","id":5,"room":"lobby","presence":{"pseq":78,"count":12,"members":[],"next":null,"recent":[]}}`,
		},
		"who has left where members are not told": {
			AppendAck(nil, &Ack{Room: "lobby", ID: []byte("5"), Mode: PresenceCount, Snapshot: &presence.Snapshot{PSeq: 78, Count: 12}, Recent: []presence.Departed{{User: "b", State: "{}", At: 1}}}),
			`{"type":"ack","id":5,"room":"lobby","presence":{"pseq":78,"count":12}}`,
		},
		"message": {
			AppendMessage(nil, &Message{Room: "lobby", Event: "chat", Data: []byte(`{"text":"hi"}`), From: &Sender{"42", "c7"}, TS: 1795426127500}),
			`{"type":"message","room":"lobby","event":"chat","data":{"text":"hi"},"from":{"user":"42","conn":"c7"},"ts":1795426127500}`,
		},
		"message from outside": {
			AppendMessage(nil, &Message{Room: "lobby", Event: "chat", Data: []byte(`null`), TS: 1}),
			`{"type":"message","room":"lobby","event":"chat","data":null,"from":null,"ts":1}`,
		},
		"message to one user in a room": {
			AppendMessage(nil, &Message{Room: "lobby", To: `"ann"`, Event: "chat", Data: []byte(`1`), TS: 1}),
			`{"type":"message","room":"lobby","to":"\"ann\"","event":"chat","data":1,"from":null,"ts":1}`,
		},
		"message to a user": {
			AppendMessage(nil, &Message{To: "ann", Event: "chat", Data: []byte(`1`), TS: 1}),
			`{"type":"message","to":"ann","event":"chat","data":1,"from":null,"ts":1}`,
		},
		"rate limited": {
			AppendError(nil, &Refusal{Error: Error{RateLimited, `limit "publish" reached`}, ID: []byte("3"), Room: "lobby",
				RetryAfter: 350 * time.Millisecond, Suppressed: 37,
				Limit: &LimitState{"publish", 20, time.Second, 0, 349*time.Millisecond + 1}}),
			`{"type":"error","id":3,"room":"lobby","code":"rate_limited","message":"limit \"publish\" reached","retry_after":350,"limit":{"name":"publish","events":20,"window":1000,"remaining":0,"reset":350},"suppressed":37}`,
		},
		"error": {
			AppendError(nil, &Refusal{Error: Error{BadRequest, "x"}}),
			`{"type":"error","code":"bad_request","message":"x"}`,
		},
		"left": {AppendLeft(nil, "lobby", "kicked"), `{"type":"left","room":"lobby","reason":"kicked"}`},
		"gap":  {AppendGap(nil, "lobby", "bus"), `{"type":"gap","room":"lobby","reason":"bus"}`},
		"bye":  {AppendBye(nil, 4200, "restart", 1840*time.Millisecond), `{"type":"bye","code":4200,"reason":"restart","reconnect_in":1840}`},
		"bye for good": {AppendBye(nil, 4001, "unauthorized", time.Second),
			`{"type":"bye","code":4001,"reason":"unauthorized"}`},
		"pong": {AppendPong(nil, []byte("9")), `{"type":"pong","id":9}`},
	} {
		t.Run(name, func(t *testing.T) {
			if string(c.got) != c.want {
				t.Errorf("got  %s\nwant %s", c.got, c.want)
			}
		})
	}
}

func TestAppendPresence(t *testing.T) {
	var events []byte
	for i, e := range []presence.Event{
		{Op: presence.Join, Member: presence.Member{User: "7", Status: "online", State: "{}"}},
		{Op: presence.Update, Member: presence.Member{User: "42", Status: "away", State: "{}", Device: "phone"}},
		{Op: presence.Leave, Member: presence.Member{User: "9"}, Reason: presence.ReasonTimeout},
	} {
		if i > 0 {
			events = append(events, ',')
		}
		events = AppendEvent(events, &e)
	}
	const want = `{"type":"presence","room":"lobby","pseq":78,"count":12,"events":[{"op":"join","user":"7","status":"online","state":{}},{"op":"update","user":"42","status":"away","state":{},"device":"phone"},{"op":"leave","user":"9","reason":"timeout"}]}`
	if got := string(AppendPresence(nil, "lobby", 78, 12, events)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestCloseReason(t *testing.T) {
	for code, want := range map[int]string{4001: "4001", 4200: "4200;1500", 4100: "4100;1500"} {
		if got := CloseReason(code, 1500*time.Millisecond); got != want {
			t.Errorf("CloseReason(%d) = %q, want %q", code, got, want)
		}
	}
}

func TestMessageTime(t *testing.T) {
	message := string(AppendMessage(nil, &Message{Room: "lobby", Event: "e", Data: []byte(`{"ts":1}`), TS: 1795426127500}))
	for text, want := range map[string]int64{
		message: 1795426127500, message[:len(message)-1]: 0, `{"ts":5}`: 0, `{,"ts":5}`: 5, `,"ts":}`: 0, `,"ts":99999999999999999999}`: 0, "}": 0, "": 0,
	} {
		if ts, ok := MessageTime([]byte(text)); ts != want && ok || ok != (want != 0) {
			t.Errorf("MessageTime(%q) = %d, %t, want %d", text, ts, ok, want)
		}
	}
}

// FuzzAppendString checks that any string survives the way through JSON, as far as it is UTF-8.
func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", `"\`, "é\u2028\x00\x1f", "\xff\xfe", "a\xc3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		if err := json.Unmarshal(AppendString(nil, s), &got); err != nil {
			t.Fatal(err)
		}
		if want := strings.ToValidUTF8(s, ""); strings.ReplaceAll(got, "\ufffd", "") != strings.ReplaceAll(want, "\ufffd", "") {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
