package presence

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// lose ends what the present name stood for: every room becomes local, what was queued is dropped, as it is part of what
// will be written under the next name. Only the writer calls it.
func (s *Redis) lose(cause error) {
	s.warn(cause)
	s.mu.Lock()
	if s.up {
		s.stale = append(s.stale, s.iid)
		if len(s.stale) > 16 { // the oldest lease has ended or will, and then others remove what is left
			s.stale = s.stale[1:]
		}
	}
	s.up, s.doubt = false, nil
	var lost []*op
	for _, c := range s.inflight {
		lost = append(lost, c.ops...)
	}
	lost = append(lost, s.queue...)
	s.inflight, s.queue, s.queued, s.lastBeat = nil, nil, 0, nil
	s.endLife()
	rooms := slices.Collect(maps.Values(s.rooms))
	s.mu.Unlock()
	s.others = map[string]bool{}
	for _, r := range rooms {
		r.mu.Lock()
		s.detach(r)
		for id := range r.conns {
			if iid, _, _ := strings.Cut(id, "."); !s.mine(iid) {
				s.others[iid] = true
			}
		}
		s.unlock(r)
	}
	for _, o := range lost {
		if o.lost != nil {
			o.lost()
		}
		o.finish(errors.Join(errDown, cause))
	}
}

// begin registers a new name and queues everything of this instance under it. Only the writer calls it.
func (s *Redis) begin() bool {
	s.generation++
	iid := s.name(s.generation)
	s.mu.Lock()
	stale, closed := slices.Clone(s.stale), s.closed
	s.mu.Unlock()
	if closed {
		return false
	}
	announce := ""
	if len(stale) > 0 {
		announce = string(kindReset)
	}
	if err := s.loadScripts(); err != nil {
		s.warn(err)
		return false
	}
	sent := time.Now()
	lease := []string{s.keys.leases(), s.keys.counters()}
	args := append([]any{iid, s.ttl.Milliseconds(), s.UsersChannel(), announce}, s.events.Load().reset()...)
	dead, err := s.run(s.ctx, registerScript, lease, args...).StringSlice()
	if err != nil {
		s.warn(err)
		return false
	}
	if len(stale) == 0 {
		s.clear(dead)
	}
	s.w, s.begun, s.renewed, s.nextBeat = 1, sent, sent, sent.Add(s.interval())

	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false
	}
	s.iid, s.up, s.doubt, s.pushing, s.healing = iid, true, nil, true, len(stale) > 0
	if s.healing {
		// reunite waits for those only with whom this instance shares rooms.
		s.whole = sent.Add(2 * s.interval())
	}
	for _, c := range s.conns {
		s.online(c)
	}
	for user, u := range s.unsent {
		s.pushStatus(user, u.status)
	}
	clear(s.unsent)
	rooms := slices.Collect(maps.Values(s.rooms))
	var life context.Context
	life, s.endLife = context.WithCancel(s.ctx)
	s.mu.Unlock()

	for _, r := range rooms {
		r.mu.Lock()
		s.attach(r, iid)
		s.unlock(r)
	}
	s.mu.Lock()
	pushed := s.beat()
	s.mu.Unlock()
	others := s.others
	s.wg.Go(func() { s.heal(life, iid, pushed, stale, others) })
	return true
}

// clear removes the instances that had ended before this one came, so that it shows nobody who is long gone. What takes longer than a
// call may is left to the heartbeats.
func (s *Redis) clear(dead []string) {
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
	defer cancel()
	for _, iid := range dead {
		died, err := s.reap(ctx, iid)
		if err != nil {
			return
		}
		s.buried(iid, died)
	}
}

// attach gives own rows in a locked room the name iid, and queues them.
func (s *Redis) attach(r *room, iid string) {
	st := &r.stream
	if r.closed || st.iid == iid {
		return
	}
	for id := range r.own {
		r.rename(st.iid+"."+id, iid+"."+id)
	}
	st.iid, st.last = iid, nil
	for id, e := range r.own {
		// With its version and time as they were, nothing changes for those who see the same row twice.
		if row := r.conns[r.row(id)]; !row.local {
			e.ver, e.since = row.ver, row.since
		}
		s.change(r, change{id: id, entry: e})
	}
}

