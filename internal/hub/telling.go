package hub

import (
	"slices"

	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/internal/ws"
)

// telling is what is new in a room's presence, to be told to several members, each frame made once. It belongs to one goroutine, which
// calls end.
type telling struct {
	room    string
	total   uint64  // changes up to this one are told
	pending []event // by name
	count   tally
	crowded bool
	list    uint64

	allowed map[*Endpoint]wire.Presence
	batch   *ws.Batch
	names   [][]*ws.Shared // by the first of the pending events that they have
	number  *ws.Frame
	gap     *ws.Frame
}

// news returns what is new in the room. r.mu is held.
func (r *room) news() *telling {
	f := &r.feed
	pending := slices.DeleteFunc(slices.Clone(f.pending), func(e event) bool { return e.json == nil })
	return &telling{
		room: r.name, total: f.total, pending: pending, count: f.count, crowded: f.crowded, list: f.list,
		allowed: make(map[*Endpoint]wire.Presence), names: make([][]*ws.Shared, len(pending)), batch: r.hub.pool.Batch(),
	}
}

// end has it all written.
func (t *telling) end() { t.batch.End() }

// to tells m what it does not know yet, no more than its endpoint's rules allow now. room.mu is held.
func (t *telling) to(m *member) {
	if m.from >= t.total {
		return
	}
	mode := min(m.mode, t.rule(m.session.endpoint))
	if a := m.session.access.Load(); a != nil {
		mode = min(mode, a.mode(t.room))
	}
	switch {
	case mode == wire.PresenceNone:
	case mode == wire.PresenceFull && !t.crowded && m.list == t.list:
		t.tellNames(m)
	case t.count.no > m.from:
		t.batch.Send(m.conn, t.countFrame())
	}
	switch {
	case mode != wire.PresenceFull:
		m.list, m.asked = 0, 0 // it does not hear of changes by which its list gets old
	case !t.crowded && m.list != t.list && m.asked != t.list:
		m.asked = t.list
		t.batch.Send(m.conn, t.gapFrame())
	}
	m.from = t.total
}

// rule returns the most that clients of an endpoint are told.
func (t *telling) rule(e *Endpoint) wire.Presence {
	mode, known := t.allowed[e]
	if !known {
		if rule := e.Policy().rule(t.room); rule != nil {
			mode = rule.Presence
		}
		t.allowed[e] = mode
	}
	return mode
}

func (t *telling) tellNames(m *member) {
	first := slices.IndexFunc(t.pending, func(e event) bool { return e.no > m.from })
	if first < 0 {
		return
	}
	if t.names[first] == nil {
		t.names[first] = presenceFrames(t.room, t.pending[first:])
	}
	for _, f := range t.names[first] {
		t.batch.Send(m.conn, f.For(m.conn))
	}
}

func (t *telling) countFrame() *ws.Frame {
	if t.number == nil {
		t.number = ws.Text(wire.AppendPresence(ws.Buffer(96+len(t.room)), t.room, t.count.pseq, t.count.n, nil))
	}
	return t.number
}

func (t *telling) gapFrame() *ws.Frame {
	if t.gap == nil {
		t.gap = ws.Text(wire.AppendGap(ws.Buffer(64+len(t.room)), t.room, "presence"))
	}
	return t.gap
}

// presenceFrames makes as few frames of events as fit.
func presenceFrames(room string, events []event) []*ws.Shared {
	var frames []*ws.Shared
	for len(events) > 0 {
		var list []byte
		n := 0
		for ; n < len(events) && (n == 0 || len(list)+len(events[n].json) < maxEvents); n++ {
			if n > 0 {
				list = append(list, ',')
			}
			list = append(list, events[n].json...)
		}
		last := events[n-1]
		b := wire.AppendPresence(ws.Buffer(96+len(room)+len(list)), room, last.pseq, last.count, list)
		frames = append(frames, &ws.Shared{Plain: ws.Text(b)})
		events = events[n:]
	}
	return frames
}
