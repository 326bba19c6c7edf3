package ratelimit

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddyrooms/caddy-rooms/internal/batch"
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
// a key in Redis lets somebody in at once only through processes that have not denied him yet; the others need [Redis.Forget].
//
// Checks that come while others are under way wait for these, and then go to Redis together: a round trip later at most, and much
// cheaper for Redis than each alone.
type Redis struct {
	client  redis.UniversalClient
	prefix  string
	timeout time.Duration
	scripts map[Algorithm]*redis.Script
	now     func() time.Duration // monotonic, of this process
	denied  *denials
	breaker breaker
	checks  *batch.Queue[*check]
}

// check is a question to Redis.
type check struct {
	ctx   context.Context // of who waits
	limit Limit
	key   string
	reply []int64
	err   error
	done  chan struct{} // closed when reply or err is set
}

// maxPipeline is how many checks go to Redis at once, which does nothing else meanwhile: some milliseconds.
const maxPipeline = 256

// NewRedis returns a limiter that uses client, which stays the caller's. The client must have ContextTimeoutEnabled, or after a stall of
// Redis calls fail until the client's read timeout is over, and not RedisOptions.Timeout.
func NewRedis(client redis.UniversalClient, opts RedisOptions) *Redis {
	if opts.Prefix == "" {
		opts.Prefix = "rooms"
	}
	if opts.Timeout <= 0 {
		opts.Timeout = DefaultTimeout
	}
	r := &Redis{
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
	r.checks = batch.New(r.askAll)
	return r
}

// Allow implements [Limiter]. After an error the event may have been counted or not.
func (r *Redis) Allow(ctx context.Context, limit Limit, key string) (Decision, error) {
	if err := limit.Validate(); err != nil {
		return Decision{}, err
	}
	k := redisKey(r.prefix, limit, key)
	asked := r.now()
	known, ok, resets := r.denied.get(k, asked)
	if ok {
		return known, nil
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
		r.denied.put(k, d, asked, r.now(), resets)
	}
	return d, nil
}

// Reset implements [Limiter].
func (r *Redis) Reset(ctx context.Context, limit Limit, key string) error {
	defer r.Forget(limit, key) // behind it: what is asked meanwhile may be denied by what is not forgotten yet
	if !r.breaker.allow(r.now()) {
		return ErrUnavailable
	}
	ctx, cancel := context.WithTimeout(redisdb.For(ctx, "limit"), r.timeout)
	defer cancel()
	if err := r.client.Del(ctx, redisKey(r.prefix, limit, key)).Err(); err != nil {
		if !errors.Is(ctx.Err(), context.Canceled) {
			r.breaker.failed(r.now())
		}
		return fmt.Errorf("ratelimit: resetting: %w", err)
	}
	r.breaker.succeeded()
	return nil
}

// Forget implements [Limiter].
func (r *Redis) Forget(limit Limit, key string) { r.denied.forget(redisKey(r.prefix, limit, key)) }

// ask has the script of a limit run, and waits for its reply.
func (r *Redis) ask(ctx context.Context, l Limit, key string) (Decision, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	c := &check{ctx: ctx, limit: l, key: key, done: make(chan struct{})}
	r.checks.Do(c)
	select {
	case <-c.done:
	case <-ctx.Done():
		return Decision{}, ctx.Err()
	}
	if c.err != nil {
		return Decision{}, c.err
	}
	if len(c.reply) != 4 {
		return Decision{}, fmt.Errorf("reply of %d numbers, want 4", len(c.reply))
	}
	reset, next := time.Duration(c.reply[2])*time.Microsecond, time.Duration(c.reply[3])*time.Microsecond
	return decision(c.reply[0] == 1, int(c.reply[1]), reset, next), nil
}

// askAll asks Redis for those who still wait.
func (r *Redis) askAll(checks []*check) {
	checks = slices.DeleteFunc(checks, func(c *check) bool { return c.ctx.Err() != nil })
	for some := range slices.Chunk(checks, maxPipeline) {
		if err := r.exchange(some); err != nil {
			for _, c := range some {
				c.reply, c.err = nil, err
			}
		}
		for _, c := range some {
			close(c.done)
		}
	}
}

// exchange runs the scripts of some checks in one pipeline, and those that Redis did not have in another one with their source.
func (r *Redis) exchange(checks []*check) (err error) {
	defer func() {
		if p := recover(); p != nil { // the goroutine is nobody's who asks
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	var latest time.Time
	for _, c := range checks {
		if until, _ := c.ctx.Deadline(); until.After(latest) {
			latest = until
		}
	}
	ctx, cancel := context.WithDeadline(redisdb.For(context.Background(), "limit"), latest)
	defer cancel()
	r.run(ctx, checks, (*redis.Script).EvalSha)
	unknown := slices.DeleteFunc(slices.Clone(checks), func(c *check) bool { return !redis.HasErrorPrefix(c.err, "NOSCRIPT") })
	if len(unknown) > 0 {
		r.run(ctx, unknown, (*redis.Script).Eval)
	}
	return nil
}

// run runs the scripts of checks in one pipeline by eval.
func (r *Redis) run(ctx context.Context, checks []*check, eval func(*redis.Script, context.Context, redis.Scripter, []string, ...any) *redis.Cmd) {
	pipe := r.client.Pipeline()
	cmds := make([]*redis.Cmd, len(checks))
	for i, c := range checks {
		cmds[i] = eval(r.scripts[c.limit.Algorithm], ctx, pipe, []string{c.key}, c.limit.Events, scriptUnit(c.limit))
	}
	_, failed := pipe.Exec(ctx)
	for i, c := range checks {
		c.reply, c.err = cmds[i].Int64Slice()
		if c.err != nil && cmds[i].Err() == nil && failed != nil {
			c.err = failed // no connection: go-redis leaves the commands as they are when Redis refused to set it up
		}
	}
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

// Close implements [Limiter]. It waits for an exchange with Redis that nobody waits for any more. The client is the caller's.
func (r *Redis) Close() error {
	r.checks.Wait()
	return nil
}
