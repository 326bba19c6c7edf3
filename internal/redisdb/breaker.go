package redisdb

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// ErrDown is what a command fails with that was not tried, because Redis is known to be down.
var ErrDown = errors.New("redis is out of reach")

// A caller may allow a command less time than Redis needs on a bad moment (a fork, a long script), and one connection may
// break alone. So a single failure of this kind proves nothing; these many in a row, over this time, do.
const (
	suspicionsToCut = 3
	suspicionsOver  = 250 * time.Millisecond
)

// breaker knows whether Redis is down. Redis is taken to be down
//   - when a dial fails, when Redis says that it can't serve (loading, read-only, no master, wrong password), and when
//     a call without a deadline of its own got no answer within the timeout;
//   - when three calls in a row, over 250 ms, broke off or ran into their caller's deadline.
//
// Any answer ends such a row. A canceled call tells nothing, nor does one that began before Redis was last taken to be
// up again, which only the monitor does.
type breaker struct {
	wake chan struct{} // capacity 1; for the monitor, after each cut

	isDown     atomic.Bool   // written under mu
	heals      atomic.Uint32 // how often Redis was taken to be up again; written under mu
	suspicions atomic.Int32  // in a row

	mu     sync.Mutex
	since  time.Time // when the row of suspicions began; guarded by mu
	reason error     // of the last cut; guarded by mu
	cutAt  time.Time // guarded by mu
}

func newBreaker() *breaker { return &breaker{wake: make(chan struct{}, 1)} }

func (b *breaker) down() bool { return b.isDown.Load() }

// cut takes Redis to be down and lets the monitor know.
func (b *breaker) cut(reason error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.isDown.Load() {
		return
	}
	b.reason, b.cutAt = reason, time.Now()
	b.isDown.Store(true)
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// heal lets commands pass again and returns for how long they did not.
func (b *breaker) heal() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.suspicions.Store(0)
	b.heals.Add(1)
	b.isDown.Store(false)
	return time.Since(b.cutAt)
}

func (b *breaker) lastReason() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reason
}

// do runs call unless Redis is down, and draws a conclusion from its outcome.
func (b *breaker) do(ctx context.Context, call func() error) error {
	began := b.heals.Load()
	if b.isDown.Load() {
		return ErrDown
	}
	err := call()
	if b.heals.Load() == began {
		b.report(ctx, err)
	}
	return err
}

// report draws a conclusion from the outcome of a command.
func (b *breaker) report(ctx context.Context, err error) {
	switch judge(ctx, err) {
	case answered:
		if b.suspicions.Load() != 0 {
			b.suspicions.Store(0)
		}
	case suspect:
		if b.suspect() {
			b.cut(err)
		}
	case unreachable:
		b.cut(err)
	case unknown:
	}
}

// suspect adds a suspicion and tells whether they are enough.
func (b *breaker) suspect() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.suspicions.Add(1)
	if n == 1 {
		b.since = time.Now()
	}
	return n >= suspicionsToCut && time.Since(b.since) >= suspicionsOver
}

type verdict int

const (
	unknown verdict = iota
	answered
	suspect
	unreachable
)

// judge tells what the outcome of a command says of Redis.
func judge(ctx context.Context, err error) verdict {
	if err == nil {
		return answered
	}
	if redis.IsLoadingError(err) || redis.IsReadOnlyError(err) || redis.IsMasterDownError(err) || redis.IsAuthError(err) {
		return unreachable
	}
	if redis.IsMaxClientsError(err) {
		return suspect
	}
	if _, ok := errors.AsType[redis.Error](err); ok {
		return answered
	}
	if errors.Is(err, context.Canceled) {
		return unknown
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		// Reported when it was dialed. The pool repeats such an error to later callers, when it may no longer hold.
		return unknown
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return suspect
	}
	if netErr, ok := errors.AsType[net.Error](err); ok {
		if _, limited := ctx.Deadline(); netErr.Timeout() && !limited {
			return unreachable
		}
		return suspect
	}
	return unknown
}
