package ws

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// buckets is how many parts the connections are divided into: each tick pings, or checks, one of them.
const buckets = 32

// answerWait is how long a peer has to answer a ping.
const answerWait = 15 * time.Second

// checkEvery is how often a connection is checked for an answer, and one that should be closed for being so.
const checkEvery = time.Second

// silentWait is how long a peer that was given up has to read why. It has been silent for long, so nobody waits for its close frame.
const silentWait = time.Second

// pinger is the one clock of all connections. A ping is a shared frame; an answer is any byte read after it.
type pinger struct {
	interval atomic.Int64 // nanoseconds between two pings of a connection
	// changed is when the interval was changed, or the process went on after a standstill, in Unix nanoseconds: who was silent before had no
	// reason to speak, or was not heard.
	changed atomic.Int64
	wake    chan struct{} // tells run of that
	wait    time.Duration // answerWait, shorter in tests

	mu     sync.Mutex
	rounds [buckets][]*Conn    // connections that are pinged together; guarded by mu
	ending map[*Conn]time.Time // connections that must be closed by then; guarded by mu

	scan    []*Conn // owned by run
	checked int64   // when check was called last, Unix nanoseconds, as the monotonic clock stands still with the machine; owned by run
}

// all returns the connections whose reader has not ended, or whose socket is open.
func (p *pinger) all() []*Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	conns := slices.Concat(p.rounds[:]...)
	for c := range p.ending {
		conns = append(conns, c)
	}
	return conns
}

// add puts c into a random round, so that connections that came together are not pinged together.
func (p *pinger) add(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.bucket = rand.IntN(buckets)
	r := &p.rounds[c.bucket]
	c.slot = len(*r)
	*r = append(*r, c)
}

// expire sets when c's socket is closed at the latest.
func (p *pinger) expire(c *Conn, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.ending[c]; !ok && c.slot >= 0 {
		p.ending[c] = at
	}
}

// hurry sets that c's socket is closed by then, whatever expire has said.
func (p *pinger) hurry(c *Conn, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.slot >= 0 {
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
	r := p.rounds[c.bucket]
	last := len(r) - 1
	r[c.slot] = r[last]
	r[c.slot].slot = c.slot
	r[last] = nil
	p.rounds[c.bucket] = r[:last]
	c.slot = -1
}

func (p *pinger) run(pool *Pool) {
	ping, check := time.NewTimer(p.tick()), time.NewTicker(checkEvery/buckets)
	defer ping.Stop()
	defer check.Stop()
	for pings, checks := 0, 0; ; {
		select {
		case <-pool.stop:
			return
		case <-ping.C:
			p.ping(pool, pings%buckets)
			pings++
			ping.Reset(p.tick())
		case <-p.wake:
			ping.Reset(p.tick())
		case now := <-check.C:
			p.check(pool, checks%buckets, now)
			if checks++; checks%buckets == 0 {
				for _, w := range pool.workers {
					w.watch()
				}
			}
		}
	}
}

func (p *pinger) tick() time.Duration { return time.Duration(p.interval.Load() / buckets) }

func (p *pinger) ping(pool *Pool, bucket int) {
	defer pool.recovered("websocket pinger", nil)
	p.mu.Lock()
	p.scan = append(p.scan[:0], p.rounds[bucket]...)
	p.mu.Unlock()
	for _, c := range p.scan {
		c.Send(pingFrame)
	}
	clear(p.scan)
}

// check gives up the connections of one bucket that have not answered, and closes what should long be closed.
func (p *pinger) check(pool *Pool, bucket int, now time.Time) {
	defer pool.recovered("websocket pinger", nil)
	if now.UnixNano()-p.checked > int64(checkEvery) {
		p.changed.Store(now.UnixNano())
	}
	p.checked = now.UnixNano()
	silentSince := now.Add(-time.Duration(p.interval.Load()) - p.wait).UnixNano()
	changed := p.changed.Load()
	p.mu.Lock()
	p.scan = p.scan[:0]
	for _, c := range p.rounds[bucket] {
		if max(c.lastRead.Load(), changed) >= silentSince {
			continue
		}
		if _, closing := p.ending[c]; !closing {
			p.scan = append(p.scan, c)
		}
	}
	silent := len(p.scan)
	for c, at := range p.ending {
		if now.After(at) {
			delete(p.ending, c)
			p.scan = append(p.scan, c)
		}
	}
	p.mu.Unlock()
	for _, c := range p.scan[:silent] {
		c.owner.Silent()
		p.hurry(c, now.Add(silentWait))
	}
	for _, c := range p.scan[silent:] {
		c.Abort()
	}
	clear(p.scan)
}
