package presence

import (
	"context"
	"slices"
	"sort"
	"strings"

	"go.uber.org/zap"
)

const (
	maxBuffer = 4096 // diffs kept while a replica is read; beyond, reading again is cheaper
	maxUnseen = 256  // batches written but not seen on the channel; beyond, something is wrong with the subscription
)

// stream is how a room's replica follows the room in Redis. The room's mu guards it.
//
// The replica of a room that isn't local is changed by what comes on its channel only, own changes included, in the order of
// the sequence. While the room is local, own changes are made in the replica at once, and what comes of them
// on the channel later is not made again.
type stream struct {
	iid string // the name that own rows have in the replica

	pos     uint64 // the sequence that the replica has reached
	reading bool   // the replica is to be read or being read; buffer takes what comes meanwhile
	readNo  uint64 // of the latest reading; an earlier one is void
	buffer  []diff

	last    *op    // the latest batch of own changes
	unseen  []*op  // batches that the replica hasn't got yet; none while the room is local
	settled uint64 // batches up to this one were made in the replica when they were queued; of use when the room isn't local

	left map[string]Reason // rows of others that left while the room was local; the replica still has them

	waiters []*waiter // in the order of what they wait for
}

// waiter waits for the replica to reach seq.
type waiter struct {
	seq  uint64
	done chan struct{}
}

// row is the id of an own connection in a room's replica.
func (r *room) row(id string) string {
	if r.stream.iid == "" {
		return id
	}
	return r.stream.iid + "." + id
}

// mine tells whether a row is of this instance, under whichever name.
func (s *Redis) mine(row string) bool { return strings.HasPrefix(row, s.boot+"-") }

// isOwn tells whether a row is of this instance under the name that it has in the room. Rows of a former name are nobody's: they are
// there until they are removed.
func (r *room) isOwn(row string) bool { return strings.HasPrefix(row, r.row("")) }

// Deliver takes what was published on one of the channels that this store asked for, in the order of arrival. What isn't presence's it
// ignores. It never waits for anything but locks held for moments, and is called from one goroutine.
func (s *Redis) Deliver(channel string, payload []byte) {
	if len(payload) == 0 {
		return
	}
	if channel == s.UsersChannel() {
		s.deliverUsers(payload)
		return
	}
	name, ok := strings.CutPrefix(channel, s.RoomChannel(""))
	if !ok || payload[0] != kindDiff {
		return
	}
	r, err := s.lockRoom(name)
	if err != nil {
		return
	}
	defer s.unlock(r)
	d, err := decodeDiff(payload)
	if err != nil {
		s.log.Warn("presence payload is malformed", zap.String("room", name))
		return
	}
	s.receive(r, d)
}

func (s *Redis) deliverUsers(payload []byte) {
	switch payload[0] {
	case kindStatus:
		user, ver, status, err := decodeStatus(payload)
		if err != nil {
			s.log.Warn("presence payload is malformed", zap.String("channel", s.UsersChannel()))
			return
		}
		s.setStatus(user, ver, status)
	case kindReset:
		s.mu.Lock()
		if s.writable() {
			s.beat()
		}
		s.mu.Unlock()
	}
}

// Lost tells that something on channels may not have been delivered, and that they are subscribed again now. It never waits.
func (s *Redis) Lost(channels []string) {
	for _, channel := range channels {
		if channel == s.UsersChannel() {
			s.askStatuses()
			continue
		}
		name, ok := strings.CutPrefix(channel, s.RoomChannel(""))
		if !ok {
			continue
		}
		if r, err := s.lockRoom(name); err == nil {
			s.reload(r)
			s.unlock(r)
		}
	}
}

// askStatuses puts every own user online once more, as the answer holds the explicit status.
func (s *Redis) askStatuses() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for user := range s.users {
		s.assert(user)
	}
}

// receive takes a diff for a locked room.
func (s *Redis) receive(r *room, d diff) {
	st := &r.stream
	switch {
	case st.reading && len(st.buffer) < maxBuffer:
		st.buffer = append(st.buffer, d)
	case st.reading:
		s.schedule(r, true)
	case r.local:
		s.follow(r, d)
	case d.seq <= st.pos: // read with the replica
	case d.prev != st.pos:
		s.schedule(r, true)
	default:
		own := s.ownBatch(d)
		s.follow(r, d)
		st.pos = d.seq
		r.seen(own)
		r.notify()
	}
}

