package ws

import (
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/metrics"
)

// yieldEvery is how many writes a worker makes before it yields. A goroutine that writes for longer than the scheduler's
// slice loses its processor at every tick of the runtime's monitor, which costs more than the writes.
const yieldEvery = 64

// mergeLimit is how many bytes of waiting frames go to the kernel in one call.
const mergeLimit = 64 << 10

// Pool writes for all connections of a hub and watches over them: GOMAXPROCS workers and one pinger, whatever the
// number of connections. Close it after its last connection.
type Pool struct {
	logger  *zap.Logger
	metrics *metrics.Hub
	workers []*worker
	next    atomic.Uint32 // spreads connections over the workers
	pings   pinger
	stop    chan struct{}
	done    sync.WaitGroup
}

// NewPool starts a pool whose connections are pinged every pingInterval.
func NewPool(logger *zap.Logger, m *metrics.Hub, pingInterval time.Duration) *Pool {
	p := newPool(logger, m, pingInterval)
	p.start()
	return p
}

func newPool(logger *zap.Logger, m *metrics.Hub, pingInterval time.Duration) *Pool {
	p := &Pool{logger: logger, metrics: m, stop: make(chan struct{})}
	p.pings.ending, p.pings.wait, p.pings.wake = make(map[*Conn]time.Time), answerWait, make(chan struct{}, 1)
	p.SetPingInterval(pingInterval)
	for range runtime.GOMAXPROCS(0) {
		w := &worker{wake: make(chan struct{}, 1), buf: make([]byte, 0, mergeLimit)}
		p.workers = append(p.workers, w)
	}
	return p
}

func (p *Pool) start() {
	for _, w := range p.workers {
		p.done.Go(func() { w.run(p) })
	}
	p.done.Go(func() { p.pings.run(p) })
}

// Abort closes the sockets of all connections at once.
func (p *Pool) Abort() {
	for _, c := range p.pings.all() {
		c.Abort()
	}
}

// Waiting returns how many bytes wait to be sent, on all connections together.
func (p *Pool) Waiting() (bytes int) {
	for _, c := range p.pings.all() {
		c.mu.Lock()
		bytes += c.bytes
		c.mu.Unlock()
	}
	return bytes
}

// Close stops the pool's goroutines and closes the sockets of connections that are still open.
func (p *Pool) Close() {
	p.Abort()
	close(p.stop)
	p.done.Wait()
}

// SetPingInterval changes the time between two pings of a connection, for all of them.
func (p *Pool) SetPingInterval(d time.Duration) {
	if p.pings.interval.Load() == int64(d) {
		return
	}
	p.pings.changed.Store(time.Now().UnixNano()) // before the interval: a check between the two is lenient
	p.pings.interval.Store(int64(d))
	select {
	case p.pings.wake <- struct{}{}:
	default:
	}
}

// recovered logs a panic with its stack and closes the connection that it was about, if any: one connection's trouble must
// not end the server.
func (p *Pool) recovered(what string, c *Conn) {
	if r := recover(); r != nil {
		p.panicked(what, r, c)
	}
}

// panicked is recovered for who recovers by himself.
func (p *Pool) panicked(what string, r any, c *Conn) {
	p.logger.Error("panic in "+what, zap.Any("error", r), zap.ByteString("stack", debug.Stack()))
	if c != nil {
		c.Abort()
	}
}

// worker writes what is pending on the connections that are handed to it.
type worker struct {
	wake chan struct{}

	mu    sync.Mutex
	ready []*Conn // guarded by mu

	// Owned by the worker's goroutine.
	batch  []*Conn
	frames []Frame
	buf    []byte
	write  rawWrite
}

// push hands c over for writing. The caller has set c.busy.
func (w *worker) push(c *Conn) {
	w.mu.Lock()
	w.ready = append(w.ready, c)
	first := len(w.ready) == 1
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
		w.mu.Lock()
		w.batch, w.ready = w.ready, w.batch[:0]
		w.mu.Unlock()
		for i, c := range w.batch {
			w.serve(p, c)
			w.batch[i] = nil
			if i%yieldEvery == yieldEvery-1 {
				runtime.Gosched()
			}
		}
	}
}

// serve writes once for c and requeues it behind the others if more has come meanwhile.
func (w *worker) serve(p *Pool, c *Conn) {
	defer p.recovered("websocket writer", c)
	if c.raw == nil {
		// TLS and wrapped connections have no non-blocking write.
		c.startDrain()
		return
	}
	w.frames = c.take(w.frames[:0])
	if len(w.frames) == 0 {
		return
	}
	n, err := w.write.do(c.raw, merge(w.frames, w.buf[:0]))
	state := c.wrote(w.frames, n, err)
	clear(w.frames)
	switch state {
	case writeMore:
		w.push(c)
	case writeBlocked:
		c.startDrain()
	case writeDone:
	}
}
