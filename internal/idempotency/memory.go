package idempotency

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// The most that a Memory keeps, and that a Redis has yet to be told. Beyond, what was begun or finished first is forgotten: sent again, it is done
// again.
const (
	maxEntries = 100_000
	maxBytes   = 64 << 20 // of keys and answers
)

// Memory is a [Store] of one process. It has no goroutines: what has ended is forgotten as others come.
type Memory struct {
	mu      sync.Mutex
	entries map[string]*list.Element // of *entry, by key; guarded by mu, and so are the entries
	order   *list.List               // of *entry, in the order in which they were begun or finished; guarded by mu
	bytes   int                      // of all keys and answers; guarded by mu
}

var _ Store = (*Memory)(nil)

// entry is a request.
type entry struct {
	key         string
	fingerprint Fingerprint
	done        bool
	answer      []byte
	ends        time.Time // then it is forgotten
}

func (e *entry) size() int { return len(e.key) + len(e.answer) }

// NewMemory returns a store that knows no request.
func NewMemory() *Memory { return &Memory{entries: map[string]*list.Element{}, order: list.New()} }

// Begin implements [Store].
func (m *Memory) Begin(_ context.Context, key string, f Fingerprint) *Attempt {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.find(key, f); a != nil {
		return a
	}
	return m.start(key, f)
}

// Close implements [Store].
func (m *Memory) Close() error { return nil }

// known returns what is to be done with a request that was begun here, or nil.
func (m *Memory) known(key string, f Fingerprint) *Attempt {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.find(key, f)
}

// started begins a request of which nobody knows elsewhere.
func (m *Memory) started(key string, f Fingerprint) *Attempt {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.start(key, f)
}

// find is known with mu held.
func (m *Memory) find(key string, f Fingerprint) *Attempt {
	m.sweep()
	at := m.entries[key]
	if at == nil {
		return nil
	}
	e := at.Value.(*entry)
	if !time.Now().Before(e.ends) {
		m.remove(at)
		return nil
	}
	return outcome(f, e.fingerprint, e.done, e.answer)
}

// outcome tells what is to be done with a request when one of its key is known.
func outcome(f, known Fingerprint, done bool, answer []byte) *Attempt {
	switch {
	case f != known:
		return &Attempt{Outcome: Conflict}
	case !done:
		return &Attempt{Outcome: Busy}
	}
	return &Attempt{Outcome: Replayed, Answer: answer}
}

// start is started with mu held.
func (m *Memory) start(key string, f Fingerprint) *Attempt {
	if at := m.entries[key]; at != nil {
		m.remove(at)
	}
	e := &entry{key: key, fingerprint: f}
	m.add(e, Hold)
	return &Attempt{Outcome: Started, end: func(_ context.Context, answer []byte, done bool) error {
		m.end(e, answer, done)
		return nil
	}}
}

// end finishes or abandons what e began, unless it was forgotten and another request has the key.
func (m *Memory) end(e *entry, answer []byte, done bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at := m.entries[e.key]; at != nil {
		if at.Value != e {
			return
		}
		m.remove(at)
	}
	if done {
		e.done, e.answer = true, answer
		m.add(e, Keep)
	}
}

// add adds e for a while, and forgets what is too much. mu is held.
func (m *Memory) add(e *entry, d time.Duration) {
	e.ends = time.Now().Add(d)
	m.entries[e.key] = m.order.PushBack(e)
	m.bytes += e.size()
	for m.order.Len() > maxEntries || m.bytes > maxBytes {
		m.remove(m.order.Front())
	}
}

// sweep forgets the first ones that have ended. mu is held.
func (m *Memory) sweep() {
	now := time.Now()
	for at := m.order.Front(); at != nil && !now.Before(at.Value.(*entry).ends); at = m.order.Front() {
		m.remove(at)
	}
}

// remove forgets an entry. mu is held.
func (m *Memory) remove(at *list.Element) {
	e := m.order.Remove(at).(*entry)
	delete(m.entries, e.key)
	m.bytes -= e.size()
}
