package hub

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/internal/ws"
	"github.com/caddyrooms/caddy-rooms/ratelimit"
)

// MaxMessage returns how long a message from outside may be, in bytes: the largest frame of the endpoints.
func (h *Hub) MaxMessage() int {
	return most(h, func(p *Policy) int { return p.Transport.MaxFrame })
}

// Message is what is said by no client. One of Room and User is set.
type Message struct {
	Room  string // to everybody in the room, but for what Audience says
	User  string // to all connections of the user, in whatever rooms they are
	Event string
	Data  []byte
	Audience
}

// Audience is who is to hear a message of those who could. The zero value is everybody.
type Audience struct {
	Only       string `json:"only,omitempty"`        // no user but this one
	ExceptUser string `json:"except_user,omitempty"` // not this user
	ExceptConn string `json:"except_conn,omitempty"` // not this connection
}

// Publish sends a message to all whom it is for, on all instances. No rule and no limit holds it back. The caller has checked the names, that
// the data is JSON in UTF-8, and its size. Degraded tells that other instances may not get it.
func (h *Hub) Publish(m Message) (degraded bool) {
	return h.PublishAll([]Message{m})[0]
}

// PublishAll is Publish for several messages, in this order, and waits for them together.
func (h *Hub) PublishAll(messages []Message) (degraded []bool) {
	waits := make([]func() bool, len(messages))
	ctx, cancel := h.context()
	defer cancel()
	for i := range messages {
		waits[i] = begin(ctx, func(done func(error)) { h.publishMessage(&messages[i], done) })
	}
	for _, wait := range waits {
		degraded = append(degraded, wait())
	}
	return degraded
}

// publishMessage sends a message. What becomes of it on other instances is told to done, as bus.Publish does.
func (h *Hub) publishMessage(m *Message, done func(error)) {
	frame := wire.Message{Room: m.Room, To: m.Only, Event: m.Event, Data: m.Data, TS: time.Now().UnixMilli()}
	if m.Room == "" {
		frame.To = m.User
	}
	b := wire.AppendMessage(ws.Buffer(len(m.Data)+len(m.Room)+len(frame.To)+len(m.Event)+128), &frame)
	to := m.Audience
	if m.Room != "" {
		h.send(h.room(m.Room), m.Room, b, h.addressees(to), to.header(), done)
	} else {
		to.Only = m.User
		h.sendUser(b, to, done)
	}
}

// AllowMessage counts a message of nobody's under the limits that protect the room itself: those on publish whose keys have nothing of who
// publishes. It returns the limit that refuses it, or nil.
func (h *Hub) AllowMessage(ctx context.Context, room string) (*Limit, ratelimit.Decision) {
	type counted struct {
		limit    ratelimit.Limit
		template string
	}
	seen := make(map[counted]bool) // endpoints with the same limit count together
	for _, e := range h.allEndpoints() {
		p := e.Policy()
		for i := range p.Limits {
			l := &p.Limits[i]
			id := counted{l.Limit, l.Key.Template}
			if l.On != OnPublish || !l.Key.ofRoom() || seen[id] {
				continue
			}
			seen[id] = true
			if d := h.decide(ctx, l, l.Key.fill(l.Key.Texts, func(string) string { return room })); !d.Allowed {
				return l, d
			}
		}
	}
	return nil, ratelimit.Decision{}
}

// messageEvents is where other programs hear of messages.
type messageEvents struct {
	channel string
	head    []byte // a JSON object that is not closed and has a member
}

// TellMessages has each message of this instance's clients, and of Publish, also published on a channel for other programs, from now on: its
// frame, whose members come behind those of head, a JSON object that is not closed. "" has it end.
func (h *Hub) TellMessages(channel, head string) {
	if channel == "" {
		h.messageEvents.Store(nil)
		return
	}
	h.messageEvents.Store(&messageEvents{channel, []byte(head)})
}

