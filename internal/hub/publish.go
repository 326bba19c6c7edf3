package hub

import (
	"slices"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/internal/ws"
)

// MaxMessage returns how long a message from outside may be, in bytes: the largest frame of the endpoints.
func (h *Hub) MaxMessage() int {
	return most(h, func(p *Policy) int { return p.Transport.MaxFrame })
}

// Publish sends a message that is from no client to everybody in a room, on all instances. No rule and no limit holds it back. The caller has
// checked the names, that data is JSON in UTF-8, and its size. Degraded tells that other instances may not get it.
func (h *Hub) Publish(room, event string, data []byte) (degraded bool) {
	b := wire.AppendMessage(ws.Buffer(len(data)+len(room)+len(event)+128), room, event, data, nil, time.Now().UnixMilli())
	return h.outcome(func(done func(error)) { h.send(h.room(room), room, b, nil, done) })
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
	done := make(chan error, 1)
	publish(func(err error) { done <- err })
	select {
	case err := <-done:
		return err != nil
	case <-ctx.Done():
		return true
	}
}

// send delivers a message's frame, which b holds behind ws.Headroom, to those in the room but except, and has it published to the other
// instances. r is nil when nobody is in the room here. done, if not nil, is called once with what became of it there, as that of bus.Publish.
func (h *Hub) send(r *room, name string, b []byte, except *ws.Conn, done func(error)) {
	if r != nil {
		r.broadcast(ws.Text(b), except)
	}
	switch {
	case h.backend.Shared:
		h.backend.Bus.Publish(h.channel(name), h.instancePayload(b[ws.Headroom:]), done)
		if e := h.messageEvents.Load(); e != nil {
			h.backend.Bus.Tell(e.channel, slices.Concat(e.head, []byte{','}, b[ws.Headroom+1:]))
		}
	case done != nil:
		done(nil)
	}
}
