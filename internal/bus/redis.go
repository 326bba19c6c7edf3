package bus

import (
	"cmp"
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/batch"
	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
)

// Defaults of RedisOptions.
const (
	DefaultProbeInterval = 5 * time.Second
	DefaultMaxMessages   = 65_536
	DefaultMaxBytes      = 32 << 20
)

// RedisOptions sets up a bus over Redis.
type RedisOptions struct {
	// Control is a channel that no other instance subscribes to: the bus publishes to itself there, to see whether messages
	// still arrive. What it publishes is empty; the Receiver gets all else.
	Control string
	// ProbeInterval is how often the bus publishes to itself, to see whether anything arrives, which it knows after two of
	// them at most; 0: DefaultProbeInterval.
	ProbeInterval time.Duration
	// LossNotice is published on every channel on which a publish has failed, once Redis can be reached again, so that those who
	// receive there learn that a message may be missing; nil: nothing is. When there are too many such channels, it is published on
	// LossChannel instead, in the name of all; what else is published there is no message that anybody misses.
	LossNotice  []byte
	LossChannel string
	// Dropped is called for each message that was not published, from the caller of Publish or the publishing goroutine; it must not
	// block. nil: nothing is.
	Dropped func()
	// MaxMessages and MaxBytes bound what waits to be published; 0: DefaultMaxMessages, DefaultMaxBytes. One message
	// is let in whatever its size.
	MaxMessages int
	MaxBytes    int
}

// Redis is a [Bus] over Redis pub/sub: one connection that receives, and publishes in batches, one at a time.
type Redis struct {
	db         *redisdb.DB
	publisher  *publisher
	subscriber *subscriber

	ctx         context.Context // ends when the bus is closed
	cancel      context.CancelFunc
	subscribing sync.WaitGroup
}

var _ Bus = (*Redis)(nil)

// NewRedis returns a bus that hands what arrives to receiver, once it was started; db must stay open until the bus is closed.
func NewRedis(db *redisdb.DB, receiver Receiver, logger *zap.Logger, opts RedisOptions) *Redis {
	b := &Redis{db: db}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.publisher = &publisher{
		ctx:         b.ctx,
		db:          db,
		logger:      logger,
		maxMessages: cmp.Or(opts.MaxMessages, DefaultMaxMessages),
		maxBytes:    cmp.Or(opts.MaxBytes, DefaultMaxBytes),
		lossNotice:  opts.LossNotice,
		lossChannel: opts.LossChannel,
		dropped:     opts.Dropped,
	}
	b.publisher.queue = batch.New(b.publisher.sendAll)
	b.subscriber = &subscriber{
		db:       db,
		tell:     b.publisher.publish,
		receiver: receiver,
		logger:   logger,
		control:  opts.Control,
		interval: cmp.Or(opts.ProbeInterval, DefaultProbeInterval),
		registry: newRegistry(),
	}
	b.subscriber.pulse.down(errNotYet)
	return b
}

// Start begins to receive. It is called once, and does not wait for Redis.
func (b *Redis) Start() {
	b.subscribing.Go(func() { b.subscriber.run(b.ctx) })
}

// Subscribe implements [Bus].
func (b *Redis) Subscribe(ctx context.Context, channel string) error {
	return b.subscriber.subscribe(ctx, channel, b.db.Up())
}

// Unsubscribe implements [Bus].
func (b *Redis) Unsubscribe(channel string) { b.subscriber.unsubscribe(channel) }

// Publish implements [Bus].
func (b *Redis) Publish(channel string, payload []byte, done func(error)) {
	b.publisher.publish(publication{channel: channel, payload: payload, done: done})
}

// Tell implements [Bus].
func (b *Redis) Tell(channel string, payload []byte) {
	b.publisher.publish(publication{channel: channel, payload: payload, told: true})
}

// Close implements [Bus]. It waits for Redis no longer than the timeout of the DB. Close must not be called from the Receiver or from a
// callback of Publish.
func (b *Redis) Close() error {
	b.subscriber.close()
	b.publisher.close()
	b.cancel()
	b.subscribing.Wait()
	return nil
}

// recovered turns a panic into an error and logs it. It is to be deferred.
func recovered(logger *zap.Logger, what string, err *error) {
	if r := recover(); r != nil {
		logger.Error("panic in "+what, zap.Any("error", r), zap.ByteString("stack", debug.Stack()))
		*err = fmt.Errorf("panic: %v", r)
	}
}
