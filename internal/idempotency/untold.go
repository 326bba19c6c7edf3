package idempotency

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"go.uber.org/zap"
)

// retryAfter is how long Redis is left alone that could not be told. The client costs nothing while it knows that Redis is down.
const retryAfter = 100 * time.Millisecond

var errLate = errors.New("the claim got no answer, and may come after this")

// ending is how a request ended that this instance has done. It is not changed.
type ending struct {
	name   string // of its key in Redis
	claim  []byte // what the key was set to as it began, or is yet to be set to
	answer []byte
	done   bool      // otherwise it was abandoned
	until  time.Time // then nobody is to know any more
}

func (e *ending) size() int { return len(e.name) + len(e.claim) + len(e.answer) }

// end tells Redis how a request ended, now or later. unclaimed tells that its claim has failed: Redis may still come to it.
func (r *Redis) end(ctx context.Context, e *ending, unclaimed bool) error {
	told, err := r.tell(ctx, e)
	if err == nil && !told && unclaimed {
		err = errLate // or one before it does, whose end is untold
	}
	if err != nil {
		r.later(e)
		return fmt.Errorf("idempotency: telling redis: %w", err)
	}
	return nil
}

// tell finishes or abandons in Redis what a claim began. told is false if it had not begun, and was abandoned, or another request has the key.
func (r *Redis) tell(ctx context.Context, e *ending) (told bool, err error) {
	ctx, cancel := r.context(ctx)
	defer cancel()
	script, args := abandonScript, []any{e.claim}
	if e.done {
		value := append(append([]byte{stateDone}, e.claim[1:header]...), e.answer...)
		script, args = finishScript, append(args, value, max(time.Until(e.until).Milliseconds(), 1))
	}
	n, err := script.Run(ctx, r.client, []string{e.name}, args...).Int()
	return n == 1, err
}

// later has e told when Redis can be. The first ones are forgotten when it is too much.
func (r *Redis) later(e *ending) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	r.untold = append(r.untold, e)
	r.bytes += e.size()
	for len(r.untold) > maxEntries || r.bytes > maxBytes {
		r.drop()
	}
	if !r.telling {
		r.telling = true
		r.wg.Go(r.tellUntold)
	}
}

// drop forgets the first one that is untold. mu is held.
func (r *Redis) drop() {
	r.bytes -= r.untold[0].size()
	r.untold[0] = nil
	r.untold = r.untold[1:]
}

// next returns the first one that is untold, other than the one that was told just now. After nil the goroutine ends.
func (r *Redis) next(told *ending) *ending {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for len(r.untold) > 0 && (r.untold[0] == told || !now.Before(r.untold[0].until)) {
		r.drop()
	}
	if len(r.untold) == 0 {
		r.untold, r.telling = nil, false
		return nil
	}
	return r.untold[0]
}

// tellUntold tells what is untold until nothing is, or the store is closed.
func (r *Redis) tellUntold() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(retryAfter/2 + rand.N(retryAfter))
		select {
		case <-r.ctx.Done():
			return
		case <-timer.C:
		}
		if r.tellAll() {
			return
		}
	}
}

// tellAll tells what is untold, as long as Redis answers. It returns true when nothing is left: another goroutine tells what comes then.
func (r *Redis) tellAll() bool {
	defer func() {
		if p := recover(); p != nil {
			r.log.Error("panic in idempotency", zap.Any("error", p), zap.ByteString("stack", debug.Stack()))
		}
	}()
	e := r.next(nil)
	// Redis may have stood still with claims in its sockets that nobody waits for. What it gets after an answer comes behind them.
	if e != nil && r.ping() != nil {
		return false
	}
	for ; e != nil; e = r.next(e) {
		if _, err := r.tell(r.ctx, e); err != nil {
			return false
		}
	}
	return true
}

func (r *Redis) ping() error {
	ctx, cancel := r.context(r.ctx)
	defer cancel()
	return r.client.Ping(ctx).Err()
}
