package presence

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
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
		announce = s.UsersChannel()
	}
	if err := s.loadScripts(); err != nil {
		s.warn(err)
		return false
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
	defer cancel()
	sent := time.Now()
	err := registerScript.Run(ctx, s.client, []string{s.keys.leases(), s.keys.counters()}, iid, s.ttl.Milliseconds(), announce).Err()
	if err != nil {
		s.warn(err)
		return false
	}
	s.w, s.begun, s.renewed, s.nextBeat = 1, sent, sent, sent.Add(s.interval())

	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false
	}
	s.iid, s.up, s.doubt, s.pushing = iid, true, nil, true
	for _, c := range s.conns {
		s.online(c)
	}
	for user, status := range s.unsent {
		s.pushStatus(user, status)
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
	if len(stale) > 0 && !s.sleep(life, min(s.ttl/4, time.Second)) {
		return
	}
	s.mu.Lock()
	s.warned = false
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

// dispose removes what a former name of this instance left behind.
func (s *Redis) dispose(ctx context.Context, old string) error {
	call, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	err := retireScript.Run(call, s.client, []string{s.keys.leases(), s.keys.counters(), s.keys.reasons()},
		old, 0, string(ReasonTimeout)).Err()
	if err != nil {
		return err
	}
	return s.reap(ctx, old)
}

// bury has a dead instance removed soon. All instances that see it do so, each after a moment of its own, so that mostly one does it all.
func (s *Redis) bury(dead string) {
	s.mu.Lock()
	busy := s.reaping[dead]
	s.reaping[dead] = true
	s.mu.Unlock()
	if busy {
		return
	}
	s.wg.Go(func() {
		defer func() {
			s.mu.Lock()
			delete(s.reaping, dead)
			s.mu.Unlock()
		}()
		defer s.recovered("presence panicked while removing an instance")
		if !s.sleep(s.ctx, rand.N(500*time.Millisecond)) {
			return
		}
		if err := s.reap(s.ctx, dead); err != nil {
			s.log.Warn("removing a dead instance failed, the next heartbeat tries again", zap.String("dead", dead), zap.Error(err))
			return
		}
		s.log.Info("removed a dead instance", zap.String("dead", dead))
	})
}

// reap removes an instance whose lease has ended, with all its connections. Any number of instances may do so at the same time: each
// connection is removed, and told as gone, once.
func (s *Redis) reap(ctx context.Context, dead string) error {
	k := s.keys
	run := func(f func(ctx context.Context) error) error {
		call, cancel := context.WithTimeout(ctx, s.timeout)
		defer cancel()
		return f(call)
	}
	fenced := 0
	err := run(func(ctx context.Context) (err error) {
		fenced, err = reapFence.Run(ctx, s.client, []string{k.leases(), k.counters()}, dead).Int()
		return err
	})
	if err != nil || fenced == 0 {
		return err
	}
	some := func(key string, f func(names []string) error) error {
		for {
			var names []string
			err := run(func(ctx context.Context) (err error) {
				names, err = s.client.SRandMemberN(ctx, key, 200).Result()
				return err
			})
			if err != nil || len(names) == 0 {
				return err
			}
			if err := f(names); err != nil {
				return err
			}
		}
	}
	err = some(k.roomsOf(dead), func(rooms []string) error {
		for _, room := range rooms {
			for cursor := "0"; ; {
				err := run(func(ctx context.Context) (err error) {
					cursor, err = reapRoom.Run(ctx, s.client,
						[]string{k.counters(), k.reasons(), k.roomsOf(dead), k.members(room), k.counts(room), k.seq(room)},
						dead, room, s.RoomChannel(room), cursor).Text()
					return err
				})
				if err != nil {
					return err
				}
				if cursor == "" {
					return errNotFenced
				}
				if cursor == "0" {
					break
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = some(k.usersOf(dead), func(users []string) error {
		keys := []string{k.counters(), k.usersOf(dead), k.online(), k.seen()}
		args := []any{dead}
		for _, user := range users {
			keys, args = append(keys, k.user(user)), append(args, user)
		}
		return run(func(ctx context.Context) error {
			n, err := reapUsers.Run(ctx, s.client, keys, args...).Int()
			if err == nil && n == 0 {
				err = errNotFenced
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	return run(func(ctx context.Context) error {
		return reapEnd.Run(ctx, s.client, []string{k.leases(), k.reasons(), k.roomsOf(dead), k.usersOf(dead)}, dead).Err()
	})
}

var errNotFenced = errors.New("presence: the instance writes")
