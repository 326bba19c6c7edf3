package redisdb

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

const (
	pingInterval = time.Second            // while up
	firstRetry   = 250 * time.Millisecond // while down, doubling
	lastRetry    = time.Second
)

// monitor is the goroutine that watches over a DB: it pings Redis, takes it to be up again, and tells of both. All
// fields belong to it.
type monitor struct {
	db        *DB
	contacted bool // Redis has answered at least once
	told      bool // up or down was told
	toldUp    bool
	retry     time.Duration
}

func (m *monitor) run(ctx context.Context) {
	m.retry = firstRetry
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.db.breaker.wake:
		case <-timer.C:
		}
		m.step(ctx)
		if m.db.breaker.down() {
			timer.Reset(m.retry/2 + rand.N(m.retry/2+1))
			m.retry = min(2*m.retry, lastRetry)
		} else {
			timer.Reset(pingInterval)
			m.retry = firstRetry
		}
	}
}

// step looks at Redis once and tells what has changed.
func (m *monitor) step(ctx context.Context) {
	defer func() {
		if r := recover(); r != nil {
			m.db.logger.Error("panic in redis monitor", zap.Any("error", r), zap.ByteString("stack", debug.Stack()))
		}
	}()
	b := m.db.breaker
	if !b.down() {
		if err := m.ping(ctx); err != nil {
			if ctx.Err() != nil {
				return
			}
			b.cut(err)
		} else {
			b.report(ctx, nil) // old suspicions must not add up while nobody else calls
			if !m.told {
				m.tell(true, zap.String("address", m.db.opts.Redacted()))
			}
		}
	} else if m.told && !m.toldUp {
		if m.test(ctx) == nil {
			downtime := b.heal()
			m.tell(true, zap.String("address", m.db.opts.Redacted()), zap.Duration("downtime", downtime))
		}
		return
	}
	if b.down() {
		m.tell(false, zap.String("address", m.db.opts.Redacted()), zap.Error(b.lastReason()))
	}
}

func (m *monitor) tell(up bool, fields ...zap.Field) {
	first := !m.contacted
	m.told, m.toldUp = true, up
	m.contacted = m.contacted || up
	switch {
	case up && first:
		m.db.logger.Info("redis connected", fields...)
	case up:
		m.db.logger.Info("redis connection restored", fields...)
	case first:
		m.db.logger.Warn("redis is out of reach, going on without it", fields...)
	default:
		m.db.logger.Warn("redis connection lost", fields...)
	}
	for _, f := range m.db.onChange {
		f(up)
	}
}

func (m *monitor) ping(ctx context.Context) error {
	ctx, cancel := m.unguarded(ctx)
	defer cancel()
	return allowed(m.db.commands.Ping(ctx).Err())
}

// test tells whether commands would succeed again. It goes through the pools that they use: a pool that has failed to
// dial often repeats that error for up to a second.
func (m *monitor) test(ctx context.Context) error {
	ctx, cancel := m.unguarded(ctx)
	defer cancel()
	// Deleting what never exists is a write that changes nothing: a replica answers a ping, but refuses that.
	if err := allowed(m.db.commands.Del(ctx, m.db.opts.Prefix+":health").Err()); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return allowed(m.db.publisher.Ping(ctx).Err())
}

func (m *monitor) unguarded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(For(unguard(ctx), "health"), m.db.opts.Timeout)
}

// allowed takes a refusal by an access list for the answer that it is.
func allowed(err error) error {
	if redis.IsPermissionError(err) {
		return nil
	}
	return err
}
