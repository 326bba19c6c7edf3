package presence

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// encode is what the scripts do.
func (d diff) encode() string {
	var b strings.Builder
	fmt.Fprintf(&b, "p%d %d %d\n", d.prev, d.seq, d.batch)
	for _, c := range d.changes {
		op, text := '+', fmt.Sprintf("%d\n%d\n%s", c.entry.ver, c.entry.since, c.entry.content())
		if c.gone {
			op, text = '-', string(c.reason)
		}
		fmt.Fprintf(&b, "%c%d %d\n%s%s", op, len(c.id), len(text), c.id, text)
	}
	return b.String()
}

func TestDecodeDiff(t *testing.T) {
	want := diff{prev: 0, seq: 1795426100000123, batch: 7, changes: []change{
		{id: "n-1.a b", entry: entry{user: "ann", status: "away", device: "phone", state: "{\n+1 1\n}", since: 1795426100000, ver: 9}},
		{id: "n-1.c", gone: true, reason: ReasonLeft},
		{id: "n-1.d", entry: entry{user: "bob", status: "online", state: "{}", since: 1, ver: 1795426100000123}},
	}}
	got, err := decodeDiff([]byte(want.encode()))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, %v", got, err)
	}
	for name, payload := range map[string]string{
		"empty":           "",
		"another kind":    `{"type":"message"}`,
		"no newline":      "p1 2 3",
		"two numbers":     "p1 2\n",
		"not a number":    "p1 x 3\n",
		"negative":        "p1 -2 3\n",
		"unknown op":      "p1 2 3\n*1 1\nab",
		"no lengths":      "p1 2 3\n+\n",
		"too long an id":  "p1 2 3\n-9 1\nab",
		"too long a text": "p1 2 3\n-1 9\nab",
		"negative length": "p1 2 3\n-1 -1\nab",
		"overflow":        "p1 2 3\n-1 9223372036854775807\nab",
		"bad entry":       "p1 2 3\n+1 1\nab",
		"no user":         "p1 2 3\n+1 10\na1\n1\n\ns\nd\n{",
	} {
		if d, err := decodeDiff([]byte(payload)); err == nil {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func FuzzDecodeDiff(f *testing.F) {
	f.Add([]byte("p1 2 3\n-1 4\naleft+1 14\nb1\n1\nu\ns\nd\n{}xx"))
	f.Add([]byte("p0 1795426100000123 0\n"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		d, err := decodeDiff(payload)
		if err != nil {
			return
		}
		again, err := decodeDiff([]byte(d.encode()))
		if err != nil || !reflect.DeepEqual(d, again) {
			t.Fatalf("%+v\nbecame\n%+v, %v", d, again, err)
		}
		// Whatever it holds, a roster stays whole.
		r := newRoster()
		for range 2 {
			r.apply(d.changes)
		}
		n := 0
		for user, p := range r.users {
			n += len(p.ids)
			if p.shown.User != user || p.shown.Conns != len(p.ids) {
				t.Fatalf("%q: %+v", user, p)
			}
		}
		if n != len(r.conns) {
			t.Fatalf("%d connections of users, %d in all", n, len(r.conns))
		}
	})
}

func FuzzDecodeStatus(f *testing.F) {
	f.Add([]byte("s1\nann\naway"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		user, ver, status, err := decodeStatus(payload)
		if err == nil && len(payload) > 0 && !strings.HasSuffix(string(payload), "\n"+user+"\n"+status) {
			t.Fatalf("%q: %q, %d, %q", payload, user, ver, status)
		}
	})
}