// follow makes the changes of d in the replica of a locked room.
func (s *Redis) follow(r *room, d diff) {
	st := &r.stream
	changes := d.changes[:0]
	for _, c := range d.changes {
		switch {
		case s.murdered(r, c):
		case r.local && c.gone && !r.isOwn(c.id):
			// What came before may have been missed: the same member under a new name of its instance, which may only be late to
			// come back. Who has gone will not be there when the replica is read.
			if st.left == nil {
				st.left = map[string]Reason{}
			}
			st.left[c.id] = c.reason
		case !r.isOwn(c.id):
			// While the room is local, a late batch of a former name says what was true before.
			if !r.local || !s.mine(c.id) {
				changes = append(changes, c)
			}
		case !r.local && d.batch > st.settled:
			changes = append(changes, c)
		case !c.gone:
			// Made already. If nothing newer was made since, its version and time are now those of Redis.
			if e, ok := r.conns[c.id]; ok && e.same(c.entry) {
				changes = append(changes, c)
			}
		}
	}
	s.tell(r, d.seq, r.apply(changes))
}

// murdered tells whether c is another instance taking this one for dead, which it isn't: its members stay, and it starts over.
func (s *Redis) murdered(r *room, c change) bool {
	if !c.gone || c.reason != ReasonNode || !r.isOwn(c.id) {
		return false
	}
	s.suspect(errGone)
	return true
}

// ownBatch returns the number of the own batch that d is of, or 0.
func (s *Redis) ownBatch(d diff) uint64 {
	if len(d.changes) == 0 || !s.mine(d.changes[0].id) {
		return 0
	}
	return d.batch
}

// seen forgets the own batches up to one that came to the replica of a locked room.
func (r *room) seen(batch uint64) {
	st := &r.stream
	st.unseen = slices.DeleteFunc(st.unseen, func(o *op) bool { return o.batch <= batch })
}

// ack notes that Redis has made o, a batch of changes.
func (s *Redis) ack(o *op, seq uint64, changed bool) {
	s.mu.Lock()
	s.acked = o.batch
	s.mu.Unlock()
	r := o.room
	r.mu.Lock()
	defer s.unlock(r)
	st := &r.stream
	o.seq, o.acked = seq, true
	if !changed {
		st.unseen = slices.DeleteFunc(st.unseen, func(u *op) bool { return u == o })
	}
	r.trim()
	if len(st.unseen) > maxUnseen && !st.reading {
		s.schedule(r, true)
	}
}

// trim forgets the batches that a locked room's replica has by its position.
func (r *room) trim() {
	st := &r.stream
	st.unseen = slices.DeleteFunc(st.unseen, func(o *op) bool { return o.acked && o.seq <= st.pos })
}

// detach makes a locked room local: what was queued but not seen yet is made in the replica at once.
func (s *Redis) detach(r *room) {
	st := &r.stream
	st.last, st.reading, st.buffer = nil, false, nil
	st.readNo++
	if !r.local {
		r.local = true
		for _, o := range st.unseen {
			s.applyOwn(r, o.changes)
		}
		st.unseen = nil
	}
	r.notify()
}

// notify wakes those who wait for what a locked room's replica has reached.
func (r *room) notify() {
	st := &r.stream
	n := len(st.waiters)
	switch {
	case r.local:
	case st.reading:
		n = 0
	default:
		n = st.waitersFor(st.pos)
	}
	for _, w := range st.waiters[:n] {
		close(w.done)
	}
	st.waiters = slices.Delete(st.waiters, 0, n)
}

// waitersFor returns how many wait for seq or less.
func (st *stream) waitersFor(seq uint64) int {
	return sort.Search(len(st.waiters), func(i int) bool { return st.waiters[i].seq > seq })
}

// reach waits until the replica of a locked room has reached seq; false when it hasn't. The room is unlocked meanwhile.
func (s *Redis) reach(ctx context.Context, r *room, seq uint64) bool {
	st := &r.stream
	if r.local || !st.reading && st.pos >= seq {
		return !r.local
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	w := &waiter{seq: seq, done: make(chan struct{})}
	st.waiters = slices.Insert(st.waiters, st.waitersFor(seq), w)
	s.unlock(r)
	woken := false
	select {
	case <-w.done:
		woken = true
	case <-ctx.Done():
	case <-s.ctx.Done():
	}
	r.mu.Lock()
	if !woken {
		st.waiters = slices.DeleteFunc(st.waiters, func(o *waiter) bool { return o == w })
	}
	return !r.local && !st.reading && st.pos >= seq
}

// await implements shared.
func (s *Redis) await(ctx context.Context, r *room, o *op) (degraded bool) {
	s.unlock(r)
	err := s.wait(ctx, o)
	r.mu.Lock()
	return err != nil || !s.reach(ctx, r, o.seq)
}

// degraded implements shared.
func (s *Redis) degraded(r *room) bool { return r.local || r.stream.reading }

// loaded implements shared.
func (s *Redis) loaded(ctx context.Context, r *room) (degraded bool) { return !s.reach(ctx, r, 0) }
