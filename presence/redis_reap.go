package presence

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// reapBatch is how many rooms or users of a dead instance are asked for at once.
const reapBatch = 200

var errNotFenced = errors.New("presence: an instance to be removed writes")

// bury has a dead instance removed soon. All instances that see it do so, each after a moment of its own, so that mostly one does it all.
// One that was cut off itself leaves it to reunite.
func (s *Redis) bury(dead string) {
	s.mu.Lock()
	busy := s.reaping[dead] || s.healing
	if !busy {
		s.reaping[dead] = true
	}
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
		died, err := s.reap(s.ctx, dead)
		if err != nil {
			s.log.Warn("removing a dead instance failed, the next heartbeat tries again", zap.String("dead", dead), zap.Error(err))
			return
		}
		s.buried(dead, died)
	})
}

// buried tells that an instance was removed, which had died or given up its lease, as one that is stopped does.
func (s *Redis) buried(iid string, died bool) {
	if !died {
		s.log.Debug("removed what an instance has left", zap.String("instance", iid))
		return
	}
	s.reaped()
	s.log.Info("removed a dead instance", zap.String("dead", iid))
	s.archiveRemoved(bootOf(iid))
}

// archiveRemoved tells the archive that an instance has died, unless that is back under a new name.
func (s *Redis) archiveRemoved(boot string) {
	s.mu.Lock()
	a := s.archive
	s.mu.Unlock()
	if a == nil || boot == s.boot {
		return
	}
	leases, now, err := s.leases(s.ctx)
	if err != nil {
		return // its silence will tell
	}
	for iid, ends := range leases {
		if ends > now && bootOf(iid) == boot {
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.archive == a {
		a.Removed(boot)
	}
}

// reap removes an instance whose lease has ended, with all its connections. Any number of instances may do so at the same time: each
// connection is removed, and told as gone, once, and that the instance had died is told to one of them.
func (s *Redis) reap(ctx context.Context, dead string) (died bool, err error) {
	k := s.keys
	fenced, err := s.run(ctx, reapFence, []string{k.leases(), k.counters()}, dead).Int()
	if err != nil || fenced == 0 {
		return false, err
	}
	if err := s.each(ctx, k.roomsOf(dead), func(rooms []string) error {
		for _, room := range rooms {
			if err := s.reapRoom(ctx, dead, room); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return false, err
	}
	if err := s.each(ctx, k.usersOf(dead), func(users []string) error {
		return s.reapUsers(ctx, dead, users)
	}); err != nil {
		return false, err
	}
	end, err := s.run(ctx, reapEnd, []string{k.leases(), k.reasons(), k.roomsOf(dead), k.usersOf(dead)}, dead).Int()
	return end == 1, err
}

// each calls f with some members of a set until the set is empty, which is what f makes it.
func (s *Redis) each(ctx context.Context, set string, f func(members []string) error) error {
	for {
		call, cancel := context.WithTimeout(ctx, s.timeout)
		members, err := s.client.SRandMemberN(call, set, reapBatch).Result()
		cancel()
		if err != nil || len(members) == 0 {
			return err
		}
		if err := f(members); err != nil {
			return err
		}
	}
}

func (s *Redis) reapRoom(ctx context.Context, dead, room string) error {
	k, e := s.keys, s.events.Load()
	keys := []string{k.counters(), k.reasons(), k.roomsOf(dead), k.members(room), k.counts(room), k.seq(room), k.departed(room), k.rooms()}
	for cursor := "0"; ; {
		next, err := s.run(ctx, reapRoom, keys, dead, room, s.RoomChannel(room), cursor, e.Rooms, e.Head).Text()
		switch {
		case err != nil:
			return err
		case next == "":
			return errNotFenced
		case next == "0":
			return nil
		}
		cursor = next
	}
}

func (s *Redis) reapUsers(ctx context.Context, dead string, users []string) error {
	k, e := s.keys, s.events.Load()
	keys := []string{k.counters(), k.usersOf(dead), k.online(), k.seen()}
	args := []any{dead, e.Presence, e.Head}
	for _, user := range users {
		keys, args = append(keys, k.user(user)), append(args, user)
	}
	n, err := s.run(ctx, reapUsers, keys, args...).Int()
	if err == nil && n == 0 {
		return errNotFenced
	}
	return err
}

// run runs a script outside of the writer's queue: one that does not write under this instance's name.
func (s *Redis) run(ctx context.Context, script *redis.Script, keys []string, args ...any) *redis.Cmd {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	return script.Run(ctx, s.client, keys, args...)
}
