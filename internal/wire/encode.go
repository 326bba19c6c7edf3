package wire

import (
	"bytes"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/caddyrooms/caddy-rooms/presence"
)

// The Append functions append one frame's JSON to dst and return it. Arguments that are raw JSON (id, data, state) must be valid.

// Welcome is the first frame of every connection.
type Welcome struct {
	Conn, User, Node string
	Ping             time.Duration
	Limits           []Limit
	MaxRooms         int
	MaxFrame         int
	Expires          int64 // when the client's token does, Unix milliseconds; 0: it has none, or one that does not
}

// Limit is a rate limit as a client is told of it.
type Limit struct {
	Name, On string
	Events   int
	Window   time.Duration
}

// AppendWelcome appends a welcome.
func AppendWelcome(dst []byte, w *Welcome) []byte {
	dst = append(dst, `{"type":"welcome","version":1,"conn":`...)
	dst = AppendString(dst, w.Conn)
	dst = append(dst, `,"user":`...)
	dst = AppendString(dst, w.User)
	dst = append(dst, `,"ping":`...)
	// Seconds, as an integer where it is one.
	dst = strconv.AppendFloat(dst, w.Ping.Seconds(), 'f', -1, 64)
	dst = append(dst, `,"node":`...)
	dst = AppendString(dst, w.Node)
	dst = append(dst, `,"limits":[`...)
	for i, l := range w.Limits {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"name":`...)
		dst = AppendString(dst, l.Name)
		dst = append(dst, `,"on":`...)
		dst = AppendString(dst, l.On)
		dst = appendInt(dst, `,"events":`, int64(l.Events))
		dst = appendInt(dst, `,"window":`, l.Window.Milliseconds())
		dst = append(dst, '}')
	}
	dst = appendInt(dst, `],"max":{"rooms":`, int64(w.MaxRooms))
	dst = appendInt(dst, `,"frame":`, int64(w.MaxFrame))
	dst = appendInt(dst, `,"state":`, MaxState)
	return append(appendExpires(append(dst, '}'), w.Expires), '}')
}

// Ack is the good answer to a request.
type Ack struct {
	ID       []byte // raw JSON; nil for a join that the server made
	Room     string // empty when the request was about none
	Snapshot *presence.Snapshot
	Mode     Presence            // how much of Snapshot is told
	Page     bool                // Snapshot is a page of members, which has a next cursor
	Unlisted bool                // Snapshot has no members though there are: the next cursor is that of the first page
	Recent   []presence.Departed // who has left; told if it is not nil
	Expires  int64               // as that of a Welcome
	Degraded bool
}

// AppendAck appends an ack.
func AppendAck(dst []byte, a *Ack) []byte {
	dst = appendHead(dst, "ack", a.ID, a.Room)
	if a.Snapshot != nil && a.Mode != PresenceNone {
		s := a.Snapshot
		dst = append(dst, `,"presence":{"pseq":`...)
		dst = strconv.AppendUint(dst, s.PSeq, 10)
		dst = appendInt(dst, `,"count":`, int64(s.Count))
		if a.Mode == PresenceFull {
			dst = append(dst, `,"members":[`...)
			for i := range s.Members {
				if i > 0 {
					dst = append(dst, ',')
				}
				dst = appendMember(dst, &s.Members[i])
			}
			dst = append(dst, ']')
			if s.Next != "" || a.Unlisted {
				dst = append(dst, `,"next":`...)
				dst = AppendString(dst, s.Next)
			} else if a.Page {
				dst = append(dst, `,"next":null`...)
			}
			dst = appendRecent(dst, a.Recent)
		}
		dst = append(dst, '}')
	}
	dst = appendExpires(dst, a.Expires)
	if a.Degraded {
		dst = append(dst, `,"degraded":true`...)
	}
	return append(dst, '}')
}

func appendExpires(dst []byte, at int64) []byte {
	if at == 0 {
		return dst
	}
	return appendInt(dst, `,"expires":`, at)
}

func appendRecent(dst []byte, recent []presence.Departed) []byte {
	if recent == nil {
		return dst
	}
	dst = append(dst, `,"recent":[`...)
	for i, d := range recent {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"user":`...)
		dst = AppendString(dst, d.User)
		dst = append(dst, `,"state":`...)
		dst = append(dst, d.State...)
		dst = appendInt(dst, `,"last_seen":`, d.At)
		dst = append(dst, '}')
	}
	return append(dst, ']')
}

func appendMember(dst []byte, m *presence.Member) []byte {
	dst = append(dst, `{"user":`...)
	dst = AppendString(dst, m.User)
	dst = appendShown(dst, m)
	dst = appendInt(dst, `,"conns":`, int64(m.Conns))
	dst = appendInt(dst, `,"since":`, m.Since)
	return append(dst, '}')
}

// appendShown appends what a member shows of itself.
func appendShown(dst []byte, m *presence.Member) []byte {
	dst = append(dst, `,"status":`...)
	dst = AppendString(dst, m.Status)
	dst = append(dst, `,"state":`...)
	dst = append(dst, m.State...)
	if m.Device != "" {
		dst = append(dst, `,"device":`...)
		dst = AppendString(dst, m.Device)
	}
	return dst
}

// AppendEvent appends one element of the events of a presence frame.
func AppendEvent(dst []byte, e *presence.Event) []byte {
	dst = append(dst, `{"op":"`...)
	dst = append(dst, e.Op...)
	dst = append(dst, `","user":`...)
	dst = AppendString(dst, e.Member.User)
	if e.Op == presence.Leave {
		dst = append(dst, `,"reason":"`...)
		dst = append(dst, e.Reason...)
		return append(dst, `"}`...)
	}
	dst = appendShown(dst, &e.Member)
	return append(dst, '}')
}

// AppendPresence appends a presence frame around events, elements that AppendEvent has made, joined by commas; none: only the count is told.
func AppendPresence(dst []byte, room string, pseq uint64, count int, events []byte) []byte {
	dst = appendHead(dst, "presence", nil, room)
	dst = append(dst, `,"pseq":`...)
	dst = strconv.AppendUint(dst, pseq, 10)
	dst = appendInt(dst, `,"count":`, int64(count))
	dst = append(dst, `,"events":[`...)
	dst = append(dst, events...)
	return append(dst, `]}`...)
}

// Sender is who published a message.
type Sender struct{ User, Conn string }

// Message is what is said: in a room, to one user in a room, or to a user wherever he is.
type Message struct {
	Room  string // empty: in none
	To    string // the one user who gets it; empty: everybody in the room
	Event string
	Data  []byte  // JSON
	From  *Sender // nil: it is from no client
	TS    int64   // Unix milliseconds
}

// AppendMessage appends a message.
func AppendMessage(dst []byte, m *Message) []byte {
	dst = appendHead(dst, "message", nil, m.Room)
	if m.To != "" {
		dst = append(dst, `,"to":`...)
		dst = AppendString(dst, m.To)
	}
	dst = append(dst, `,"event":`...)
	dst = AppendString(dst, m.Event)
	dst = append(dst, `,"data":`...)
	dst = append(dst, m.Data...)
	if m.From == nil {
		dst = append(dst, `,"from":null`...)
	} else {
		dst = append(dst, `,"from":{"user":`...)
		dst = AppendString(dst, m.From.User)
		dst = append(dst, `,"conn":`...)
		dst = AppendString(dst, m.From.Conn)
		dst = append(dst, '}')
	}
	dst = appendInt(dst, `,"ts":`, m.TS)
	return append(dst, '}')
}

// MessageTime returns the ts of a message that AppendMessage has made: it is at the end.
func MessageTime(message []byte) (ts int64, ok bool) {
	digits, ok := bytes.CutSuffix(message, []byte{'}'})
	if !ok {
		return 0, false
	}
	start := len(digits)
	for start > 0 && digits[start-1] >= '0' && digits[start-1] <= '9' {
		start--
	}
	if !bytes.HasSuffix(digits[:start], []byte(`,"ts":`)) {
		return 0, false
	}
	ts, err := strconv.ParseInt(string(digits[start:]), 10, 64)
	return ts, err == nil
}

// Refusal is everything that an error frame may carry.
type Refusal struct {
	Error
	ID         []byte
	Room       string
	RetryAfter time.Duration // with rate_limited and unavailable
	Limit      *LimitState   // with rate_limited
	Suppressed int           // errors for this limit that were not sent
}

// LimitState is a limit as it stands after it has refused something.
type LimitState struct {
	Name      string
	Events    int
	Window    time.Duration
	Remaining int
	Reset     time.Duration
}

// AppendError appends an error.
func AppendError(dst []byte, r *Refusal) []byte {
	dst = appendHead(dst, "error", r.ID, r.Room)
	dst = append(dst, `,"code":"`...)
	dst = append(dst, r.Code...)
	dst = append(dst, `","message":`...)
	dst = AppendString(dst, r.Message)
	if r.Code == RateLimited || r.Code == Unavailable {
		dst = appendInt(dst, `,"retry_after":`, milliseconds(r.RetryAfter))
	}
	if l := r.Limit; l != nil {
		dst = append(dst, `,"limit":{"name":`...)
		dst = AppendString(dst, l.Name)
		dst = appendInt(dst, `,"events":`, int64(l.Events))
		dst = appendInt(dst, `,"window":`, l.Window.Milliseconds())
		dst = appendInt(dst, `,"remaining":`, int64(l.Remaining))
		dst = appendInt(dst, `,"reset":`, milliseconds(l.Reset))
		dst = append(dst, '}')
	}
	if r.Suppressed > 0 {
		dst = appendInt(dst, `,"suppressed":`, int64(r.Suppressed))
	}
	return append(dst, '}')
}

// AppendLeft appends the notice that the server has taken the client out of a room.
func AppendLeft(dst []byte, room, reason string) []byte {
	dst = appendHead(dst, "left", nil, room)
	dst = append(dst, `,"reason":`...)
	dst = AppendString(dst, reason)
	return append(dst, '}')
}

// AppendGap appends the notice that a client does not know all of a room: with reason "presence" its members, else messages.
func AppendGap(dst []byte, room, reason string) []byte {
	dst = appendHead(dst, "gap", nil, room)
	dst = append(dst, `,"reason":`...)
	dst = AppendString(dst, reason)
	return append(dst, '}')
}

// AppendBye appends the frame that precedes a close by the server. Codes that forbid coming back have no reconnect_in.
func AppendBye(dst []byte, code int, reason string, reconnectIn time.Duration) []byte {
	dst = appendInt(dst, `{"type":"bye","code":`, int64(code))
	dst = append(dst, `,"reason":`...)
	dst = AppendString(dst, reason)
	if MayReconnect(code) {
		dst = appendInt(dst, `,"reconnect_in":`, milliseconds(reconnectIn))
	}
	return append(dst, '}')
}

// CloseReason is the reason of a close frame, for clients that missed the bye.
func CloseReason(code int, reconnectIn time.Duration) string {
	s := strconv.Itoa(code)
	if MayReconnect(code) {
		s += ";" + strconv.FormatInt(milliseconds(reconnectIn), 10)
	}
	return s
}

// MayReconnect tells whether a client that was closed with code should come back.
func MayReconnect(code int) bool { return code >= 4100 && code < 4300 }

// AppendPong appends the answer to a ping.
func AppendPong(dst, id []byte) []byte {
	return append(appendHead(dst, "pong", id, ""), '}')
}

// appendHead opens a frame: type, and id and room where there are any.
func appendHead(dst []byte, typ string, id []byte, room string) []byte {
	dst = append(dst, `{"type":"`...)
	dst = append(dst, typ...)
	dst = append(dst, '"')
	if id != nil {
		dst = append(dst, `,"id":`...)
		dst = append(dst, id...)
	}
	if room != "" {
		dst = append(dst, `,"room":`...)
		dst = AppendString(dst, room)
	}
	return dst
}

func appendInt(dst []byte, key string, n int64) []byte {
	return strconv.AppendInt(append(dst, key...), n, 10)
}

// milliseconds rounds up: who waits that long has waited long enough.
func milliseconds(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

const hex = "0123456789abcdef"

// AppendString appends s as a JSON string. Bytes that are not UTF-8 become U+FFFD.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				dst = append(append(dst, s[start:i]...), "\ufffd"...)
				start = i + 1
			}
			i += n
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			i++
			continue
		}
		dst = append(dst, s[start:i]...)
		if c == '"' || c == '\\' {
			dst = append(dst, '\\', c)
		} else {
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		start = i
	}
	return append(append(dst, s[start:]...), '"')
}
