package bus

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

var errNotYet = errors.New("not connected yet")

// pulse is what is known of what arrives. Any goroutine may read it.
type pulse struct {
	trouble atomic.Pointer[error] // why the subscriptions are not up; nil: they are. Written by the subscriber's goroutines
	arrived atomic.Int64          // when the last message came, or else the subscriptions came up, in Unix nanoseconds; written by the reader
}

func (p *pulse) up() {
	p.beat()
	p.trouble.Store(nil)
}

func (p *pulse) down(err error) { p.trouble.Store(&err) }

func (p *pulse) beat() { p.arrived.Store(time.Now().UnixNano()) }

// Health tells why messages of other instances may not arrive: the subscriptions are not up, or none of the messages that the bus publishes to
// itself at each interval has come for two of them. Nil means that they arrive. It does not wait, and may be called from any goroutine.
func (b *Redis) Health() error {
	s := b.subscriber
	if err := s.pulse.trouble.Load(); err != nil {
		return fmt.Errorf("subscriptions are down: %w", *err)
	}
	if silence := time.Since(time.Unix(0, s.pulse.arrived.Load())); silence > 2*s.interval {
		return fmt.Errorf("nothing has arrived for %s, although one message is published every %s", silence.Round(time.Millisecond), s.interval)
	}
	return nil
}
