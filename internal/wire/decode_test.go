package wire

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestDecode(t *testing.T) {
	long := strings.Repeat("x", 201)
	for name, c := range map[string]struct {
		frame string
		want  Request
		code  Code   // of the error, if one is due
		id    string // that the answer must carry
	}{
		"join": {
			frame: `{"type":"join","id":1,"room":"lobby","status":"online","state":{"name":"Ann"},"presence":"count"}`,
			want: Request{Type: Join, ID: []byte("1"), Room: "lobby", Status: "online", State: []byte(`{"name":"Ann"}`),
				Presence: PresenceCount, Event: "message", Data: []byte("null")},
		},
		"publish keeps data byte for byte": {
			frame: ` { "type" : "publish" , "room":"a/b","event":"chat","data": {"a" : [1, 2.50,"\u00e9}"] } ,"echo":true}`,
			want: Request{Type: Publish, Room: "a/b", Event: "chat", Data: []byte(`{"a" : [1, 2.50,"\u00e9}"] }`), Echo: true,
				Presence: PresenceFull},
		},
		"unknown fields are ignored": {
			frame: `{"type":"leave","x":{"room":"no"},"room":"lobby","y":[{"type":"join"}],"id":"\"q"}`,
			want: Request{Type: Leave, ID: []byte(`"\"q"`), Room: "lobby", Event: "message", Data: []byte("null"),
				Presence: PresenceFull},
		},
		"escaped keys and values": {
			frame: `{"\u0074ype":"sta\u0074us","status":"\u00e9t\u00e9"}`,
			want:  Request{Type: Status, Status: "été", Event: "message", Data: []byte("null"), Presence: PresenceFull},
		},
		"null counts as absent": {
			frame: `{"type":"members","room":"lobby","cursor":null,"id":null,"state":null}`,
			want:  Request{Type: Members, Room: "lobby", Event: "message", Data: []byte("null"), Presence: PresenceFull},
		},
		"the last of a repeated field counts": {
			frame: `{"type":"ping","id":1,"id":-2}`,
			want:  Request{Type: Ping, ID: []byte("-2"), Event: "message", Data: []byte("null"), Presence: PresenceFull},
		},
		"members and who has left": {
			frame: `{"type":"members","room":"lobby","recent" : true ,"id":1}`,
			want:  Request{Type: Members, ID: []byte("1"), Room: "lobby", Event: "message", Data: []byte("null"), Presence: PresenceFull, Recent: true},
		},
		"members without who has left": {
			frame: `{"type":"members","room":"lobby","recent":true,"recent":false}`,
			want:  Request{Type: Members, Room: "lobby", Event: "message", Data: []byte("null"), Presence: PresenceFull},
		},
		"members with a null for who has left": {
			frame: `{"type":"members","room":"lobby","recent":null}`,
			want:  Request{Type: Members, Room: "lobby", Event: "message", Data: []byte("null"), Presence: PresenceFull},
		},
		"state alone":                {frame: `{"type":"status","room":"a","state":{}}`, want: Request{Type: Status, Room: "a", State: []byte("{}"), Event: "message", Data: []byte("null"), Presence: PresenceFull}},
		"fail/empty":                 {frame: ``, code: BadRequest},
		"fail/room that is no path":  {frame: `{"type":"join","room":".."}`, code: BadRequest},
		"room like a path":           {frame: `{"type":"leave","room":"../."}`, want: Request{Type: Leave, Room: "../.", Event: "message", Data: []byte("null"), Presence: PresenceFull}},
		"fail/not json":              {frame: `{"type":`, code: BadRequest},
		"fail/array":                 {frame: `[1]`, code: BadRequest},
		"fail/auth without a token":  {frame: `{"type":"auth","id":1}`, code: BadRequest, id: "1"},
		"fail/token is no string":    {frame: `{"type":"auth","id":1,"token":{}}`, code: BadRequest, id: "1"},
		"fail/two objects":           {frame: `{"type":"ping"}{}`, code: BadRequest},
		"fail/not utf-8":             {frame: "{\"type\":\"ping\",\"x\":\"\xff\"}", code: BadRequest},
		"fail/no type":               {frame: `{"id":7}`, code: BadRequest, id: "7"},
		"fail/unknown type":          {frame: `{"id":"a","type":"dance"}`, code: BadRequest, id: `"a"`},
		"fail/type is a number":      {frame: `{"type":1,"id":5}`, code: BadRequest, id: "5"},
		"fail/id is a fraction":      {frame: `{"type":"ping","id":1.5}`, code: BadRequest},
		"fail/id is an object":       {frame: `{"type":"ping","id":{}}`, code: BadRequest},
		"fail/no room":               {frame: `{"type":"join","id":1}`, code: BadRequest, id: "1"},
		"fail/room with space":       {frame: `{"type":"join","room":"a b","id":1}`, code: BadRequest, id: "1"},
		"fail/room too long":         {frame: `{"type":"join","room":"` + long + `","id":1}`, code: TooLarge, id: "1"},
		"fail/state is a string":     {frame: `{"type":"join","room":"a","state":"x","id":1}`, code: BadRequest, id: "1"},
		"fail/state too large":       {frame: `{"type":"join","room":"a","state":{"a":"` + strings.Repeat("x", 2048) + `"},"id":1}`, code: TooLarge, id: "1"},
		"fail/state without room":    {frame: `{"type":"status","state":{},"id":1}`, code: BadRequest, id: "1"},
		"fail/status without words":  {frame: `{"type":"status","room":"a","id":1}`, code: BadRequest, id: "1"},
		"fail/status of two words":   {frame: `{"type":"status","status":"a b","id":1}`, code: BadRequest, id: "1"},
		"fail/status too long":       {frame: `{"type":"status","status":"` + long + `","id":1}`, code: BadRequest, id: "1"},
		"fail/event too long":        {frame: `{"type":"publish","room":"a","event":"` + long + `","id":1}`, code: TooLarge, id: "1"},
		"fail/event with newline":    {frame: `{"type":"publish","room":"a","event":"a\nb","id":1}`, code: BadRequest, id: "1"},
		"fail/echo is a word":        {frame: `{"type":"publish","room":"a","echo":"yes","id":1}`, code: BadRequest, id: "1"},
		"fail/presence unknown":      {frame: `{"type":"join","room":"a","presence":"all","id":1}`, code: BadRequest, id: "1"},
		"fail/id after the mistake":  {frame: `{"type":"join","room":5,"id":1}`, code: BadRequest, id: "1"},
		"fail/keys are case-exact":   {frame: `{"Type":"ping","id":1}`, code: BadRequest, id: "1"},
		"fail/cursor is a number":    {frame: `{"type":"members","room":"a","cursor":3,"id":1}`, code: BadRequest, id: "1"},
		"fail/recent is a number":    {frame: `{"type":"members","room":"a","recent":1,"id":1}`, code: BadRequest, id: "1"},
		"fail/recent is a word":      {frame: `{"type":"members","room":"a","recent":"true","id":1}`, code: BadRequest, id: "1"},
		"fail/recent is an object":   {frame: `{"type":"members","room":"a","recent":{},"id":1}`, code: BadRequest, id: "1"},
		"fail/first mistake is told": {frame: `{"type":"join","room":5,"state":{"a":"` + strings.Repeat("x", 2048) + `"}}`, code: BadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Decode([]byte(c.frame))
			if c.code != "" {
				if err == nil || err.Code != c.code {
					t.Fatalf("error = %v, want %s", err, c.code)
				}
				if string(got.ID) != c.id {
					t.Errorf("id = %s, want %s", got.ID, c.id)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestDecodeOutside(t *testing.T) {
	for name, c := range map[string]struct {
		payload, event, data string
		fails                bool
	}{
		"both":           {payload: `{"event":"chat","data":[1]}`, event: "chat", data: "[1]"},
		"neither":        {payload: `{}`, event: "message", data: "null"},
		"others ignored": {payload: `{"id":{},"from":{"user":"root"},"data":1}`, event: "message", data: "1"},
		"fail/event":     {payload: `{"event":1}`, fails: true},
		"fail/long":      {payload: `{"event":"` + strings.Repeat("x", 65) + `"}`, fails: true},
		"fail/not json":  {payload: `{"event`, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			event, data, err := DecodeOutside([]byte(c.payload))
			if (err != nil) != c.fails {
				t.Fatal(err)
			}
			if !c.fails && (event != c.event || string(data) != c.data) {
				t.Errorf("got %q %s, want %q %s", event, data, c.event, c.data)
			}
		})
	}
}

// FuzzDecode compares the decoder with encoding/json, field by field.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{"type":"join","id":1,"room":"lobby","state":{"name":"Ann"}}`, `{"type":"publish","room":"a","data":{"x":[1,"}"]},"echo":true}`,
		`{"type":"status","id":4,"status":"away","room":"lobby","state":{"typing":true}}`, `{"a":{"b":[{}]},"type":"ping","id":"\u0022"}`, `{"type":"auth","id":8,"token":"eyJ.x.y"}`,
		`[]`, `{}`, `null`, `{"id":1,"id":2}`, "\xff", `{"type":"members","room":"lobby","cursor":null}`,
		`{"type":"members","room":"lobby","recent":true}`, `{"type":"members","room":"lobby","recent":false,"id":2}`, `{"type":"members","room":"lobby","recent":tru}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		before := bytes.Clone(frame)
		req, err := Decode(frame)
		if !bytes.Equal(before, frame) {
			t.Fatal("the frame was changed")
		}
		if _, _, e := DecodeOutside(frame); e != nil && err == nil && req.Type == Publish {
			t.Fatalf("a good publish is refused from outside: %v", e)
		}
		if err != nil {
			if req.ID != nil && !json.Valid(req.ID) {
				t.Fatalf("id %q would break the answer", req.ID)
			}
			return
		}
		var want map[string]json.RawMessage
		if e := json.Unmarshal(frame, &want); e != nil {
			t.Fatalf("accepted what encoding/json refuses: %v", e)
		}
		for key, got := range map[string][]byte{"id": req.ID, "state": req.State} {
			if raw, ok := want[key]; ok && string(raw) != "null" && !bytes.Equal(raw, got) && !hasNull(frame, key) {
				t.Fatalf("%s = %s, want %s", key, got, raw)
			}
		}
		for key, got := range map[string]string{"room": req.Room, "status": req.Status, "cursor": req.Cursor} {
			var s string
			if raw, ok := want[key]; ok && string(raw) != "null" && json.Unmarshal(raw, &s) == nil && s != got {
				t.Fatalf("%s = %q, want %q", key, got, s)
			}
		}
		for key, got := range map[string]bool{"echo": req.Echo, "recent": req.Recent} {
			var b bool
			if raw, ok := want[key]; ok && string(raw) != "null" && json.Unmarshal(raw, &b) == nil && b != got {
				t.Fatalf("%s = %t, want %t", key, got, b)
			}
		}
		// What is relayed must make a frame that is valid again.
		out := AppendMessage(nil, &Message{Room: req.Room, Event: req.Event, Data: req.Data, From: &Sender{"u", "c"}, TS: 1})
		if !json.Valid(out) {
			t.Fatalf("message is not JSON: %s", out)
		}
		out = AppendAck(nil, &Ack{ID: req.ID, Room: req.Room})
		if !json.Valid(out) {
			t.Fatalf("ack is not JSON: %s", out)
		}
	})
}

// hasNull tells whether key may come twice, once as null, which the decoder passes over.
func hasNull(frame []byte, key string) bool {
	return bytes.Count(frame, []byte(key)) > 1
}

func BenchmarkDecodePublish(b *testing.B) {
	frame := []byte(`{"type":"publish","id":3,"room":"lobby","event":"chat","data":{"text":"` + strings.Repeat("x", 100) + `"}}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(frame); err != nil {
			b.Fatal(err)
		}
	}
}
