package ratelimit

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
)

// ErrUnavailable is returned without asking Redis while it fails: after five failures in a row, one call a second tries again.
var ErrUnavailable = errors.New("ratelimit: redis is out of reach")

// DefaultTimeout is how long a check in Redis may take. Redis answers within a millisecond; a message should not wait for
// one that doesn't.
const DefaultTimeout = 50 * time.Millisecond

var (
	//go:embed scripts/sliding_counter.lua
	slidingCounterScript string
	//go:embed scripts/sliding_log.lua
	slidingLogScript string
	//go:embed scripts/gcra.lua
	gcraScript string
)

// RedisOptions refine a [Redis].
type RedisOptions struct {
	// Prefix is what all keys begin with; a limiter uses <prefix>:rl:… only. Limiters that share limits share it. Default "rooms".
	Prefix string
	// Timeout is how long one check may take. Default [DefaultTimeout].
	Timeout time.Duration
}

// Redis is a [Limiter] of all the processes that share a Redis (7.0 or later, or Valkey). A check is one script on one key,
// so it runs on a cluster as well, and only the clock of Redis counts.
//
// What Redis has said about a key that has nothing left holds until the time that it named, because others can only push
// that time later: such events are denied in the process. A flood costs one call for each event that is allowed. Deleting
// a key in Redis lets somebody in at once only through processes that have not denied him yet.
type Redis struct {
	client  redis.UniversalClient
	prefix  string
	timeout time.Duration
	scripts map[Algorithm]*redis.Script
	now     func() time.Duration // monotonic, of this process
	denied  *denials
	breaker breaker
}

// NewRedis returns a limiter that uses client, which stays the caller's. The client must have ContextTimeoutEnabled, or a
// stalled Redis will hold each call for the client's read timeout instead of RedisOptions.Timeout.
func NewRedis(client redis.UniversalClient, opts RedisOptions) *Redis {
	if opts.Prefix == "" {
		opts.Prefix = "rooms"
	}
	if opts.Timeout <= 0 {
		opts.Timeout = DefaultTimeout
	}
	return &Redis{
		client:  client,
		prefix:  opts.Prefix,
		timeout: opts.Timeout,
		scripts: map[Algorithm]*redis.Script{
			SlidingCounter: redis.NewScript(slidingCounterScript),
			SlidingLog:     redis.NewScript(slidingLogScript),
			GCRA:           redis.NewScript(gcraScript),
		},
		now:    sinceStart(),
		denied: newDenials(maxDenials),
	}
}

// Allow implements [Limiter]. After an error the event may have been counted or not.
func (r *Redis) Allow(ctx context.Context, limit Limit, key string) (Decision, error) {
	if err := limit.Validate(); err != nil {
		return Decision{}, err
	}
	k := redisKey(r.prefix, limit, key)
	asked := r.now()
	if d, ok := r.denied.get(k, asked); ok {
		return d, nil
	}
	if !r.breaker.allow(asked) {
		return Decision{}, ErrUnavailable
	}
	d, err := r.ask(ctx, limit, k)
	if err != nil {
		// A caller who gave up says nothing about Redis.
		if !errors.Is(ctx.Err(), context.Canceled) {
			r.breaker.failed(r.now())
		}
		return Decision{}, fmt.Errorf("ratelimit: asking redis: %w", err)
	}
	r.breaker.succeeded()
	if d.Remaining == 0 {
		r.denied.put(k, d, asked, r.now())
	}
	return d, nil
}

// ask runs the script of a limit, which is loaded again when Redis has forgotten it.
func (r *Redis) ask(ctx context.Context, l Limit, key string) (Decision, error) {
	ctx, cancel := context.WithTimeout(redisdb.For(ctx, "limit"), r.timeout)
	defer cancel()
	reply, err := r.scripts[l.Algorithm].Run(ctx, r.client, []string{key}, l.Events, scriptUnit(l)).Int64Slice()
	if err != nil {
		return Decision{}, err
	}
	if len(reply) != 4 {
		return Decision{}, fmt.Errorf("reply of %d numbers, want 4", len(reply))
	}
	reset, next := time.Duration(reply[2])*time.Microsecond, time.Duration(reply[3])*time.Microsecond
	return decision(reply[0] == 1, int(reply[1]), reset, next), nil
}

// scriptUnit is the second argument of a limit's script.
func scriptUnit(l Limit) int64 {
	switch l.Algorithm {
	case SlidingLog:
		return ceil(l.Window, time.Microsecond)
	case GCRA:
		return int64(emissionInterval(l))
	default:
		return int64(bucketWidth(l.Window) / time.Microsecond)
	}
}

// Close implements [Limiter]; there is nothing to stop, and the client is the caller's.
func (r *Redis) Close() error { return nil }
