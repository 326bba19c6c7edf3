package presence

import (
	"cmp"
	"slices"
)

// entry is one connection in a room.
type entry struct {
	user, status, device, state string

	since int64  // when the connection entered, Unix milliseconds
	ver   uint64 // the sequence of the change that set it: the highest of a user's entries is shown
	local bool   // ver and since are this instance's own, the shared store has not confirmed them
	quiet bool   // of an own connection that has said nothing: its version is 0, so that what others say stays shown
}

// same tells whether a and b say the same of the same user.
func (e entry) same(o entry) bool {
	return e.user == o.user && e.status == o.status && e.device == o.device && e.state == o.state
}

// change sets one connection of a room, or removes it. Applying it twice is as good as once.
type change struct {
	id     string
	entry  entry
	gone   bool
	reason Reason // when gone
}

// arrival is a connection that came to a user who was in the room before.
type arrival struct{ id, user string }

// roster is who is in one room. It has no lock of its own: a room's guards it.
type roster struct {
	pseq     uint64
	conns    map[string]entry
	users    map[string]*person
	order    order     // of users
	arrivals []arrival // since they were last taken
	departed departed
}

// person is the sum of a user's connections in a room.
type person struct {
	ids   []string // of the connections; rarely more than two, so a slice
	shown Member
}

func newRoster() roster {
	return roster{conns: map[string]entry{}, users: map[string]*person{}}
}

// apply makes the changes in order and returns what they mean for the users.
func (r *roster) apply(changes []change) []Event {
	var events []Event
	for _, c := range changes {
		old, had := r.conns[c.id]
		if had && (c.gone || old.user != c.entry.user) {
			events = r.remove(events, c.id, old, c.reason)
		}
		if !c.gone {
			events = r.set(events, c.id, c.entry)
		}
	}
	return events
}

func (r *roster) set(events []Event, id string, e entry) []Event {
	_, had := r.conns[id]
	r.conns[id] = e
	p := r.users[e.user]
	if p == nil {
		p = &person{ids: []string{id}}
		r.users[e.user] = p
		p.shown = r.sum(p)
		r.order.add(p)
		return append(events, Event{Op: Join, Member: p.shown})
	}
	if !had {
		p.ids = append(p.ids, id)
		r.arrivals = append(r.arrivals, arrival{id: id, user: e.user})
	}
	return r.refresh(events, p)
}

func (r *roster) remove(events []Event, id string, e entry, reason Reason) []Event {
	delete(r.conns, id)
	p := r.users[e.user]
	p.ids = slices.DeleteFunc(p.ids, func(o string) bool { return o == id })
	if len(p.ids) > 0 {
		return r.refresh(events, p)
	}
	delete(r.users, e.user)
	r.order.remove(e.user)
	p.shown.Conns = 0
	return append(events, Event{Op: Leave, Member: p.shown, Reason: reason})
}

// rename gives a connection another id, of which nobody needs to hear.
func (r *roster) rename(from, to string) {
	e, ok := r.conns[from]
	if !ok || from == to {
		return
	}
	delete(r.conns, from)
	r.conns[to] = e
	ids := r.users[e.user].ids
	ids[slices.Index(ids, from)] = to
}

// refresh computes again what a user shows, and adds an event when that differs from before.
func (r *roster) refresh(events []Event, p *person) []Event {
	was := p.shown
	p.shown = r.sum(p)
	if was.Status == p.shown.Status && was.State == p.shown.State && was.Device == p.shown.Device {
		return events
	}
	return append(events, Event{Op: Update, Member: p.shown})
}

func (r *roster) sum(p *person) Member {
	id := slices.MaxFunc(p.ids, func(a, b string) int {
		// Of several that have said nothing the first; the ids break ties, so that all instances show the same.
		x, y := r.conns[a], r.conns[b]
		return cmp.Or(cmp.Compare(x.ver, y.ver), cmp.Compare(y.since, x.since), cmp.Compare(a, b))
	})
	latest := r.conns[id]
	since := latest.since
	for _, id := range p.ids {
		since = min(since, r.conns[id].since)
	}
	return Member{
		User: latest.user, Status: latest.status, State: latest.state, Device: latest.device,
		Conns: len(p.ids), Since: since,
	}
}

// maxPageBytes bounds what the members of a page say of themselves, so that nobody can make a room too large to be read.
const maxPageBytes = 128 << 10

// page returns the members after cursor.
func (r *roster) page(cursor string, limit int) Snapshot {
	s := Snapshot{PSeq: r.pseq, Count: len(r.users)}
	if limit <= 0 {
		return s
	}
	s.Members = make([]Member, 0, min(limit, s.Count))
	size := 0
	for p := range r.order.after(cursor) {
		m := &p.shown
		size += len(m.User) + len(m.Status) + len(m.State) + len(m.Device)
		if n := len(s.Members); n == limit || n > 0 && size > maxPageBytes {
			s.Next = s.Members[n-1].User
			break
		}
		s.Members = append(s.Members, *m)
	}
	return s
}

// pageOf returns at most limit of the sorted ids that are greater than cursor, and where the next page starts.
func pageOf(sorted []string, cursor string, limit int) (ids []string, next string) {
	start, found := slices.BinarySearch(sorted, cursor)
	if found {
		start++
	}
	end := min(start+limit, len(sorted))
	if start < end && end < len(sorted) {
		next = sorted[end-1]
	}
	return sorted[start:end], next
}
