// Package idempotency lets a request be sent again without being done again: the first one with a key is done, and its answer kept for those
// that come after.
//
// There are two implementations of [Store], [Memory] for one process and [Redis] for all instances that share one.
package idempotency

import (
	"context"
	"time"
)

const (
	// Keep is how long an answer is kept, from when it was given.
	Keep = 5 * time.Minute
	// Hold is how long a request counts as under way that is neither finished nor abandoned: its instance died.
	Hold = 30 * time.Second
)

// Fingerprint tells requests apart, as a SHA-256 of all that makes them differ.
type Fingerprint [32]byte

// Outcome is what is to be done with a request.
type Outcome uint8

const (
	// Started is for a request that is to be done: nobody has done it.
	Started Outcome = iota
	// Replayed is for one that was done.
	Replayed
	// Conflict is for one whose key another request had.
	Conflict
	// Busy is for one that is being done.
	Busy
)

func (o Outcome) String() string { return [...]string{"started", "replayed", "conflict", "busy"}[o] }

// Store remembers requests by their keys. Its methods may be called from any goroutine.
type Store interface {
	// Begin tells what is to be done with a request. Who is told Started ends the attempt by Finish or Abandon.
	Begin(ctx context.Context, key string, f Fingerprint) *Attempt
	// Close ends what the store does by itself.
	Close() error
}

// Attempt is a request that has come. It belongs to who began it.
type Attempt struct {
	Outcome  Outcome
	Answer   []byte // of a request that is Replayed; not to be changed
	Degraded bool   // a request that is Started may be started on other instances too, because Redis is out of reach

	end func(ctx context.Context, answer []byte, done bool) error // nil unless Started
}

// Finish keeps the answer, which must not be changed any more, for those who send the request again. It does so also when ctx is canceled. After an
// error the answer is kept within this instance only, until Redis can be told. Of an attempt that has ended, or was not Started, it does nothing.
func (a *Attempt) Finish(ctx context.Context, answer []byte) error {
	return a.conclude(ctx, answer, true)
}

// Abandon forgets the request, so that it can be tried again. What else Finish says holds for it; after an error other instances take it to be
// under way until Redis can be told, or for [Hold].
func (a *Attempt) Abandon(ctx context.Context) error { return a.conclude(ctx, nil, false) }

func (a *Attempt) conclude(ctx context.Context, answer []byte, done bool) error {
	if a.end == nil {
		return nil
	}
	end := a.end
	a.end = nil
	return end(context.WithoutCancel(ctx), answer, done)
}
