package idempotency

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	_ "embed" // the scripts
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
)

// DefaultTimeout is how long an exchange with Redis may take. It is longer than that of a limit: to wait is better than to do a thing twice.
const DefaultTimeout = time.Second

var (
	//go:embed scripts/finish.lua
	finishSource string
	//go:embed scripts/abandon.lua
	abandonSource string

	finishScript  = redis.NewScript(finishSource)
	abandonScript = redis.NewScript(abandonSource)
)

// Redis is a [Store] of all the instances that share a Redis (7.0 or later, or Valkey), by the clock of Redis. A request costs it two round trips, one that is not to be done one.
// What an instance has begun it also remembers itself: while Redis is out of reach it decides by that alone, and what it then did is not done
// again here when Redis is back. How it ended Redis is told then, by a goroutine that is there while something is untold.
type Redis struct {
	client  redis.UniversalClient
	base    string
	timeout time.Duration
	log     *zap.Logger
	local   *Memory

	ctx    context.Context // ends in Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // of who tells what is untold

	mu      sync.Mutex
	closed  bool      // guarded by mu, as is all that follows
	telling bool      // a goroutine tells what is untold
	untold  []*ending // what Redis does not know, in the order in which it was to be told
	bytes   int       // of all that is untold
}

var _ Store = (*Redis)(nil)

// NewRedis returns a store whose keys are <base>:idem:…. The client stays the caller's: one of internal/redisdb, which fails at once while Redis is
// known to be down, does not repeat a command and heeds the deadlines of contexts. timeout is how long an exchange may take; 0 is [DefaultTimeout].
func NewRedis(client redis.UniversalClient, base string, timeout time.Duration, logger *zap.Logger) *Redis {
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	r := &Redis{client: client, base: base, timeout: timeout, log: logger, local: NewMemory()}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Close implements [Store]. What is untold then stays so.
func (r *Redis) Close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
	return nil
}

// Of the value of a key the first byte tells what it is, and then comes the fingerprint.
const (
	stateUnderway = 'u' // then a random token, of who does it
	stateDone     = 'd' // then the answer
	header        = 1 + len(Fingerprint{})
)

// Begin implements [Store].
func (r *Redis) Begin(ctx context.Context, key string, f Fingerprint) *Attempt {
	if a := r.local.known(key, f); a != nil {
		return a
	}
	sum := sha256.Sum256([]byte(key))
	name := r.base + ":idem:" + hex.EncodeToString(sum[:])
	claim := append(append([]byte{stateUnderway}, f[:]...), rand.Text()...)
	a, err := r.claim(ctx, name, f, claim)
	switch {
	case err != nil:
		if a = r.local.Begin(ctx, key, f); a.Outcome == Started {
			a.Degraded = true
		}
	case a.Outcome == Started:
		a = r.local.started(key, f)
	}
	if a.Outcome == Started {
		end, degraded := a.end, a.Degraded
		a.end = func(ctx context.Context, answer []byte, done bool) error {
			_ = end(ctx, answer, done) // never fails
			return r.end(ctx, &ending{name, claim, answer, done, time.Now().Add(Keep)}, degraded)
		}
	}
	return a
}

// claim asks Redis what is to be done with a request. It does so also when ctx is canceled: who has hung up may well try again on another
// instance, and what is done here must be known there.
func (r *Redis) claim(ctx context.Context, name string, f Fingerprint, claim []byte) (*Attempt, error) {
	ctx, cancel := r.context(context.WithoutCancel(ctx))
	defer cancel()
	was, err := r.client.SetArgs(ctx, name, claim, redis.SetArgs{Mode: "NX", Get: true, TTL: Hold}).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return &Attempt{Outcome: Started}, nil
	case err != nil:
		return nil, err
	case len(was) < header:
		return nil, fmt.Errorf("value of %d bytes", len(was))
	}
	return outcome(f, Fingerprint([]byte(was[1:header])), was[0] == stateDone, []byte(was[header:])), nil
}

func (r *Redis) context(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(redisdb.For(ctx, "idempotency"), r.timeout)
}
