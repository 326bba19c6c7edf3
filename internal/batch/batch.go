// Package batch does together what many ask for at the same time.
package batch

import "sync"

// Queue hands what is added to it to a function, in the order of the calls. While one batch is under way the next one gathers, so that
// batches grow with the load and what comes alone waits for nothing. It has a goroutine only while there is something to do, and it ends with
// that. The methods may be called from any goroutine.
type Queue[T any] struct {
	do func(batch []T)

	mu      sync.Mutex
	idle    *sync.Cond // on mu; busy is no longer
	waiting []T        // guarded by mu
	spare   []T        // the memory of an earlier batch; guarded by mu
	busy    bool       // somebody does what is waiting; guarded by mu
}

// New returns a queue for do, which is never called twice at a time. It must not panic, nor keep the batch.
func New[T any](do func(batch []T)) *Queue[T] {
	q := &Queue[T]{do: do}
	q.idle = sync.NewCond(&q.mu)
	return q
}

// Add adds an item and returns at once.
func (q *Queue[T]) Add(item T) {
	if q.add(item) {
		go q.work()
	}
}

// Do adds an item for somebody who is going to wait for it, and who does it himself unless a batch is under way. It may return before the
// item is done.
func (q *Queue[T]) Do(item T) {
	if q.add(item) && !q.step() {
		go q.work()
	}
}

// add tells whether the caller is to do what is waiting.
func (q *Queue[T]) add(item T) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, item)
	if q.busy {
		return false
	}
	q.busy = true
	return true
}

// Wait returns when nothing is left to do.
func (q *Queue[T]) Wait() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.busy {
		q.idle.Wait()
	}
}

func (q *Queue[T]) work() {
	for !q.step() {
	}
}

// step does what is waiting, and tells whether nothing is left.
func (q *Queue[T]) step() (done bool) {
	q.mu.Lock()
	batch := q.waiting
	q.waiting = q.spare
	q.mu.Unlock()
	q.do(batch)
	clear(batch)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.spare = batch[:0]
	if len(q.waiting) > 0 {
		return false
	}
	q.busy = false
	q.idle.Broadcast()
	return true
}
