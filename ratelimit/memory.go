package ratelimit

import (
	"context"
	"hash/maphash"
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

const (
	shards = 64
	// sweepEvery is how often a shard is searched for keys that hold nothing any more, as long as there is traffic at all.
	sweepEvery = 10 * time.Second
	// shrinkFrom is how many keys a sweep must free before the map is rebuilt: a Go map never gives back memory by itself.
	shrinkFrom = 1024
)

// Memory is a [Limiter] of one process. It has no goroutines: calls of Allow take turns in forgetting the keys whose events
// no longer count, so that memory is in proportion to the keys that had events within their window.
type Memory struct {
	now    func() time.Duration // since some moment, never backwards
	seed   maphash.Seed
	shards [shards]shard

	sweepAt atomic.Int64 // when the next shard is swept, a time.Duration of now; whoever moves it does it
	hand    atomic.Uint32
}

// NewMemory returns an empty limiter.
func NewMemory() *Memory { return newMemory(sinceStart()) }

func newMemory(now func() time.Duration) *Memory {
	m := &Memory{now: now, seed: maphash.MakeSeed()}
	for i := range m.shards {
		m.shards[i].states = make(map[memoryKey]state)
	}
	return m
}

// sinceStart returns a monotonic clock.
func sinceStart() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}

type memoryKey struct {
	limit Limit
	key   string
}

// shard is a part of the keys.
type shard struct {
	mu     sync.Mutex
	states map[memoryKey]state // guarded by mu, and so are the states
	_      [48]byte            // keeps the locks of two shards out of one cache line
}

// state is what one key remembers.
type state interface {
	// take takes an event, if one is left. now is never before that of an earlier call.
	take(l Limit, now time.Duration) Decision
	// idle tells that forgetting the state would change no decision.
	idle(l Limit, now time.Duration) bool
}

// Allow implements [Limiter]. It never waits; the only error is that of an invalid limit.
func (m *Memory) Allow(_ context.Context, limit Limit, key string) (Decision, error) {
	k := memoryKey{limit, subject(key)}
	s := m.shard(k)
	s.mu.Lock()
	now := m.now() // under the lock, so that the times of a key are in order
	st, ok := s.states[k]
	if !ok {
		if err := limit.Validate(); err != nil {
			s.mu.Unlock()
			return Decision{}, err
		}
		st = newState(limit.Algorithm)
		s.states[k] = st
	}
	d := st.take(limit, now)
	s.mu.Unlock()

	if at := m.sweepAt.Load(); int64(now) >= at && m.sweepAt.CompareAndSwap(at, int64(now+sweepEvery/shards)) {
		m.shards[m.hand.Add(1)%shards].sweep(now)
	}
	return d, nil
}

func (m *Memory) shard(k memoryKey) *shard { return &m.shards[maphash.String(m.seed, k.key)%shards] }

// Reset implements [Limiter]. It never fails.
func (m *Memory) Reset(_ context.Context, limit Limit, key string) error {
	m.Forget(limit, key)
	return nil
}

// Forget implements [Limiter]. There is nobody else: it is what Reset does.
func (m *Memory) Forget(limit Limit, key string) {
	k := memoryKey{limit, subject(key)}
	s := m.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.states, k)
}

// Close implements [Limiter]; there is nothing to stop.
func (m *Memory) Close() error { return nil }

func newState(a Algorithm) state {
	switch a {
	case SlidingLog:
		return &eventLog{}
	case GCRA:
		return &leakyBucket{}
	default:
		return &counter{}
	}
}

// sweep forgets the keys that are idle at now.
func (s *shard) sweep(now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	freed := 0
	for k, st := range s.states {
		if st.idle(k.limit, now) {
			delete(s.states, k)
			freed++
		}
	}
	if freed >= shrinkFrom && freed > len(s.states) {
		kept := make(map[memoryKey]state, len(s.states))
		maps.Copy(kept, s.states)
		s.states = kept
	}
}

// decision fills in a Decision from what all algorithms know.
func decision(allowed bool, remaining int, reset, next time.Duration) Decision {
	d := Decision{Allowed: allowed, Remaining: remaining, Reset: reset, Next: next}
	if !allowed {
		d.RetryAfter = next
	}
	return d
}
