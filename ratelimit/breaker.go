package ratelimit

import (
	"sync/atomic"
	"time"
)

const (
	// breakAfter is how many failures in a row open a breaker.
	breakAfter = 5
	// breakFor is how long it stays open before one call tries again.
	breakFor = time.Second
)

// breaker spares calls that would only wait for their deadline. The zero value is closed: all calls may pass.
type breaker struct {
	failures atomic.Int32 // in a row
	retryAt  atomic.Int64 // a time.Duration of the limiter's clock; means nothing before breakAfter failures
}

// allow tells whether a call may be made at now.
func (b *breaker) allow(now time.Duration) bool {
	if b.failures.Load() < breakAfter {
		return true
	}
	// Whoever moves the time is the one that tries; the next one may when its outcome never comes.
	at := b.retryAt.Load()
	return int64(now) >= at && b.retryAt.CompareAndSwap(at, int64(now+breakFor))
}

func (b *breaker) failed(now time.Duration) {
	b.retryAt.Store(int64(now + breakFor))
	if b.failures.Load() < breakAfter { // never overflows
		b.failures.Add(1)
	}
}

func (b *breaker) succeeded() {
	if b.failures.Load() != 0 {
		b.failures.Store(0)
	}
}
