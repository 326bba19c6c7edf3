package hub

import (
	"runtime"

	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/internal/ws"
)

// membership is a session's place in a room.
type membership struct {
	room     *room
	session  *Session
	byServer bool // the server wants the session here, whatever the rules say; written under its work and mu, read under one of them

	// Guarded by room.mu.

	slots [rolls]int    // in the rolls of the room; -1: not on it
	mode  wire.Presence // how much of the presence it wants to be told
	from  uint64        // changes of the presence that it knows of
	list  uint64        // the number of the feed's list that it has begun to read; 0: of none, so names would tell it nothing
	asked uint64        // the number of the feed's list that it was told to read
}

func newMembership(r *room, s *Session, byServer bool) *membership {
	return &membership{room: r, session: s, byServer: byServer, slots: [rolls]int{-1, -1}}
}

// The rolls of a room.
const (
	onMembers   = iota // who is in it
	onListeners        // who of them is told of its presence
	rolls
)

// roll is some of a room's members, in no order. It can be walked in parts, with members coming and going in between. room.mu guards it.
type roll struct {
	which  int // the index in the slots of memberships
	list   []member
	walked int // those before it were reached by the walk that is under way
}

// member is an entry of a roll.
type member struct {
	*membership
	conn *ws.Conn // the session's, close at hand
}

func (l *roll) has(m *membership) bool { return m.slots[l.which] >= 0 }

// add puts m on the roll, who isn't. A walk that is under way passes it by: it may be a session that was reached, has left, and is here again.
func (l *roll) add(m *membership) {
	at := len(l.list)
	l.list = append(l.list, member{})
	l.fill(at, l.walked)
	l.list[l.walked] = member{m, m.session.conn}
	m.slots[l.which] = l.walked
	l.walked++
}

// remove takes m off the roll, who is on it.
func (l *roll) remove(m *membership) {
	at := m.slots[l.which]
	m.slots[l.which] = -1
	if at < l.walked { // whoever fills the place must have been reached, too
		l.walked--
		l.fill(at, l.walked)
		at = l.walked
	}
	last := len(l.list) - 1
	l.fill(at, last)
	l.list[last] = member{}
	l.list = l.list[:last]
}

// fill moves a member to a place that is free.
func (l *roll) fill(place, from int) {
	l.list[place] = l.list[from]
	if place != from {
		l.list[place].slots[l.which] = place
	}
}

// walkPart is how many members are reached with room.mu locked: some 200 microseconds.
const walkPart = 1024

// walk calls do for the members on a roll, with mu locked for a part of them at a time: whoever comes, goes or changes waits for a part,
// not for all. Members who come meanwhile are not reached. speaking is held.
func (r *room) walk(l *roll, do func(*member)) {
	for start := true; r.walkSome(l, start, do); start = false {
		runtime.Gosched() // to who waits for mu
	}
}

// walkSome reaches a part, from the start of the roll or from where the walk has come to. It returns whether there are more.
func (r *room) walkSome(l *roll, start bool, do func(*member)) (more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if start {
		l.walked = 0
	}
	for end := min(l.walked+walkPart, len(l.list)); l.walked < end; l.walked++ {
		do(&l.list[l.walked])
	}
	return l.walked < len(l.list)
}