// heal makes the replicas follow Redis again, when all is written under the name iid (pushed): what former names
// left behind is removed, others get the time to do the same, and then the rooms are read. It ends with the life of the name.
func (s *Redis) heal(life context.Context, iid string, pushed *op, stale []string, others map[string]bool) {
	defer s.recovered("presence panicked while healing")
	if s.wait(life, pushed) != nil {
		return
	}
	s.mu.Lock()
	s.pushing = false
	s.mu.Unlock()
	for _, old := range stale {
		if err := s.dispose(life, old); err != nil {
			s.log.Warn("former presence is left to its lease", zap.String("instance", old), zap.Error(err))
			continue
		}
		s.mu.Lock()
		s.stale = slices.DeleteFunc(s.stale, func(o string) bool { return o == old })
		s.mu.Unlock()
	}
	if len(stale) > 0 && !s.reunite(life, others) {
		return
	}
	s.mu.Lock()
	s.healing, s.warned = false, false
	rooms := slices.Collect(maps.Values(s.rooms))
	s.mu.Unlock()
	for _, r := range rooms {
		r.mu.Lock()
		if r.local && r.stream.iid == iid && life.Err() == nil {
			s.schedule(r, false)
		}
		s.unlock(r)
	}
	if len(stale) > 0 {
		s.reconciled()
	}
	s.log.Info("presence is shared", zap.String("instance", iid), zap.Int("rooms", len(rooms)))
}

// settle is how often reunite looks, and how long an instance may take from its heartbeat to its new name when that has told it of a loss.
const settle = 150 * time.Millisecond

// reunite waits, no longer than a lease lasts, until all instances that had members here when the last name was lost have looked after
// theirs since: after an outage of Redis, or the loss of its data, not all notice at the same moment, and none shall be taken for dead, or
// its members for gone, because it comes later. Then it removes those that are dead. It returns false when the present life ends before.
func (s *Redis) reunite(life context.Context, others map[string]bool) bool {
	var first map[string]float64
	calm := 0
	for deadline := time.Now().Add(s.ttl); s.sleep(life, settle); {
		leases, now, err := s.leases(life)
		if err != nil {
			calm = 0
			continue
		}
		if first == nil {
			first = leases
		}
		if calm++; !returned(others, first, leases, now) {
			calm = 0
		}
		// Twice, as a heartbeat tells an instance of a loss only when its lease is renewed.
		if calm < 2 && time.Now().Before(deadline) {
			continue
		}
		for iid, ends := range leases {
			if ends > now || s.mine(iid) {
				continue
			}
			died, err := s.reap(life, iid)
			if err != nil {
				s.log.Warn("removing a dead instance failed, the next heartbeat tries again", zap.String("dead", iid), zap.Error(err))
				continue
			}
			s.buried(iid, died)
		}
		return life.Err() == nil
	}
	return false
}

// returned tells whether each of the others has a lease that was renewed since the first look, or has a new name, and none is still
// writing what it has.
func returned(others map[string]bool, first, leases map[string]float64, now float64) bool {
	back := map[string]bool{}
	for iid, ends := range leases {
		if boot := bootOf(iid); ends <= now {
			continue
		} else if ends != math.Trunc(ends) {
			return false
		} else if !others[iid] || ends > first[iid] {
			back[boot] = true
		}
	}
	for iid := range others {
		if !back[bootOf(iid)] {
			return false
		}
	}
	return true
}

// leases returns when the lease of each instance ends, in milliseconds, and the time of Redis.
func (s *Redis) leases(ctx context.Context) (ends map[string]float64, now float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	pipe := s.client.Pipeline()
	read := s.readLeases(ctx, pipe)
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, 0, err
	}
	ends, now = read()
	return ends, now, nil
}

// readLeases asks in a pipeline for what leases returns, and returns what tells it afterwards.
func (s *Redis) readLeases(ctx context.Context, pipe redis.Pipeliner) func() (ends map[string]float64, now float64) {
	clock := pipe.Time(ctx)
	rows := pipe.ZRangeWithScores(ctx, s.keys.leases(), 0, -1)
	return func() (map[string]float64, float64) {
		ends := map[string]float64{}
		for _, row := range rows.Val() {
			iid, _ := row.Member.(string)
			ends[iid] = row.Score
		}
		return ends, float64(clock.Val().UnixMilli())
	}
}

// bootOf returns what all names of an instance begin with.
func bootOf(iid string) string { return iid[:max(strings.LastIndexByte(iid, '-'), 0)] }

// nodeOf returns the readable name of an instance, given what all its names begin with: that is made as they are.
func nodeOf(boot string) string { return bootOf(boot) }

// dispose removes what a former name of this instance left behind.
func (s *Redis) dispose(ctx context.Context, old string) error {
	keys := []string{s.keys.leases(), s.keys.counters(), s.keys.reasons()}
	if err := s.run(ctx, retireScript, keys, old, 0, string(ReasonTimeout)).Err(); err != nil {
		return err
	}
	_, err := s.reap(ctx, old)
	return err
}
