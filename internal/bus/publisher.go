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

	"github.com/caddyrooms/caddy-rooms/internal/batch"
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

// publisher sends messages in batches, in the order of their coming.
type publisher struct {
	ctx         context.Context // of the bus
	db          *redisdb.DB
	logger      *zap.Logger
	maxMessages int
	maxBytes    int
	lossNotice  []byte
	lossChannel string
	dropped     func()
	queue       *batch.Queue[publication]

	mu       sync.Mutex      // held while something is added to the queue, for the order of the calls
	messages int             // in the queue, or taken from it but not done; guarded by mu
	bytes    int             // the same; guarded by mu
	closed   bool            // guarded by mu
	missed   map[string]bool // channels on which a message may not have arrived; guarded by mu
	notices  *time.Timer     // tells of what was missed; nil: it does not run; guarded by mu
}

type publication struct {
	channel string
	payload []byte
	done    func(error)
	told    bool // no instance misses it if it gets lost
}

func (m publication) size() int { return len(m.channel) + len(m.payload) }

func (p *publisher) publish(m publication) {
	p.mu.Lock()
	err := p.enqueue(m)
	p.mu.Unlock()
	if err != nil {
		p.finish(m, err)
	}
}

// enqueue adds m to the queue unless there is a reason not to. p.mu is held.
func (p *publisher) enqueue(m publication) error {
	if p.closed {
		return ErrClosed
	}
	if !p.db.Up() {
		return ErrDown
	}
	if p.messages > 0 && (p.messages >= p.maxMessages || p.bytes+m.size() > p.maxBytes) {
		return ErrFull
	}
	p.messages++
	p.bytes += m.size()
	p.queue.Add(m)
	return nil
}

func (p *publisher) sendAll(messages []publication) {
	for len(messages) > 0 {
		n := fitting(messages)
		p.send(messages[:n])
		messages = messages[n:]
	}
}

// fitting returns how many of the messages go into the next pipeline: at least one.
func fitting(messages []publication) int {
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
func (p *publisher) send(messages []publication) {
	cmds, err := p.exec(messages)
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

func (p *publisher) exec(messages []publication) (cmds []redis.Cmder, err error) {
	defer recovered(p.logger, "bus publisher", &err)
	pipe := p.db.Publisher().Pipeline()
	for _, m := range messages {
		pipe.Publish(p.ctx, m.channel, m.payload)
	}
	return pipe.Exec(p.ctx)
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
	p.mu.Lock()
	defer p.mu.Unlock()
	p.missLocked(m.channel)
}

// missLocked remembers that something on channel may not have arrived. p.mu is held.
func (p *publisher) missLocked(channel string) {
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
	p.tellLater()
}

// tellLater has the losses told soon. p.mu is held.
func (p *publisher) tellLater() {
	if p.notices == nil && !p.closed {
		p.notices = time.AfterFunc(noticeEvery, p.tellLosses)
	}
}

// tellLosses queues the notices of losses, unless Redis is out of reach still. One that fails is a loss again.
func (p *publisher) tellLosses() {
	var err error // logged
	defer recovered(p.logger, "notice of a loss", &err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notices = nil
	if p.closed || !p.db.Up() {
		p.tellLater() // look again
		return
	}
	for _, m := range p.takeNotices() {
		if p.enqueue(m) != nil {
			p.missLocked(m.channel)
		}
	}
}

// takeNotices returns the notices of all losses, and forgets these. p.mu is held.
func (p *publisher) takeNotices() []publication {
	notices := make([]publication, 0, len(p.missed))
	for channel := range p.missed {
		notices = append(notices, publication{channel: channel, payload: p.lossNotice})
	}
	p.missed = nil
	return notices
}

func (p *publisher) finish(m publication, outcome error) {
	if outcome != nil && !m.told {
		p.miss(m, outcome)
	}
	if m.done == nil {
		return
	}
	var err error // logged
	defer recovered(p.logger, "callback of a publish", &err)
	m.done(outcome)
}

// close refuses what comes from now on, and returns when all that came before is sent.
func (p *publisher) close() {
	p.mu.Lock()
	p.closed = true
	if p.notices != nil {
		p.notices.Stop()
	}
	p.mu.Unlock()
	p.queue.Wait()
	p.mu.Lock()
	notices := p.takeNotices()
	p.mu.Unlock()
	// Nobody else will tell of what did not arrive.
	p.sendAll(notices)
}
