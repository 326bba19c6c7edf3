package presence

import (
	"slices"
	"time"
)

// Disconnect implements Store.
func (b *base) Disconnect(id string, hold time.Duration, reason Reason) {
	b.mu.Lock()
	c := b.conns[id]
	if c == nil || b.closed {
		b.mu.Unlock()
		return
	}
	if c.timer == nil {
		b.users[c.User].lost = b.now()
	}
	if hold > 0 {
		if c.timer != nil {
			c.timer.Stop()
		} else {
			b.users[c.User].held++
		}
		c.timer = time.AfterFunc(hold, func() {
			defer b.recovered("presence panicked while ending a grace")
			b.expire(c, reason)
		})
	}
	b.mu.Unlock()
	if hold <= 0 {
		b.expire(c, reason)
	}
}

// Release implements Store.
func (b *base) Release(name, roomName string, reason Reason) {
	b.mu.Lock()
	u := b.users[name]
	if u == nil || u.held == 0 || b.closed {
		b.mu.Unlock()
		return
	}
	held := map[*conn]*room{}
	for c := range u.conns.Values() {
		if r, in := c.rooms.Get(roomName); c.timer != nil && (roomName == "" || in) {
			held[c] = r
		}
	}
	b.mu.Unlock()
	for c, r := range held {
		if r == nil {
			b.expire(c, reason)
			continue
		}
		r.mu.Lock()
		b.leave(r, c.ID, reason)
		b.unlock(r)
	}
}

// expire ends an own connection.
func (b *base) expire(c *conn, reason Reason) {
	b.mu.Lock()
	if b.conns[c.ID] != c || b.closed {
		b.mu.Unlock()
		return
	}
	delete(b.conns, c.ID) // from here on nothing enters it into a room
	u := b.users[c.User]
	u.conns.Delete(c.ID)
	if c.timer != nil {
		c.timer.Stop()
		u.held--
	}
	if u.conns.Len() == 0 {
		delete(b.users, c.User)
		if b.archive != nil && !c.Anonymous {
			b.archive.Went(c.User, c.Device, u.lost)
		}
	}
	if b.shared != nil {
		b.shared.offline(c)
	}
	rooms := slices.Collect(c.rooms.Values())
	b.mu.Unlock()
	for _, r := range rooms {
		r.mu.Lock()
		b.leave(r, c.ID, reason)
		b.unlock(r)
	}
}

// dropHeld ends the grace of a user's connections in a room that the user has come back to: no event, as the user is in it.
func (b *base) dropHeld(r *room, a arrival) {
	r.mu.Lock()
	_, idle := b.leaveHeld(r, a.user, a.id)
	b.unlock(r)
	b.expireAll(idle)
}

// leaveHeld takes the held connections of user out of a locked room, except the one whose own late arrival it may be. It returns
// what is written last, if anything is, and the connections that are in no room any more.
func (b *base) leaveHeld(r *room, user, except string) (last *op, idle []*conn) {
	b.mu.Lock()
	u := b.users[user]
	if u == nil || u.held == 0 || b.closed {
		b.mu.Unlock()
		return nil, nil
	}
	var held []*conn
	for c := range u.conns.Values() {
		if in, _ := c.rooms.Get(r.name); c.timer != nil && in == r && r.row(c.ID) != except {
			held = append(held, c)
		}
	}
	b.mu.Unlock()
	for _, c := range held {
		last = b.leave(r, c.ID, ReasonTimeout)
		b.mu.Lock()
		if c.rooms.Len() == 0 {
			idle = append(idle, c)
		}
		b.mu.Unlock()
	}
	return last, idle
}

// expireAll ends held connections that are in no room any more. No lock is held.
func (b *base) expireAll(idle []*conn) {
	for _, c := range idle {
		b.expire(c, ReasonTimeout)
	}
}
