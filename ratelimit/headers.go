package ratelimit

import (
	"fmt"
	"strings"
	"time"
)

// The names of the header fields that tell a client about its limits (draft-ietf-httpapi-ratelimit-headers-10).
// Both are lists: several limits are several fields, or one with commas.
const (
	PolicyHeader = "RateLimit-Policy"
	LimitHeader  = "RateLimit"
)

// PolicyField returns the value of [PolicyHeader] for a limit, such as "publish";q=50;w=1. The draft knows whole seconds
// only: another window is left out instead of told wrong.
func PolicyField(l Limit) string {
	field := fmt.Sprintf("%s;q=%d", quote(l.Name), l.Events)
	if l.Window%time.Second == 0 {
		field += fmt.Sprintf(";w=%d", l.Window/time.Second)
	}
	return field
}

// LimitField returns the value of [LimitHeader] for a decision on a limit, such as "publish";r=12;t=6: what remains, and in
// how many seconds more will.
func LimitField(l Limit, d Decision) string {
	return fmt.Sprintf("%s;r=%d;t=%d", quote(l.Name), d.Remaining, ceil(d.Next, time.Second))
}

// RetryAfterField returns the value of a Retry-After header field: whole seconds, rounded up.
func RetryAfterField(d Decision) string { return fmt.Sprint(ceil(d.RetryAfter, time.Second)) }

// quote returns name as a String of RFC 9651. Such a string is of printable ASCII; the bytes of anything else are
// percent-encoded.
func quote(name string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(name) {
		switch c := name[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c > '~':
			fmt.Fprintf(&b, "%%%02x", c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
