// Package ratelimit answers one question: may this happen now?
//
// There are two implementations of [Limiter], [Memory] for one process and [Redis] for any number of instances
// that share one, and three algorithms, the same in both. [Fallback] decides when Redis can't.
//
// A denied event costs nothing: only what is allowed is counted, so that a client who floods gets its limit all the same.
package ratelimit

import (
	"context"
	"fmt"
	"time"
)

// Algorithm is how events are counted.
type Algorithm string

const (
	// SlidingCounter counts in twenty buckets of window/20 and counts the whole oldest bucket: never more than Events in any
	// window, at least 20/21 of it under steady load, in about 185 bytes a key. The default.
	SlidingCounter Algorithm = "sliding_counter"
	// SlidingLog remembers the time of every event: exact, never more than Events in any window, and all of them.
	// Costs up to 120 bytes an event.
	SlidingLog Algorithm = "sliding_log"
	// GCRA spaces events evenly after a burst of Events (the generic cell rate algorithm of ITU-T I.371): it smooths, and
	// may admit almost twice Events in a window that begins with the burst. Never more than Events + d × Events / Window in
	// any span d.
	GCRA Algorithm = "gcra"
)

// Algorithms are the allowed words, the default first.
var Algorithms = []Algorithm{SlidingCounter, SlidingLog, GCRA}

// Bounds of a limit. Below MinWindow a bucket would be shorter than the millisecond that decisions are told in.
const (
	MaxEvents = 1_000_000
	MinWindow = 20 * time.Millisecond
	MaxWindow = 7 * 24 * time.Hour
	// MaxLogEvents bounds sliding_log, whose cost grows with every event.
	MaxLogEvents = 10_000
)

// Limit is at most Events in any Window for each key.
type Limit struct {
	Name      string // part of the stored key; limits of one name but other numbers do not share their counts
	Events    int
	Window    time.Duration
	Algorithm Algorithm
}

// Validate tells what is wrong with a limit, in words for the person who wrote it.
func (l Limit) Validate() error {
	switch l.Algorithm {
	case SlidingCounter, SlidingLog, GCRA:
	default:
		return fmt.Errorf("unknown algorithm %q (allowed: %s, %s, %s)", l.Algorithm, SlidingCounter, SlidingLog, GCRA)
	}
	most := MaxEvents
	if l.Algorithm == SlidingLog {
		most = MaxLogEvents
	}
	if l.Events < 1 || l.Events > most {
		return fmt.Errorf("events %d out of range for %s (allowed: 1 to %d)", l.Events, l.Algorithm, most)
	}
	if l.Window < MinWindow || l.Window > MaxWindow {
		return fmt.Errorf("window %s out of range (allowed: %s to %s)", l.Window, MinWindow, MaxWindow)
	}
	return nil
}

// Decision is the answer to one request. Its durations count from the moment it is returned.
type Decision struct {
	Allowed   bool
	Remaining int           // events that would still be allowed now
	Reset     time.Duration // until the whole limit is free again, if nothing more happens
	Next      time.Duration // until more than Remaining are allowed, if nothing more happens
	// RetryAfter is how long to wait until one event would be allowed, if nobody else takes it; 0 when Allowed.
	RetryAfter time.Duration
	// Local tells that a shared limiter was out of reach and this process decided alone.
	Local bool
}

// Limiter decides. Implementations are safe for use from any goroutine.
type Limiter interface {
	// Allow takes one event of limit for key, if one is left. A limiter that can't decide in time returns an error and a
	// decision that means nothing: what to do then is the caller's policy.
	Allow(ctx context.Context, limit Limit, key string) (Decision, error)
	// Reset forgets what was counted of limit for key, so that all of it is free. After an error it may not be forgotten everywhere. Other
	// processes that share the limiter go on denying what they have denied until Forget is called there as well.
	Reset(ctx context.Context, limit Limit, key string) error
	// Forget forgets what this process alone knows of limit and key, after Reset was called in another one. It waits for nobody.
	Forget(limit Limit, key string)
	// Close stops the limiter's goroutines.
	Close() error
}

// Milliseconds rounds d up to whole milliseconds, so that who waits that long has waited long enough.
func Milliseconds(d time.Duration) int64 { return ceil(d, time.Millisecond) }

// ceil returns d in units, rounded up.
func ceil(d, unit time.Duration) int64 { return int64((d + unit - 1) / unit) }
