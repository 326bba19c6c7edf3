package presence

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

const (
	readers  = 4    // replicas read at the same time, which is also what paces the reading of many
	readPage = 1000 // rows in one call
)

// job is the reading of a room's replica.
type job struct {
	room    *room
	no      uint64 // void when the room's stream.readNo is another
	confirm uint64 // the heartbeat that must go well before; 0: none
}

// opened implements shared.
func (s *Redis) opened(r *room) {
	r.stream.iid = s.iid
	if s.writable() {
		s.scheduleLocked(r, false)
		return
	}
	r.local = true
	r.pseq = s.firstSeq(r)
}

// reload implements shared.
func (s *Redis) reload(r *room) {
	if !r.local || r.stream.reading { // else it is read when Redis is back
		s.schedule(r, true)
	}
}

// schedule has the replica of a locked room read. With confirm it is made sure before that Redis has not lost its data: if it has, the
// others are about to write theirs again, and what is there now would look as if all had left.
func (s *Redis) schedule(r *room, confirm bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scheduleLocked(r, confirm)
}

// scheduleLocked is schedule with base.mu held.
func (s *Redis) scheduleLocked(r *room, confirm bool) {
	st := &r.stream
	st.reading, st.buffer = true, nil
	st.readNo++
	j := job{room: r, no: st.readNo}
	if confirm {
		j.confirm = s.beats + 1
		s.rereads = append(s.rereads, j)
	} else {
		s.opens = append(s.opens, j)
	}
	s.jobs.Signal()
}

// read is one of the readers.
func (s *Redis) read() {
	for {
		j, ok := s.nextJob()
		if !ok {
			return
		}
		if !s.readJob(j) {
			time.AfterFunc(retryAfter, func() { s.retry(j) })
		}
	}
}

// nextJob waits for a reading; false at the end. Rooms that someone waits for go first.
func (s *Redis) nextJob() (job, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.ctx.Err() != nil {
			return job{}, false
		}
		for _, queue := range []*[]job{&s.opens, &s.rereads} {
			if len(*queue) > 0 {
				j := (*queue)[0]
				*queue = (*queue)[1:]
				return j, true
			}
		}
		s.jobs.Wait()
	}
}

// retry has a reading that failed made again, if it is still wanted.
func (s *Redis) retry(j job) {
	j.room.mu.Lock()
	defer j.room.mu.Unlock()
	if j.room.stream.readNo == j.no && !j.room.closed && s.ctx.Err() == nil {
		s.schedule(j.room, true)
	}
}

// readJob reads a replica; false when it failed.
func (s *Redis) readJob(j job) (ok bool) {
	defer s.recovered("presence reader panicked", zap.String("room", j.room.name))
	if j.confirm > 0 && s.confirm(j.confirm) != nil {
		return false // if Redis is out of reach, the reading is void by now
	}
	s.mu.Lock()
	acked := s.acked
	s.mu.Unlock()
	pos, rows, err := s.fetch(j.room.name)
	if err != nil {
		s.log.Debug("reading presence failed", zap.String("room", j.room.name), zap.Error(err))
		return false
	}
	s.replace(j, acked, pos, rows)
	return true
}

// confirm waits for heartbeat number n or a later one.
func (s *Redis) confirm(n uint64) error {
	s.mu.Lock()
	if s.beaten >= n {
		s.mu.Unlock()
		return nil
	}
	if !s.writable() {
		s.mu.Unlock()
		return errDown
	}
	o := s.lastBeat
	if s.beats < n || o == nil {
		o = s.beat()
	}
	s.mu.Unlock()
	return s.wait(s.ctx, o)
}

// fetch reads the sequence of a room and then its rows, which may be newer.
func (s *Redis) fetch(name string) (pos uint64, rows map[string]entry, err error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
	defer cancel()
	text, err := s.client.HGet(ctx, s.keys.seq(name), "p").Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return 0, nil, err
	}
	pos, _ = strconv.ParseUint(text, 10, 64) // a room that never was has none
	rows = map[string]entry{}
	for cursor := uint64(0); ; {
		ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
		page, next, err := s.client.HScan(ctx, s.keys.members(name), cursor, "", readPage).Result()
		cancel()
		if err != nil {
			return 0, nil, err
		}
		for i := 0; i+1 < len(page); i += 2 {
			if e, err := decodeEntry(page[i+1]); err == nil {
				rows[page[i]] = e
			}
		}
		if cursor = next; cursor == 0 {
			return pos, rows, nil
		}
	}
}

// replace makes rows, which were read at pos or later, the replica of a room, with what came since. acked is the latest own batch that
// Redis had made before.
func (s *Redis) replace(j job, acked, pos uint64, rows map[string]entry) {
	r := j.room
	r.mu.Lock()
	defer s.unlock(r)
	st := &r.stream
	if st.readNo != j.no || r.closed {
		return
	}
	reasons, seen := map[string]Reason{}, uint64(0)
	maps.Copy(reasons, st.left)
	for _, d := range st.buffer {
		if d.seq <= pos {
			continue
		}
		if d.prev != pos {
			s.schedule(r, true)
			return
		}
		for _, c := range d.changes {
			switch {
			case s.murdered(r, c):
			case c.gone:
				delete(rows, c.id)
				reasons[c.id] = c.reason
			default:
				rows[c.id] = c.entry
			}
		}
		pos, seen = d.seq, max(seen, s.ownBatch(d))
	}
	changes, whole := r.difference(rows, reasons, !r.local && acked >= st.settled)
	if !whole {
		s.suspect(errMismatch)
		return
	}
	if r.local {
		s.mu.Lock()
		st.settled = s.batch
		s.mu.Unlock()
		r.local, st.last = false, nil
	}
	st.pos, st.reading, st.buffer, st.left = pos, false, nil, nil
	events := r.apply(changes)
	if !r.viewed { // nobody has seen anything else
		events = nil
	}
	s.tell(r, pos, events)
	r.seen(seen)
	r.trim()
	r.notify()
}

// difference returns what makes the replica of a locked room equal to rows: first who is there, so that nobody leaves who
// has a new connection. Own rows are taken from rows only with own; otherwise the replica is ahead of them.
// It is not whole when an own connection is missing that Redis should have.
func (r *room) difference(rows map[string]entry, reasons map[string]Reason, own bool) (changes []change, whole bool) {
	for id, e := range rows {
		old, had := r.conns[id]
		if had && old == e || !own && r.isOwn(id) && !(had && old.same(e)) {
			continue
		}
		changes = append(changes, change{id: id, entry: e})
	}
	for id, e := range r.conns {
		if _, in := rows[id]; in || !own && r.isOwn(id) {
			continue
		}
		reason := reasons[id]
		if reason == "" {
			reason = ReasonTimeout
		}
		changes = append(changes, change{id: id, entry: entry{user: e.user}, gone: true, reason: reason})
	}
	if !own {
		return changes, true
	}
	queued := map[string]bool{}
	for _, o := range r.stream.unseen {
		for _, c := range o.changes {
			queued[c.id] = true
		}
	}
	for id := range r.own {
		if _, in := rows[r.row(id)]; !in && !queued[id] {
			return nil, false
		}
	}
	return changes, true
}
