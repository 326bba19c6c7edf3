package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
)

const (
	firstBackoff = 50 * time.Millisecond // between two connections, doubling
	lastBackoff  = time.Second
	// subscribeBatch is how many channels go into one command. Redis serves nobody else while it works on one.
	subscribeBatch = 1000
	// restoredMark is the payload of the ping that follows the subscriptions of a new connection. Redis answers in order, so
	// its answer means that all of them are confirmed.
	restoredMark = "restored"
)

var (
	errNoAnswer     = errors.New("no answer to a ping")
	errNotDelivered = errors.New("messages are published but do not arrive")
)

// subscriber owns the connection that receives. Two goroutines work on it: run opens it, writes to it and watches over
// it; read, one for each connection, reads.
type subscriber struct {
	db       *redisdb.DB
	tell     func(publication)
	receiver Receiver
	logger   *zap.Logger
	control  string
	interval time.Duration
	pulse    pulse
	*registry
}

// run keeps a connection open until ctx ends.
func (s *subscriber) run(ctx context.Context) {
	backoff := firstBackoff
	for failures, reconnected := 0, false; ; {
		restored, err := s.serve(ctx, reconnected)
		if ctx.Err() != nil {
			return
		}
		s.pulse.down(err)
		s.cut()
		if restored {
			failures, reconnected, backoff = 0, true, firstBackoff
			s.logger.Warn("redis subscriptions lost, reconnecting", zap.Error(err))
		} else {
			s.fail(fmt.Errorf("%w: %w", ErrDown, err))
			if _, refused := errors.AsType[redis.Error](err); refused && failures == 0 {
				// That Redis is out of reach is told by the DB.
				s.logger.Warn("redis refuses subscriptions", zap.Error(err))
			}
			failures++
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(backoff/2 + rand.N(backoff/2+1)):
		}
		backoff = min(2*backoff, lastBackoff)
	}
}

// link is what the two goroutines of one connection know of it.
type link struct {
	reconnected bool        // it is not the first one; never written again
	heard       atomic.Bool // something was read since run looked last
	delivered   atomic.Bool // a message was read since run looked last
	restored    atomic.Bool // all subscriptions of before were confirmed
}

// serve opens a connection, subscribes to all that is wanted, and returns when the connection is of no more use; restored
// tells whether it ever was.
func (s *subscriber) serve(ctx context.Context, reconnected bool) (restored bool, err error) {
	defer recovered(s.logger, "bus subscriber", &err)
	conn := s.db.Subscriber().Subscribe(ctx)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer func() { _ = conn.Close() }() // it is given up either way
	if err := conn.Subscribe(ctx, s.control); err != nil {
		return false, fmt.Errorf("connecting: %w", err)
	}
	ctx = redisdb.NoDial(ctx)
	l := &link{reconnected: reconnected}
	ended := make(chan error, 1)
	reading.Go(func() { ended <- s.read(ctx, conn, l) })

	err = s.subscribeAll(ctx, conn)
	if err == nil {
		err = s.watch(ctx, conn, l, ended)
	}
	return l.restored.Load(), err
}

func (s *subscriber) subscribeAll(ctx context.Context, conn *redis.PubSub) error {
	if err := inBatches(s.restore(), func(channels []string) error { return conn.Subscribe(ctx, channels...) }); err != nil {
		return err
	}
	return conn.Ping(ctx, restoredMark)
}

// watch sends what changes and looks after the connection until it ends.
//
// A link on which nothing was read for an interval must answer a ping. In each interval a link must bring a message, as one is
// published for the purpose: after a failover a connection can be in good health, to a server where nobody publishes.
func (s *subscriber) watch(ctx context.Context, conn *redis.PubSub, l *link, ended <-chan error) error {
	interval := time.NewTimer(s.interval)
	defer interval.Stop()
	var answer <-chan time.Time
	var sent *probe
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			return err
		case <-s.changed:
			if err := s.flush(ctx, conn); err != nil {
				return err
			}
		case <-answer:
			if !l.heard.Load() {
				return errNoAnswer
			}
			answer = nil
		case <-interval.C:
			if !l.delivered.Swap(false) && sent.acceptedFor() >= s.interval/2 {
				return errNotDelivered
			}
			// Also on a busy link, so that no more than two intervals pass.
			sent = s.probe()
			if answer == nil && !l.heard.Swap(false) {
				if err := conn.Ping(ctx); err != nil {
					return err
				}
				answer = time.After(s.db.Timeout())
			}
			interval.Reset(s.interval)
		}
	}
}

// probe is a message that the bus has published to itself.
type probe struct {
	acceptedAt atomic.Pointer[time.Time] // nil: not, or not yet
}

func (s *subscriber) probe() *probe {
	p := new(probe)
	s.tell(publication{channel: s.control, told: true, done: func(err error) {
		if err == nil {
			now := time.Now()
			p.acceptedAt.Store(&now)
		}
	}})
	return p
}

// acceptedFor returns how long ago Redis took p. One that was taken only now may still be on its way.
func (p *probe) acceptedFor() time.Duration {
	if p == nil {
		return 0
	}
	at := p.acceptedAt.Load()
	if at == nil {
		return 0
	}
	return time.Since(*at)
}

// flush sends the subscriptions that have changed.
func (s *subscriber) flush(ctx context.Context, conn *redis.PubSub) error {
	subscribe, unsubscribe := s.changes()
	if err := inBatches(unsubscribe, func(channels []string) error { return conn.Unsubscribe(ctx, channels...) }); err != nil {
		return err
	}
	return inBatches(subscribe, func(channels []string) error { return conn.Subscribe(ctx, channels...) })
}

// inBatches calls f with batches of channels until it fails.
func inBatches(channels []string, f func([]string) error) error {
	for len(channels) > 0 {
		n := min(len(channels), subscribeBatch)
		if err := f(channels[:n]); err != nil {
			return err
		}
		channels = channels[n:]
	}
	return nil
}

// read hands over what arrives until the connection ends. It waits for nothing else: Redis closes a connection that is
// read too slowly, and what was buffered for it is lost.
func (s *subscriber) read(ctx context.Context, conn *redis.PubSub, l *link) (err error) {
	defer recovered(s.logger, "bus receiver", &err)
	for {
		received, err := conn.Receive(ctx)
		if err != nil {
			return err
		}
		l.heard.Store(true)
		switch m := received.(type) {
		case *redis.Message:
			l.delivered.Store(true)
			s.pulse.beat()
			if m.Channel != s.control || m.Payload != "" { // else it is a probe
				s.receiver.Receive(m.Channel, []byte(m.Payload))
			}
		case *redis.Subscription:
			if m.Kind == "subscribe" {
				s.regain(s.confirm(m.Channel))
			}
		case *redis.Pong:
			if m.Payload == restoredMark {
				s.regain(s.restored())
				l.restored.Store(true)
				s.pulse.up()
				if l.reconnected {
					s.logger.Info("redis subscriptions restored")
				}
			}
		}
	}
}

func (s *subscriber) regain(channels []string) {
	if len(channels) > 0 {
		s.receiver.Lost(channels)
	}
}
