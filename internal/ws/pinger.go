package ws

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// buckets is how many parts the connections are divided into: each tick pings one of them.
const buckets = 32

// answerIn is how many ticks a peer has to answer a ping: 0.6 of the interval, 15 s of 25.
const answerIn = 19

// pinger is the one clock of all connections. A ping is a shared frame; an answer is any byte read after it.
type pinger struct {
	interval atomic.Int64 // nanoseconds between two pings of a connection
	onSilent func(*Conn)
	onSlow   func(*Conn)

	mu     sync.Mutex
	rounds [buckets]round      // guarded by mu
	ending map[*Conn]time.Time // connections that must be closed by then; guarded by mu
	scan   []*Conn             // owned by run
}

// round is the connections that are pinged together.
type round struct {
	conns  []*Conn
	pinged int64 // when, in Unix nanoseconds; 0: not since the answers were checked
}

func (p *pinger) init(interval time.Duration, onSilent, onSlow func(*Conn)) {
	p.interval.Store(int64(interval))
	p.onSilent, p.onSlow = onSilent, onSlow
	p.ending = make(map[*Conn]time.Time)
}

// add puts c into a random round, so that connections that came together are not pinged together.
func (p *pinger) add(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.bucket = rand.IntN(buckets)
	r := &p.rounds[c.bucket]
	c.slot = len(r.conns)
	r.conns = append(r.conns, c)
}

// expire sets when c's socket is closed at the latest.
func (p *pinger) expire(c *Conn, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.ending[c]; !ok && c.slot >= 0 {
		p.ending[c] = at
	}
}

// forget takes c out of its round, and unless its socket is still open, its deadline away.
func (p *pinger) forget(c *Conn, dead bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if dead {
		delete(p.ending, c)
	}
	if c.slot < 0 {
		return
	}
	r := &p.rounds[c.bucket]
	last := len(r.conns) - 1
	r.conns[c.slot] = r.conns[last]
	r.conns[c.slot].slot = c.slot
	r.conns[last] = nil
	r.conns = r.conns[:last]
	c.slot = -1
}

func (p *pinger) run(pool *Pool) {
	timer := time.NewTimer(p.tick())
	defer timer.Stop()
	for n := 0; ; n++ {
		select {
		case <-pool.stop:
			return
		case now := <-timer.C:
			p.step(pool, n, now)
		}
		timer.Reset(p.tick())
	}
}

func (p *pinger) tick() time.Duration { return time.Duration(p.interval.Load() / buckets) }

// step pings one round, gives up who did not answer in another, and closes what should long be closed.
func (p *pinger) step(pool *Pool, n int, now time.Time) {
	defer pool.recovered("websocket pinger", nil)
	round := &p.rounds[n%buckets]
	p.mu.Lock()
	p.scan = append(p.scan[:0], round.conns...)
	round.pinged = now.UnixNano()
	p.mu.Unlock()
	for _, c := range p.scan {
		c.Send(pingFrame)
	}

	round = &p.rounds[(n+buckets-answerIn)%buckets]
	p.mu.Lock()
	p.scan = p.scan[:0]
	for _, c := range round.conns {
		if round.pinged != 0 && c.lastRead.Load() < round.pinged {
			p.scan = append(p.scan, c)
		}
	}
	p.mu.Unlock()
	for _, c := range p.scan {
		p.onSilent(c)
	}

	p.mu.Lock()
	p.scan = p.scan[:0]
	for c, at := range p.ending {
		if now.After(at) {
			delete(p.ending, c)
			p.scan = append(p.scan, c)
		}
	}
	p.mu.Unlock()
	for _, c := range p.scan {
		c.mu.Lock()
		c.kill()
		c.mu.Unlock()
	}
	clear(p.scan)
}
