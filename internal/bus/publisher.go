package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
)

// What goes to Redis in one pipeline. A larger one would not be faster, only later.
const (
	batchMessages = 512
	batchBytes    = 1 << 20
)

const (
	maxMissed   = 1 << 14     // channels with a loss to tell of, beyond which it is told once for all
	noticeEvery = time.Second // until the notices of losses have gone out
)

// publisher sends messages in the order of their coming. While one batch is under way the next one gathers, so that
// batches grow with the load and a message that comes alone waits for nothing.
type publisher struct {
	db          *redisdb.DB
	logger      *zap.Logger
	maxMessages int
	maxBytes    int
	control     string
	lossNotice  []byte
	lossChannel string
	dropped     func()
	wake        chan struct{} // capacity 1; for run, when the queue is no longer empty or something was missed

	mu       sync.Mutex
	queue    []publication // guarded by mu
	messages int           // in the queue and taken from it but not done; guarded by mu
	bytes    int           // the same; guarded by mu
	closed   bool          // guarded by mu

	missed map[string]bool // channels on which a message may not have arrived; guarded by mu
}

type publication struct {
	channel string
	payload []byte
	done    func(error)
}

func (m publication) size() int { return len(m.channel) + len(m.payload) }

func (p *publisher) publish(channel string, payload []byte, done func(error)) {
	m := publication{channel: channel, payload: payload, done: done}
	if err := p.enqueue(m); err != nil {
		p.finish(m, err)
	}
}

func (p *publisher) enqueue(m publication) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	if !p.db.Up() {
		return ErrDown
	}
	if p.messages > 0 && (p.messages >= p.maxMessages || p.bytes+m.size() > p.maxBytes) {
		return ErrFull
	}
	p.queue = append(p.queue, m)
	p.messages++
	p.bytes += m.size()
	if len(p.queue) == 1 {
		p.signal()
	}
	return nil
}

func (p *publisher) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run publishes until the publisher is closed and has sent everything.
func (p *publisher) run(ctx context.Context) {
	var taken []publication
	var notices <-chan time.Time
	for closed := false; !closed; {
		select {
		case <-p.wake:
		case <-notices:
			notices = nil
			p.tellLosses()
		}
		p.mu.Lock()
		p.queue, taken = taken[:0], p.queue
		missed := len(p.missed) > 0
		closed = p.closed
		p.mu.Unlock()
		if missed && notices == nil {
			notices = time.After(noticeEvery)
		}
		p.sendAll(ctx, taken)
		clear(taken)
	}
	// Nobody else will tell of what did not arrive.
	p.sendAll(ctx, p.notices())
}

func (p *publisher) sendAll(ctx context.Context, messages []publication) {
	for len(messages) > 0 {
		n := batch(messages)
		p.send(ctx, messages[:n])
		messages = messages[n:]
	}
}

// batch returns how many of the messages go into the next pipeline: at least one.
func batch(messages []publication) int {
	bytes := 0
	for i, m := range messages {
		bytes += m.size()
		if i == batchMessages || i > 0 && bytes > batchBytes {
			return i
		}
	}
	return len(messages)
}

// send publishes a batch and tells the outcome of each message.
func (p *publisher) send(ctx context.Context, messages []publication) {
	cmds, err := p.exec(ctx, messages)
	if err != nil && !anyFailed(cmds) {
		// No connection: go-redis leaves the commands as they are when Redis refused to set it up.
		cmds = nil
	}
	bytes := 0
	for i, m := range messages {
		bytes += m.size()
		outcome := err
		if i < len(cmds) {
			outcome = cmds[i].Err()
		}
		p.finish(m, explain(outcome))
	}
	p.mu.Lock()
	p.messages -= len(messages)
	p.bytes -= bytes
	p.mu.Unlock()
}

func (p *publisher) exec(ctx context.Context, messages []publication) (cmds []redis.Cmder, err error) {
	defer recovered(p.logger, "bus publisher", &err)
	pipe := p.db.Publisher().Pipeline()
	for _, m := range messages {
		pipe.Publish(ctx, m.channel, m.payload)
	}
	return pipe.Exec(ctx)
}

func anyFailed(cmds []redis.Cmder) bool {
	for _, cmd := range cmds {
		if cmd.Err() != nil {
			return true
		}
	}
	return false
}

// explain turns an error of go-redis into one of the bus.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, redisdb.ErrDown):
		return ErrDown
	}
	return fmt.Errorf("%w: %w", ErrDown, err)
}

// miss remembers that m may not have arrived.
func (p *publisher) miss(m publication, outcome error) {
	notice := p.lossNotice != nil && bytes.Equal(m.payload, p.lossNotice)
	if p.dropped != nil && !notice {
		p.dropped()
	}
	if p.lossNotice == nil || errors.Is(outcome, ErrClosed) || m.channel == p.lossChannel && !notice {
		return
	}
	channel := m.channel
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.missed[channel] || p.missed[p.lossChannel]:
		return
	case len(p.missed) >= maxMissed:
		p.missed = map[string]bool{p.lossChannel: true}
	case p.missed == nil:
		p.missed = map[string]bool{channel: true}
	default:
		p.missed[channel] = true
	}
	p.signal()
}

// tellLosses queues the notices of losses, unless Redis is out of reach still. One that fails is a loss again.
func (p *publisher) tellLosses() {
	if !p.db.Up() {
		p.signal() // look again later
		return
	}
	for _, m := range p.notices() {
		p.publish(m.channel, m.payload, nil)
	}
}

// notices returns the notices of all losses, and forgets these.
func (p *publisher) notices() []publication {
	p.mu.Lock()
	defer p.mu.Unlock()
	notices := make([]publication, 0, len(p.missed))
	for channel := range p.missed {
		notices = append(notices, publication{channel: channel, payload: p.lossNotice})
	}
	p.missed = nil
	return notices
}

func (p *publisher) finish(m publication, outcome error) {
	if outcome != nil && m.channel != p.control {
		p.miss(m, outcome)
	}
	if m.done == nil {
		return
	}
	var err error // logged
	defer recovered(p.logger, "callback of a publish", &err)
	m.done(outcome)
}

// close refuses what comes from now on, and has run end.
func (p *publisher) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.signal()
}

// discard ends what was never sent, if run never ran.
func (p *publisher) discard() {
	p.mu.Lock()
	queue := p.queue
	p.queue = nil
	p.mu.Unlock()
	for _, m := range queue {
		p.finish(m, ErrClosed)
	}
}
