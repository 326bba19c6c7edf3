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
	aborted atomic.Bool // nothing may start any more

	batches sync.Pool // of *Batch
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
	for i := range runtime.GOMAXPROCS(0) {
		p.workers = append(p.workers, newWorker(i))
	}
	return p
}

func (p *Pool) start() {
	for _, w := range p.workers {
		p.done.Go(func() { w.run(p) })
	}
	p.done.Go(func() { p.pings.run(p) })
}

// Abort closes the sockets of all connections at once, and of those that start from now on.
func (p *Pool) Abort() {
	p.aborted.Store(true) // first: who starts meanwhile is either seen here or sees this
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

// sent counts what was written, and starts to count anew.
func (p *Pool) sent(t *Traffic) {
	if t.Bytes == 0 {
		return
	}
	p.metrics.Sent.Add(float64(t.Messages))
	p.metrics.SentBytes.Add(float64(t.Bytes))
	*t = Traffic{}
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
