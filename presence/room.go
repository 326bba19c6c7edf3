package presence

import (
	"sync"

	"go.uber.org/zap"
)

// room is a room that is open on this instance: its replica, and what this instance's own connections say in it.
//
// mu guards everything in it. It is taken before base.mu, never after; two rooms are never locked at once; the
// Observer is called with it held. A room whose replica is changed is unlocked with base.unlock.
type room struct {
	name string

	mu sync.Mutex
	roster
	own     map[string]entry // what own connections want to be, by connection id: the truth, whatever the store says
	viewed  bool             // a View was handed out, so that every change from then on must be told
	closed  bool             // forgotten: no longer in base.rooms
	closing bool             // to be forgotten when the last held connection has left

	// local is set while own changes are made in the replica at once: always in Memory, and while the store is out of reach.
	local  bool
	stream stream // unused in Memory
}

func newRoom(name string) *room {
	return &room{name: name, roster: newRoster(), own: map[string]entry{}}
}

// view implements View.
type view struct {
	room     *room
	degraded bool
	now      int64 // Unix milliseconds
}

// Member implements View.
func (v view) Member(user string) (Member, bool) {
	p := v.room.users[user]
	if p == nil {
		return Member{}, false
	}
	return p.shown, true
}

// Page implements View.
func (v view) Page(cursor string, limit int) Snapshot {
	s := v.room.page(cursor, limit)
	s.Degraded = v.degraded
	return s
}

// Departed implements View.
func (v view) Departed() []Departed { return v.room.away(v.now - departedFor.Milliseconds()) }

// applyOwn changes own connections in the replica of a locked room at once, under a sequence of its own.
// The changes carry connection ids.
func (b *base) applyOwn(r *room, changes []change) {
	seq := max(r.pseq+1, b.firstSeq(r))
	rows := make([]change, len(changes))
	for i, c := range changes {
		c.id = r.row(c.id)
		if !c.gone {
			c.entry.ver, c.entry.since, c.entry.local = seq, b.now(), true
			if c.entry.quiet {
				c.entry.ver = 0
			}
			if old, ok := r.conns[c.id]; ok {
				c.entry.since = old.since
			}
		}
		rows[i] = c
	}
	b.tell(r, seq, r.apply(rows))
}

// firstSeq is where the sequence of a room that never had one starts: at the time in microseconds, so that it is
// higher than that of any earlier life of the room.
func (b *base) firstSeq(r *room) uint64 {
	if r.pseq > 0 {
		return 0
	}
	return uint64(b.clock().UnixMicro())
}

// tell moves the sequence of a locked room to seq or further and hands events to the observer.
func (b *base) tell(r *room, seq uint64, events []Event) {
	if len(events) == 0 {
		r.pseq = max(r.pseq, seq)
		return
	}
	r.pseq = max(r.pseq+1, seq)
	for _, e := range events {
		if e.Op == Leave {
			r.departed.add(Departed{e.Member.User, e.Member.State, b.now()})
		}
	}
	// A panic would leave the room locked for good.
	defer b.recovered("presence observer panicked", zap.String("room", r.name))
	b.observer.PresenceChanged(r.name, Change{PSeq: r.pseq, Count: len(r.users), Events: events})
}

// unlock unlocks a room, and ends the grace of connections whose users are back in it.
func (b *base) unlock(r *room) {
	arrivals := r.arrivals
	r.arrivals = nil
	r.mu.Unlock()
	for _, a := range arrivals {
		b.dropHeld(r, a)
	}
}
