package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

var errUnsubscribed = errors.New("bus: unsubscribed meanwhile")

// registry knows what is wanted, what was sent to Redis on the present connection, and what Redis has confirmed.
type registry struct {
	changed chan struct{} // capacity 1; gets a value when there are changes to send

	mu        sync.Mutex
	channels  map[string]*subscription // wanted, or with a confirmation to come; guarded by mu
	pending   []string                 // channels to look at for what is to be sent; guarded by mu
	failing   bool                     // the last attempt to connect failed; guarded by mu
	restoring bool                     // not all subscriptions of the new connection are confirmed; guarded by mu
	regained  []string                 // confirmed again while restoring; guarded by mu
	closed    bool                     // guarded by mu
}

func newRegistry() *registry {
	return &registry{changed: make(chan struct{}, 1), channels: make(map[string]*subscription)}
}

// subscription is the state of one channel, guarded by the registry's lock.
type subscription struct {
	wanted      bool
	sent        bool     // the last command for it on this connection was SUBSCRIBE
	unconfirmed int      // SUBSCRIBE commands that Redis has yet to confirm
	lost        bool     // the receiver is to be told when it is confirmed
	attempt     *attempt // of those who wait; nil: nobody
}

// attempt is one wait for a confirmation, shared by all who wait for the same.
type attempt struct {
	done chan struct{}
	err  error // written before done is closed
}

func (s *subscription) confirmed() bool { return s.wanted && s.sent && s.unconfirmed == 0 }

// settle ends the wait for a confirmation.
func (s *subscription) settle(err error) {
	if s.attempt != nil {
		s.attempt.err = err
		close(s.attempt.done)
		s.attempt = nil
	}
}

// subscribe waits until channel is confirmed, unless there is nothing to wait for: reachable false.
func (r *registry) subscribe(ctx context.Context, channel string, reachable bool) error {
	a, err := r.want(channel, reachable)
	if a == nil {
		return err
	}
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-a.done:
		return a.err
	default:
	}
	r.channels[channel].lost = true
	return fmt.Errorf("bus: subscribing: %w", context.Cause(ctx))
}

// want records that channel is wanted. It returns what to wait for, or nil and the outcome.
func (r *registry) want(channel string, reachable bool) (*attempt, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, ErrClosed
	}
	s := r.channels[channel]
	if s == nil {
		s = new(subscription)
		r.channels[channel] = s
	}
	if !s.wanted {
		s.wanted = true
		r.change(channel)
	}
	switch {
	case s.confirmed():
		return nil, nil
	case r.failing || !reachable:
		s.lost = true
		return nil, ErrDown
	}
	if s.attempt == nil {
		s.attempt = &attempt{done: make(chan struct{})}
	}
	return s.attempt, nil
}

func (r *registry) unsubscribe(channel string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.channels[channel]
	if s == nil || !s.wanted {
		return
	}
	s.wanted, s.lost = false, false
	s.settle(errUnsubscribed)
	r.change(channel)
}

// change has run look at channel. The caller holds the lock.
func (r *registry) change(channel string) {
	r.pending = append(r.pending, channel)
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// changes returns what is to be sent, and records it as sent.
func (r *registry) changes() (subscribe, unsubscribe []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, channel := range r.pending {
		s := r.channels[channel]
		switch {
		case s == nil:
		case s.wanted && !s.sent:
			s.sent = true
			s.unconfirmed++
			subscribe = append(subscribe, channel)
		case !s.wanted && s.sent:
			s.sent = false
			unsubscribe = append(unsubscribe, channel)
		}
		r.forget(channel)
	}
	r.pending = nil
	return subscribe, unsubscribe
}

// forget drops channel if nothing is left to know of it. The caller holds the lock.
func (r *registry) forget(channel string) {
	if s := r.channels[channel]; s != nil && !s.wanted && !s.sent && s.unconfirmed == 0 {
		delete(r.channels, channel)
	}
}

// restore returns all that is wanted, to be sent on a new connection, and records it as sent.
func (r *registry) restore() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failing, r.restoring = false, true
	r.pending = nil
	channels := make([]string, 0, len(r.channels))
	for channel, s := range r.channels {
		if !s.wanted {
			delete(r.channels, channel)
			continue
		}
		s.sent = true
		s.unconfirmed = 1
		channels = append(channels, channel)
	}
	return channels
}

// confirm records that Redis has confirmed one SUBSCRIBE of channel. It returns what the receiver is to be told as
// subscribed again.
func (r *registry) confirm(channel string) (regained []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.channels[channel]
	if s == nil || s.unconfirmed == 0 {
		return nil // the control channel
	}
	s.unconfirmed--
	if !s.confirmed() {
		r.forget(channel)
		return nil
	}
	s.settle(nil)
	if !s.lost {
		return nil
	}
	s.lost = false
	if r.restoring {
		r.regained = append(r.regained, channel)
		return nil
	}
	return []string{channel}
}

// restored records that all subscriptions of the new connection are confirmed. It returns what the receiver is to be
// told as subscribed again.
func (r *registry) restored() (regained []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	regained, r.regained, r.restoring = r.regained, nil, false
	return regained
}

// cut records that the connection is gone, and with it messages on all channels that were confirmed.
func (r *registry) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.regained = nil
	for channel, s := range r.channels {
		s.lost = s.lost || s.confirmed()
		s.sent, s.unconfirmed = false, 0
		r.forget(channel)
	}
}

// fail records that no connection could be opened: nobody waits for one.
func (r *registry) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failing = true
	for _, s := range r.channels {
		s.lost = s.lost || s.attempt != nil
		s.settle(err)
	}
}

// close ends all waits.
func (r *registry) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, s := range r.channels {
		s.settle(ErrClosed)
	}
}
