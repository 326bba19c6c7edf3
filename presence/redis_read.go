package presence

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

const (
	readers   = 4    // goroutines that read replicas, which is also what paces the reading of many
	readRooms = 16   // replicas that one reads together
	readPage  = 1000 // rows in one call; those of one pipeline keep Redis busy for some milliseconds
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
		jobs := s.nextJobs()
		if len(jobs) == 0 {
			return
		}
		if failed := s.readJobs(jobs); len(failed) > 0 {
			time.AfterFunc(retryAfter, func() {
				for _, j := range failed {
					s.retry(j)
				}
			})
		}
	}
}

// nextJobs waits for readings that can be made together; none at the end. Rooms that someone waits for go first.
func (s *Redis) nextJobs() []job {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.ctx.Err() != nil {
			return nil
		}
		for _, queue := range []*[]job{&s.opens, &s.rereads} {
			if n := min(len(*queue), readRooms); n > 0 {
				jobs := (*queue)[:n:n]
				*queue = (*queue)[n:]
				return jobs
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

// readJobs reads replicas and returns the readings that failed.
func (s *Redis) readJobs(jobs []job) (failed []job) {
	defer s.recovered("presence reader panicked")
	failed = jobs // also after a panic
	for _, j := range jobs {
		if j.confirm > 0 && s.confirm(j.confirm) != nil {
			return failed // if Redis is out of reach, the readings are void by now
		}
	}
	s.mu.Lock()
	acked := s.acked
	s.mu.Unlock()
	var again []job
	for i, r := range s.fetch(jobs) {
		if r.err != nil {
			s.log.Debug("reading presence failed", zap.String("room", jobs[i].room.name), zap.Error(r.err))
			again = append(again, jobs[i])
			continue
		}
		s.replace(jobs[i], acked, r)
	}
	return again
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

// replica is what was read of a room: its sequence, and its rows, which may be newer.
type replica struct {
	pos      uint64
	departed []string // as the scripts write it
	rows     map[string]entry
	err      error
}

// fetch reads rooms in one round trip, and the further pages of large ones in one more each.
func (s *Redis) fetch(jobs []job) []replica {
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
	defer cancel()
	pipe := s.client.Pipeline()
	seqs, pages := make([]*redis.StringCmd, len(jobs)), make([]*redis.ScanCmd, len(jobs))
	departed := make([]*redis.StringSliceCmd, len(jobs))
	for i, j := range jobs {
		seqs[i] = pipe.HGet(ctx, s.keys.seq(j.room.name), "p")
		departed[i] = pipe.LRange(ctx, s.keys.departed(j.room.name), 0, -1)
		pages[i] = pipe.HScan(ctx, s.keys.members(j.room.name), 0, "", readPage)
	}
	cmds, failed := pipe.Exec(ctx)
	if slices.ContainsFunc(cmds, func(c redis.Cmder) bool { return c.Err() != nil }) {
		failed = nil // each has its own error, unless go-redis leaves them as they are because Redis refused to set the connection up
	}
	replicas := make([]replica, len(jobs))
	for i, j := range jobs {
		err := cmp.Or(seqs[i].Err(), failed)
		if errors.Is(err, redis.Nil) { // a room that never was
			err = nil
		}
		err = cmp.Or(err, departed[i].Err())
		if err == nil {
			replicas[i].rows, err = s.rows(j.room.name, pages[i])
		}
		replicas[i].pos, _ = strconv.ParseUint(seqs[i].Val(), 10, 64)
		replicas[i].departed = departed[i].Val()
		replicas[i].err = err
	}
	return replicas
}

// rows returns the rows of a room whose first page was read.
func (s *Redis) rows(name string, first *redis.ScanCmd) (map[string]entry, error) {
	rows := map[string]entry{}
	page, cursor, err := first.Result()
	for {
		if err != nil {
			return nil, err
		}
		for i := 0; i+1 < len(page); i += 2 {
			if e, err := decodeEntry(page[i+1]); err == nil {
				rows[page[i]] = e
			}
		}
		if cursor == 0 {
			return rows, nil
		}
		ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
		page, cursor, err = s.client.HScan(ctx, s.keys.members(name), cursor, "", readPage).Result()
		cancel()
	}
}

// replace makes what was read the replica of a room, with what came since. acked is the latest own batch that Redis had made before.
func (s *Redis) replace(j job, acked uint64, read replica) {
	r, pos, rows := j.room, read.pos, read.rows
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
	r.departed.addAll(read.departed)
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
