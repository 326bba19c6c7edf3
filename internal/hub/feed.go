package hub

import (
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/internal/ws"
	"github.com/caddyrooms/caddy-rooms/presence"
)

// feed collects the changes of a room's presence until they are told together. room.mu guards it.
//
// Events go on from a list of members that the client has read. While the room is crowded there are none, and who has a list has an old one:
// afterwards names are told to those who have read a new one.
type feed struct {
	total   uint64         // changes of users ever received
	pending []event        // the latest of them, not yet told; none while the room is crowded or nobody listens
	updates map[string]int // where in pending a user's latest update is
	count   tally          // the latest
	crowded bool           // the room has too many members for names to be told
	list    uint64         // the number of the list that events go on from; grows when the room gets crowded
	waiting bool           // the timer runs
	timer   *time.Timer
	counted time.Time // when the count was told last while the room was crowded
}

// event is one change of one user.
type event struct {
	no    uint64 // counted from 1
	pseq  uint64
	count int
	json  []byte // nil: a later one says it better
}

// tally is how many members a room has after somebody has come or gone, which is all that who only counts wants to know.
type tally struct {
	no   uint64 // of the change
	pseq uint64
	n    int
}

// maxEvents is how many bytes of events go into one frame, so that it fits every send queue.
const maxEvents = 32 << 10

func (f *feed) stop() {
	if f.timer != nil {
		f.timer.Stop()
	}
}

// size decides whether the room is crowded, given how many members it has and may have at most. It stays crowded until it is smaller by a
// fifth, so that who comes and goes at the bound does not make everybody read the members each time. It returns whether that has changed.
func (f *feed) size(members, most int) (changed bool) {
	crowded := f.crowded
	switch {
	case most <= 0 || members <= most-most/5:
		crowded = false
	case members > most:
		crowded = true
	}
	if crowded == f.crowded {
		return false
	}
	f.crowded = crowded
	if crowded {
		f.list++
		f.pending, f.updates = nil, nil
	}
	return true
}

// add takes a change in; with named its events are to be told. Of several updates of a user only the last one is worth telling.
func (f *feed) add(c presence.Change, named bool) (moved bool) {
	for i := range c.Events {
		e := &c.Events[i]
		f.total++
		moved = moved || e.Op != presence.Update
		if !named {
			continue
		}
		if e.Op == presence.Update {
			if at, ok := f.updates[e.Member.User]; ok {
				f.pending[at].json = nil
			}
			if f.updates == nil {
				f.updates = make(map[string]int)
			}
			f.updates[e.Member.User] = len(f.pending)
		}
		f.pending = append(f.pending, event{f.total, c.PSeq, c.Count, wire.AppendEvent(nil, e)})
	}
	return moved
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
	heard := len(r.listeners.list) > 0
	resized := f.size(c.Count, int(h.fullUpTo.Load()))
	if moved := f.add(c, heard && !f.crowded); moved || resized {
		f.count = tally{f.total, c.PSeq, c.Count}
	}
	if heard {
		r.schedule()
	}
}

// named tells whether the members of a room that has so many are told by name. It is called with the room locked in the presence store.
func (r *room) named(members int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.listeners.list) == 0 { // else its changes were heard, and how they were told must hold for all
		r.feed.size(members, int(r.hub.fullUpTo.Load()))
	}
	return !r.feed.crowded
}

// schedule has what is new told in time. r.mu is held.
func (r *room) schedule() {
	f := &r.feed
	wait := time.Duration(r.hub.coalesce.Load())
	if f.crowded {
		wait = max(wait, time.Until(f.counted.Add(r.hub.countEvery)))
	}
	switch {
	case wait <= 0 && !f.crowded:
		r.tell()
		return
	case f.waiting:
		return
	case f.timer == nil:
		f.timer = time.AfterFunc(wait, r.due)
	default:
		f.timer.Reset(wait)
	}
	f.waiting = true
}

// due tells what is new when its time has come.
func (r *room) due() {
	defer r.hub.recovered(nil)
	r.speaking.Lock()
	defer r.speaking.Unlock()
	if t := r.beginCount(); t != nil {
		defer t.end()
		r.walk(&r.listeners, t.to)
	}
}

// beginCount returns what is to be told to the listeners of a crowded room. Those of another one are told here: there are fewer of them, and
// their events can't be told in parts.
func (r *room) beginCount() *telling {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := &r.feed
	f.waiting = false
	if !f.crowded {
		r.tell()
		return nil
	}
	f.counted = time.Now()
	return r.news()
}

// tell tells all listeners what is new. r.mu is held.
func (r *room) tell() {
	t := r.news()
	defer t.end()
	r.feed.pending, r.feed.updates = nil, nil
	for i := range r.listeners.list {
		t.to(&r.listeners.list[i])
	}
}

// answer sends m a page of the room's presence, behind all changes that it has; first tells that it is the first one of the list. It is
// called with the room locked in the presence store.
func (r *room) answer(m *membership, first bool, page *ws.Frame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	reads := first && !r.feed.crowded
	if reads {
		m.asked = r.feed.list // there is no need to
	}
	t := r.news()
	defer t.end()
	t.to(&member{m, m.session.conn})
	if reads {
		m.list = r.feed.list
	}
	m.session.conn.Send(page)
}