// outcome waits for what becomes of a publish to the other instances, no longer than for any call of a shared store. Degraded tells that they
// may not get it.
func (h *Hub) outcome(publish func(done func(error))) (degraded bool) {
	ctx, cancel := h.context()
	defer cancel()
	return begin(ctx, publish)()
}

// begin publishes, and returns what waits for the outcome until ctx ends.
func begin(ctx context.Context, publish func(done func(error))) (wait func() (degraded bool)) {
	done := make(chan error, 1)
	publish(func(err error) { done <- err })
	return func() bool {
		select {
		case err := <-done:
			return err != nil
		case <-ctx.Done():
			return true
		}
	}
}

// header is the audience as other instances are told; empty for everybody.
func (a Audience) header() []byte {
	if a == (Audience{}) {
		return nil
	}
	b, _ := json.Marshal(a) // three strings: it can't fail
	return b
}

// addressees returns the audience as a room of this instance knows it.
func (h *Hub) addressees(a Audience) addressees {
	l := addressees{only: a.Only, without: a.ExceptUser}
	if a.ExceptConn != "" {
		if s := h.session(a.ExceptConn); s != nil {
			l.except = s.conn
		}
	}
	return l
}

// addressees are those members of a room who hear a message. The zero value is all.
type addressees struct {
	except        *ws.Conn
	only, without string // users; "" for none
}

// all tells whether no user is left out.
func (l *addressees) all() bool { return l.only == "" && l.without == "" }

func (l *addressees) user(name string) bool {
	return (l.only == "" || name == l.only) && (l.without == "" || name != l.without)
}

// send delivers a message's frame, which b holds behind ws.Headroom, to those in the room who are to hear it, and has it published to the other
// instances, with header for those who hear it there. r is nil when nobody is in the room here. done, if not nil, is called once with what
// became of it there, as that of bus.Publish.
func (h *Hub) send(r *room, name string, b []byte, to addressees, header []byte, done func(error)) {
	if r != nil {
		r.broadcast(ws.Text(b), to)
	}
	h.publish(h.channel(name), fromInstance, header, b[ws.Headroom:], done)
}

// sendUser delivers a message's frame as send does, to the connections of a user, in whatever rooms they are.
func (h *Hub) sendUser(b []byte, to Audience, done func(error)) {
	h.deliver(ws.Text(b), to)
	h.publish(redisdb.UsersChannel(h.opts.Base), toUser, to.header(), b[ws.Headroom:], done)
}

// deliver sends a frame to the connections of a user here.
func (h *Hub) deliver(f *ws.Frame, to Audience) {
	shared, batch := ws.Shared{Plain: f}, h.pool.Batch()
	defer batch.End()
	for _, s := range h.sessionsOf(to.Only) {
		if s.id != to.ExceptConn {
			batch.Send(s.conn, shared.For(s.conn))
		}
	}
}

// publish sends a message's frame to the other instances, and to the programs that hear of messages.
func (h *Hub) publish(channel string, kind byte, header, frame []byte, done func(error)) {
	if !h.backend.Shared {
		if done != nil {
			done(nil)
		}
		return
	}
	p := make([]byte, 0, 3+len(h.id)+len(header)+len(frame))
	p = append(append(append(append(p, kind), h.id...), ' '), header...)
	h.backend.Bus.Publish(channel, append(append(p, '\n'), frame...), done)
	if e := h.messageEvents.Load(); e != nil {
		h.backend.Bus.Tell(e.channel, slices.Concat(e.head, []byte{','}, frame[1:]))
	}
}

// readHeader is the reverse of header.
func (h *Hub) readHeader(b []byte) (a Audience, ok bool) {
	if len(b) == 0 {
		return a, true
	}
	if err := json.Unmarshal(b, &a); err != nil {
		h.logger.Warn("message of another instance is malformed", zap.Error(err))
		return a, false
	}
	return a, true
}
