// Package bus carries a broadcast from one instance to all others. It knows channels and payloads, not what is in them.
package bus

import (
	"context"
	"errors"
)

// Errors of Publish and Subscribe. All mean that the other instances may not have got it; none is fatal.
var (
	ErrDown   = errors.New("bus: shared store is out of reach")
	ErrFull   = errors.New("bus: too many messages in flight")
	ErrClosed = errors.New("bus: closed")
)

// Receiver takes what the bus brings. Its methods are called from the bus's one reading goroutine, in the order of
// arrival, and must not block.
type Receiver interface {
	// Receive hands over a payload that was published on channel, by any instance, this one included.
	// The receiver owns payload.
	Receive(channel string, payload []byte)
	// Lost tells that messages on channels may have been lost and that they are subscribed again now.
	Lost(channels []string)
}

// Bus is a publish/subscribe transport with at-most-once delivery. Its methods may be called from any goroutine.
type Bus interface {
	// Subscribe returns when the store has confirmed that this instance receives channel. Subscribing twice counts once.
	// After an error the bus goes on trying by itself until Unsubscribe, and tells by Lost when it has it.
	Subscribe(ctx context.Context, channel string) error
	// Unsubscribe ends a subscription. It does not wait.
	Unsubscribe(channel string)
	// Publish sends payload to every subscriber of channel, in the order of the calls. It never waits: done, if not nil, is called once with the
	// outcome, from the calling goroutine or the bus's publishing goroutine, and must not block. The bus keeps payload until then.
	Publish(channel string, payload []byte, done func(error))
	// Tell publishes payload for other programs: no instance misses what gets lost of it. It never waits; the bus keeps payload.
	Tell(channel string, payload []byte)
	// Close sends what was published before, as far as that is possible now, and stops the bus. Later publishes end with ErrClosed.
	Close() error
}

// Local is the bus of a process without a shared store: there is nobody else.
type Local struct{}

// Subscribe implements Bus.
func (Local) Subscribe(context.Context, string) error { return nil }

// Unsubscribe implements Bus.
func (Local) Unsubscribe(string) {}

// Publish implements Bus.
func (Local) Publish(_ string, _ []byte, done func(error)) {
	if done != nil {
		done(nil)
	}
}

// Tell implements Bus.
func (Local) Tell(string, []byte) {}

// Close implements Bus.
func (Local) Close() error { return nil }
