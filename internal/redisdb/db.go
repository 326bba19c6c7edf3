package redisdb

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"
	"go.uber.org/zap"
)

// DB is one Redis: three clients that share a breaker and a monitor. Its methods may be called from any goroutine.
//
// While Redis is known to be down, commands of [DB.Commands] and [DB.Publisher] fail at once with [ErrDown]. What is
// known to be down is told in [breaker]; only the monitor's own test ends it.
type DB struct {
	opts       Options
	logger     *zap.Logger
	commands   *redis.Client
	publisher  *redis.Client
	subscriber *redis.Client
	breaker    *breaker

	onChange    []func(up bool) // called from the monitor's goroutine
	onRoundTrip func(operation string, took time.Duration, failed bool)

	stop      context.CancelFunc
	monitored sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
}

// Open returns a DB without connecting to Redis. Close it when it is no longer used.
//
// The first call turns go-redis's own logger off, for the process: that one writes a line to standard error for each
// failed dial.
func Open(opts Options, logger *zap.Logger) *DB {
	silence()
	if opts.Timeout == 0 {
		opts.Timeout = DefaultTimeout
	}
	d := &DB{opts: opts, logger: logger, breaker: newBreaker()}

	d.commands = redis.NewClient(opts.client("commands"))
	d.commands.AddHook(guard{watch{d.breaker}})
	d.commands.AddHook(meter{d, "presence"}) // inside of the guard: what is not tried takes no time

	publisher := opts.client("publisher")
	publisher.WriteBufferSize = 128 << 10 // it writes in batches
	d.publisher = redis.NewClient(publisher)
	d.publisher.AddHook(guard{watch{d.breaker}})
	d.publisher.AddHook(meter{d, "publish"})

	d.subscriber = redis.NewClient(opts.client("subscriber"))
	d.subscriber.AddHook(watch{d.breaker})
	return d
}

var silence = sync.OnceFunc(logging.Disable)

// client returns the options of a client that never retries.
func (o Options) client(name string) *redis.Options {
	return &redis.Options{
		Addr:         o.Addr,
		ClientName:   "caddy-rooms:" + name,
		Dialer:       o.dialer(),
		Username:     o.Username,
		Password:     o.Password,
		DB:           o.DB,
		DialTimeout:  o.Timeout,
		ReadTimeout:  o.Timeout,
		WriteTimeout: o.Timeout,
		PoolSize:     o.PoolSize,

		ContextTimeoutEnabled: true,
		MaxRetries:            -1,
		DialerRetries:         1,
		// A pool for pipelines of its own would be one more that the monitor's test doesn't reach.
		PipelinePoolSize: -1,
		// Nothing here needs RESP3, and without it no connection looks for push messages before each reply.
		Protocol:        2,
		DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{
			Mode: maintnotifications.ModeDisabled,
		},
	}
}

// dialer exists because go-redis's own ignores the context when it dials with TLS.
func (o Options) dialer() func(ctx context.Context, network, addr string) (net.Conn, error) {
	d := &net.Dialer{Timeout: o.Timeout}
	if o.TLS == nil {
		return d.DialContext
	}
	return (&tls.Dialer{NetDialer: d, Config: o.TLS}).DialContext
}

// Commands returns the client for commands. It never repeats one: who writes decides what may be tried again.
func (d *DB) Commands() *redis.Client { return d.commands }

// Publisher returns the client for PUBLISH. It repeats nothing: a message may have been delivered although the answer
// was lost.
func (d *DB) Publisher() *redis.Client { return d.publisher }

// Subscriber returns the client for subscriptions. It doesn't fail at once while Redis is down: whoever subscribes tries
// again at a pace of its own.
func (d *DB) Subscriber() *redis.Client { return d.subscriber }

// Timeout is how long a dial, a read or a write may take.
func (d *DB) Timeout() time.Duration { return d.opts.Timeout }

// Up reports whether commands are tried: Redis is reachable, or nothing is known yet.
func (d *DB) Up() bool { return !d.breaker.down() }

// Err returns why commands are not tried; nil while Up.
func (d *DB) Err() error {
	if d.Up() {
		return nil
	}
	return d.breaker.lastReason()
}

// OnChange has f called when Redis was reached for the first time or again (true), and when it is out of reach (false).
// The calls come in order from the monitor's goroutine; f must not block and must not call Close. OnChange must not be
// called after Start.
func (d *DB) OnChange(f func(up bool)) { d.onChange = append(d.onChange, f) }

// OnRoundTrip has f called after each exchange with Redis, from any goroutine: a command or a pipeline for an operation, which is
// presence, publish, health or what [For] has said, that took so long and failed or not. OnRoundTrip must not be called after Start.
func (d *DB) OnRoundTrip(f func(operation string, took time.Duration, failed bool)) {
	d.onRoundTrip = f
}

// Start begins to watch over Redis. It is called once, does not wait for Redis, and Close ends what it starts.
func (d *DB) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	d.stop = cancel
	d.monitored.Go(func() { (&monitor{db: d}).run(ctx) })
}

// Close stops the monitor and closes the clients. It may wait for as long as Timeout while Redis doesn't answer.
func (d *DB) Close() error {
	d.closeOnce.Do(func() {
		if d.stop != nil {
			d.stop()
		}
		d.monitored.Wait()
		d.closeErr = errors.Join(d.commands.Close(), d.publisher.Close(), d.subscriber.Close())
	})
	return d.closeErr
}
