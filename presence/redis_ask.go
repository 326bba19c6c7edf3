package presence

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// inquiry is the reading of what all instances have written, begun when Redis seemed to have it.
type inquiry struct {
	s     *Redis
	iid   string // the name of this instance when it was begun
	whole bool   // by then nothing was known to be lost that was not written again
}

// inquiry begins one: what is read from now on is part of it.
func (s *Redis) inquiry() inquiry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return inquiry{s, s.iid, s.writable() && !s.healing && !time.Now().Before(s.whole)}
}

// ask makes the last reads, those that f puts into a pipeline. errRebuilding tells that they were made, but that what was not there may only
// be not there yet. As long as this instance has its lease afterwards, Redis has lost nothing since the inquiry began.
func (a inquiry) ask(ctx context.Context, f func(pipe redis.Pipeliner)) error {
	pipe := a.s.client.Pipeline()
	f(pipe)
	lease := pipe.ZScore(ctx, a.s.keys.leases(), a.iid)
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return fmt.Errorf("presence: reading from Redis: %w", err)
	}
	if !a.whole || lease.Err() != nil {
		return errRebuilding
	}
	return nil
}
