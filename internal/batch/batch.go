// Package batch does together what many ask for at the same time.
package batch

import "sync"

// Queue hands what is added to it to a function, in the order of the calls. While one batch is under way the next one gathers, so that
// batches grow with the load and what comes alone waits for nothing. It has a goroutine only while there is something to do. The methods may
// be called from any goroutine.
type Queue[T any] struct {
	do func(batch []T)

	mu      sync.Mutex
	waiting []T            // guarded by mu
	spare   []T            // the memory of an earlier batch; guarded by mu
	busy    bool           // the goroutine is there; guarded by mu
	working sync.WaitGroup // the goroutine
}

// New returns a queue for do, which is never called twice at a time. It must not panic, nor keep the batch.
func New[T any](do func(batch []T)) *Queue[T] { return &Queue[T]{do: do} }

// Add adds an item and returns at once.
func (q *Queue[T]) Add(item T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, item)
	if !q.busy {
		q.busy = true
		q.working.Go(q.work)
	}
}

// Wait returns when all that was added is done. Nobody may add anything meanwhile.
func (q *Queue[T]) Wait() { q.working.Wait() }

func (q *Queue[T]) work() {
	for {
		q.mu.Lock()
		batch := q.waiting
		if len(batch) == 0 {
			q.busy = false
			q.mu.Unlock()
			return
		}
		q.waiting = q.spare
		q.mu.Unlock()
		q.do(batch)
		clear(batch)
		q.mu.Lock()
		q.spare = batch[:0]
		q.mu.Unlock()
	}
}
