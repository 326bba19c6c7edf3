package hub

import (
	"slices"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/internal/ws"
	"github.com/caddyrooms/caddy-rooms/presence"
)

// feed collects the changes of a room's presence until they are told together. room.mu guards it.
type feed struct {
	total   uint64         // events ever received
	pending []event        // the latest of them, not yet told
	updates map[string]int // where in pending a user's latest update is
	timer   *time.Timer
}

// event is one change of one user.
type event struct {
	no    uint64 // counted from 1
	pseq  uint64
	count int
	json  []byte // nil: a later one says it better
	moved bool   // somebody came or went, which is all that who only counts wants to know
}

// maxEvents is how many bytes of events go into one frame, so that it fits every send queue.
const maxEvents = 32 << 10

func (f *feed) stop() {
	if f.timer != nil {
		f.timer.Stop()
	}
}

// add takes a change in. Of several updates of a user only the last one is worth telling.
func (f *feed) add(c presence.Change) {
	for i := range c.Events {
		e := &c.Events[i]
		f.total++
		if e.Op == presence.Update {
			if at, ok := f.updates[e.Member.User]; ok {
				f.pending[at].json = nil
			}
			if f.updates == nil {
				f.updates = make(map[string]int)
			}
			f.updates[e.Member.User] = len(f.pending)
		}
		f.pending = append(f.pending, event{f.total, c.PSeq, c.Count, wire.AppendEvent(nil, e), e.Op != presence.Update})
	}
}

// take returns what there is to tell, and forgets it.
func (f *feed) take() []event {
	pending := slices.DeleteFunc(f.pending, func(e event) bool { return e.json == nil })
	f.pending, f.updates = nil, nil
	return pending
}

// PresenceChanged implements presence.Observer.
func (h *Hub) PresenceChanged(name string, c presence.Change) {
	for i := range c.Events {
		switch c.Events[i].Op {
		case presence.Join:
			h.metrics.Joins.Inc()
		case presence.Update:
			h.metrics.Updates.Inc()
		case presence.Leave:
			h.metrics.Leaves.Inc()
		}
	}
	r := h.room(name)
	if r == nil || len(c.Events) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f := &r.feed
	waiting := len(f.pending) > 0
	f.add(c)
	wait := time.Duration(h.coalesce.Load())
	switch {
	case wait <= 0:
		r.tell()
	case waiting: // the timer runs
	case f.timer == nil:
		f.timer = time.AfterFunc(wait, func() {
			defer h.recovered(nil)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.tell()
		})
	default:
		f.timer.Reset(wait)
	}
}

// tell sends the pending events. A member that came while they were collected gets those that its snapshot did not have, and all get
// no more than their endpoint's rules allow now. r.mu is held.
func (r *room) tell() {
	pending := r.feed.take()
	if len(pending) == 0 {
		return
	}
	moves := slices.DeleteFunc(slices.Clone(pending), func(e event) bool { return !e.moved })
	full, counts := make([][]ws.Frame, len(pending)), make([][]ws.Frame, len(moves))
	allowed := make(map[*Endpoint]wire.Presence)
	for i := range r.members {
		m := &r.members[i]
		if m.mode == wire.PresenceNone {
			continue
		}
		e := m.session.endpoint
		mode, known := allowed[e]
		if !known {
			if rule := e.Policy().rule(r.name); rule != nil {
				mode = rule.Presence
			}
			allowed[e] = mode
		}
		events, frames := pending, full
		switch min(mode, m.mode) {
		case wire.PresenceNone:
			continue
		case wire.PresenceCount:
			events, frames = moves, counts
		case wire.PresenceFull:
		}
		first := slices.IndexFunc(events, func(e event) bool { return e.no > m.from })
		if first < 0 {
			continue
		}
		if frames[first] == nil {
			frames[first] = presenceFrames(r.name, events[first:], min(mode, m.mode))
		}
		for _, f := range frames[first] {
			m.conn.Send(f)
		}
	}
}

// presenceFrames makes as few frames of events as fit.
func presenceFrames(room string, events []event, mode wire.Presence) []ws.Frame {
	var frames []ws.Frame
	for len(events) > 0 {
		var list []byte
		n := len(events)
		if mode == wire.PresenceFull {
			for n = 0; n < len(events) && (n == 0 || len(list)+len(events[n].json) < maxEvents); n++ {
				if n > 0 {
					list = append(list, ',')
				}
				list = append(list, events[n].json...)
			}
		}
		last := events[n-1]
		b := wire.AppendPresence(ws.Buffer(96+len(room)+len(list)), room, last.pseq, last.count, list)
		frames = append(frames, ws.Text(b))
		events = events[n:]
	}
	return frames
}
