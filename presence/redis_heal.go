package presence

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

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
	lost := append(s.inflight, s.queue...)
	s.inflight, s.queue, s.queued, s.lastBeat = nil, nil, 0, nil
	s.endLife()
	rooms := slices.Collect(maps.Values(s.rooms))
	s.mu.Unlock()
	for _, r := range rooms {
		r.mu.Lock()
		s.detach(r)
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
	dead, err := s.run(s.ctx, registerScript, lease, iid, s.ttl.Milliseconds(), s.UsersChannel(), announce).StringSlice()
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
	s.wg.Go(func() { s.heal(life, iid, pushed, stale) })
	return true
}

// clear removes the instances that had ended before this one came, so that it shows nobody who is long gone. What takes longer than a
// call may is left to the heartbeats.
func (s *Redis) clear(dead []string) {
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
	defer cancel()
	for _, iid := range dead {
		if s.reap(ctx, iid) != nil {
			return
		}
		s.log.Info("removed a dead instance", zap.String("dead", iid))
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
func (s *Redis) heal(life context.Context, iid string, pushed *op, stale []string) {
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
	if len(stale) > 0 && !s.reunite(life) {
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
	s.log.Info("presence is shared", zap.String("instance", iid), zap.Int("rooms", len(rooms)))
}

// settle is how long others get to notice, by the message that comes with a new name, that Redis has lost their data as well.
const settle = 250 * time.Millisecond

// reunite waits, no longer than a lease lasts, until all instances that have members here have written theirs again: after an outage of
// Redis not all come back at the same moment, and none shall be taken for dead because it comes later. Then it removes those that are. It
// returns false when the present life ends before.
func (s *Redis) reunite(life context.Context) bool {
	awaited := s.neighbours()
	for deadline := time.Now().Add(s.ttl); s.sleep(life, settle); {
		back, dead, err := s.leases(life)
		if err != nil {
			continue
		}
		for boot := range awaited {
			if back[boot] {
				delete(awaited, boot)
			}
		}
		if len(awaited) > 0 && time.Now().Before(deadline) {
			continue
		}
		for _, iid := range dead {
			if s.mine(iid) {
				continue // disposed of already, or its lease was not
			}
			if err := s.reap(life, iid); err != nil {
				s.log.Warn("removing a dead instance failed, the next heartbeat tries again", zap.String("dead", iid), zap.Error(err))
				continue
			}
			s.log.Info("removed a dead instance", zap.String("dead", iid))
		}
		return life.Err() == nil
	}
	return false
}

// neighbours returns the other instances that have members in the replicas, by what all of their names begin with.
func (s *Redis) neighbours() map[string]bool {
	s.mu.Lock()
	rooms := slices.Collect(maps.Values(s.rooms))
	s.mu.Unlock()
	boots := map[string]bool{}
	for _, r := range rooms {
		r.mu.Lock()
		for id := range r.conns {
			if iid, _, _ := strings.Cut(id, "."); !s.mine(iid) {
				boots[bootOf(iid)] = true
			}
		}
		r.mu.Unlock()
	}
	return boots
}

// leases returns the instances that are alive and have written all that they have, by what their names begin with, and the names of those
// whose leases have ended.
func (s *Redis) leases(ctx context.Context) (back map[string]bool, dead []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	pipe := s.client.Pipeline()
	clock := pipe.Time(ctx)
	rows := pipe.ZRangeWithScores(ctx, s.keys.leases(), 0, -1)
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, nil, err
	}
	now, back := float64(clock.Val().UnixMilli()), map[string]bool{}
	writing := map[string]bool{}
	for _, row := range rows.Val() {
		iid, _ := row.Member.(string)
		switch {
		case row.Score <= now:
			dead = append(dead, iid)
		case row.Score != math.Trunc(row.Score):
			writing[bootOf(iid)] = true
		default:
			back[bootOf(iid)] = true
		}
	}
	for boot := range writing {
		delete(back, boot)
	}
	return back, dead, nil
}

// bootOf returns what all names of an instance begin with.
func bootOf(iid string) string { return iid[:max(strings.LastIndexByte(iid, '-'), 0)] }

// dispose removes what a former name of this instance left behind.
func (s *Redis) dispose(ctx context.Context, old string) error {
	keys := []string{s.keys.leases(), s.keys.counters(), s.keys.reasons()}
	if err := s.run(ctx, retireScript, keys, old, 0, string(ReasonTimeout)).Err(); err != nil {
		return err
	}
	return s.reap(ctx, old)
}
