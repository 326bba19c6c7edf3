package ws

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// turn is how many writes a worker makes before it looks again at what else there is to do, and yields. A goroutine that writes for longer than
// the scheduler's slice loses its processor at every tick of the runtime's monitor, which costs more than the writes.
const turn = 64

// mergeLimit is how many bytes of waiting frames go to the kernel in one call.
const mergeLimit = 64 << 10

// worker writes what is pending on the connections that are handed to it.
type worker struct {
	index int // among the pool's workers
	wake  chan struct{}

	mu    sync.Mutex
	ready fifo // guarded by mu
	bulk  fifo // of broadcasts to many, which don't hold up the others; guarded by mu

	// Owned by the worker's goroutine.
	batch  [turn]*Conn
	frames []*Frame
	buf    []byte
	write  rawWrite
	poll   rawPoll
	sent   Traffic

	// A write through TLS may wait after all, in spite of what the socket has said: the kernel may be short of memory.
	blocking atomic.Pointer[Conn] // of whose write the end is not known
	writes   atomic.Uint64        // through TLS
	watched  uint64               // of writes, when watch was here last; owned by the pinger
}

func newWorker(index int) *worker {
	return &worker{index: index, wake: make(chan struct{}, 1), buf: make([]byte, 0, mergeLimit)}
}

// push hands over connections for writing. The caller has set their c.busy.
func (w *worker) push(conns ...*Conn) { w.enqueue(&w.ready, conns) }

// pushBulk is push for those of a broadcast to many.
func (w *worker) pushBulk(conns []*Conn) { w.enqueue(&w.bulk, conns) }

func (w *worker) enqueue(to *fifo, conns []*Conn) {
	w.mu.Lock()
	first := w.ready.len()+w.bulk.len() == 0
	to.push(conns)
	w.mu.Unlock()
	if first {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

func (w *worker) run(p *Pool) {
	for {
		select {
		case <-p.stop:
			return
		case <-w.wake:
		}
		// In turns, so that each of the two goes on whatever the other has.
		for w.serveSome(p, &w.ready)+w.serveSome(p, &w.bulk) > 0 {
			p.sent(&w.sent)
		}
	}
}

// serveSome serves at most a turn of the connections in a queue, and returns how many.
func (w *worker) serveSome(p *Pool, from *fifo) int {
	w.mu.Lock()
	n := from.pop(w.batch[:])
	w.mu.Unlock()
	for i, c := range w.batch[:n] {
		w.serve(p, c)
		w.batch[i] = nil
	}
	if n == turn {
		runtime.Gosched()
	}
	return n
}

// serve writes once for c and requeues it behind the others if more has come meanwhile.
func (w *worker) serve(p *Pool, c *Conn) {
	defer p.recovered("websocket writer", c)
	limit := mergeLimit
	if c.raw == nil {
		// There is no write that never waits, but there may be one that has no reason to.
		limit = takenAtOnce - overhead
		if c.under == nil || c.next() > limit || !w.poll.do(c.under) {
			c.startDrain()
			return
		}
	}
	w.frames = c.take(w.frames[:0], limit)
	if len(w.frames) == 0 {
		return
	}
	b := merge(w.frames, w.buf[:0])
	var n int
	var err error
	if c.raw != nil {
		n, err = w.write.do(c.raw, b)
	} else {
		w.writes.Add(1)
		w.blocking.Store(c)
		n, err = c.nc.Write(b)
		w.blocking.Store(nil)
	}
	state := c.wrote(w.frames, n, err, &w.sent)
	clear(w.frames)
	switch state {
	case writeMore:
		w.push(c)
	case writeBlocked:
		c.startDrain()
	case writeDone:
	}
}

// overhead bounds what TLS adds to a write of takenAtOnce: its first records carry about 1.2 KB each.
const overhead = 512

// watch cuts the connection that the worker has been writing to since the last call. The pinger calls it.
func (w *worker) watch() {
	c := w.blocking.Load() // before writes: a write that begins in between is then not taken for the last one
	writes := w.writes.Load()
	if c != nil && writes == w.watched {
		c.Abort()
	}
	w.watched = writes
}

// fifo is a queue of connections.
type fifo struct {
	conns []*Conn
	next  int // the first that was not popped
}

func (q *fifo) len() int { return len(q.conns) - q.next }

func (q *fifo) push(conns []*Conn) {
	if q.next > 0 && len(q.conns)+len(conns) > cap(q.conns) {
		kept := copy(q.conns, q.conns[q.next:])
		clear(q.conns[kept:])
		q.conns, q.next = q.conns[:kept], 0
	}
	q.conns = append(q.conns, conns...)
}

// maxQueue is the capacity that an empty queue keeps.
const maxQueue = 4096

func (q *fifo) pop(into []*Conn) int {
	n := copy(into, q.conns[q.next:])
	clear(q.conns[q.next : q.next+n])
	if q.next += n; q.next == len(q.conns) {
		q.conns, q.next = q.conns[:0], 0
		if cap(q.conns) > maxQueue {
			q.conns = nil
		}
	}
	return n
}
