// Package moderation keeps what moderators of a hub have decided: who is banned, and which rooms are in slow mode.
package moderation

import (
	"cmp"
	"context"
	cryptorand "crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
)

// How many bans and slow modes may hold at a time.
const (
	MaxBans      = 100_000
	MaxSlowModes = 10_000
)

// MaxBan is the longest ban. The scripts know it too.
const MaxBan = 720 * time.Hour

// Errors of changes.
var (
	ErrTooMany = errors.New("moderation: too many decisions")
	ErrClosed  = errors.New("moderation: table is closed")
)

// Options are the settings of a table. The zero value is a table in memory.
type Options struct {
	// Client is of the Redis that all instances share; it stays the caller's. nil: there is none.
	Client redis.UniversalClient
	// Base is what the key and the channel begin with.
	Base string
	// Timeout bounds every exchange with Redis; 0: redisdb.DefaultTimeout.
	Timeout time.Duration
	// Logger gets what an operator must know; nil: nothing is logged.
	Logger *zap.Logger
}

// Table is what holds for one hub. Its methods may be called from any goroutine.
//
// With Redis all instances have the same table, each a copy of its own that is read without waiting for anybody, also while Redis is out of
// reach. Of two decisions about the same user or room the later one counts, by the clock of Redis, in whatever order an instance hears of
// them; ends of bans are by that clock too, and become times of this process where they arrive.
//
// A change made while Redis is out of reach holds on this instance, and for all when Redis is back, unless a later decision is there; it is
// lost when the instance ends before. What Redis has lost, emptied or taken back to an earlier state, is put back by the instances that know
// it: bans and slow modes outlive a FLUSHALL as long as one of these runs. So that none comes back that was lifted, what has lifted or
// shortened a ban is kept for as long as that could have lasted, as is what has lifted a slow mode for 30 days. One that was lifted does come
// back if Redis is emptied before any other instance has heard that it was, and the one that has lifted it is gone.
//
// The table subscribes to nothing: what comes on the channel of the users and begins with [Kind] is to be handed to Deliver, and what may be
// missing there to be told by Lost, also once it is subscribed.
type Table struct {
	client  redis.UniversalClient // nil: in memory
	hash    string                // where Redis has the decisions
	channel string
	timeout time.Duration
	log     *zap.Logger
	author  string              // unique over all tables
	banned  func(user []string) // set by Start

	ctx    context.Context // ends in Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   chan struct{} // of capacity 1: there is something to read or write

	known [kinds]atomic.Int64 // entries and unwritten of a kind; with none, nobody needs the lock

	mu        sync.RWMutex
	closed    bool                // guarded by mu, as is all that follows
	entries   map[subject]entry   // what Redis has, as far as it is known; what was lifted or is over too. In memory all there is
	unwritten map[subject]*change // made here, and not known to be in Redis; comes before entries
	number    uint64              // of the latest change here
	version   int64               // of Redis's table, of which everything up to there is known; 0: that it is empty
	ahead     run                 // what came behind a gap
	stale     bool                // something may be missing
	clock     int64               // microseconds that the clock of Redis showed; 0: never read
	read      time.Time           // when it did
	forgotten []entryOf           // to be taken out of Redis
	swept     int                 // entries that the latest sweep in memory left
}

// change is a decision on its way to Redis. The table's mu guards it.
type change struct {
	decision
	number uint64
	made   time.Time
	note   bool // what it lifts may be known elsewhere
	busy   bool // somebody is writing it
}

// run is a part of the sequence of versions.
type run struct{ from, to int64 }

// entryOf is an entry with its subject.
type entryOf struct {
	subject
	entry
}

// New returns an empty table. It has no goroutines before Start, and dials nothing.
func New(opts Options) *Table {
	t := &Table{
		client: opts.Client, hash: opts.Base + ":mod", channel: redisdb.UsersChannel(opts.Base), timeout: cmp.Or(opts.Timeout, redisdb.DefaultTimeout),
		log: opts.Logger, author: cryptorand.Text(), wake: make(chan struct{}, 1), stale: true,
		entries: make(map[subject]entry), unwritten: make(map[subject]*change),
	}
	if t.log == nil {
		t.log = zap.NewNop()
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// Start begins to follow Redis, for which it does not wait. It is called once, before the table is used. banned is called with users of whom
// this instance did not know that they are banned, after Banned tells it, from any goroutine; it must not block. nil: nobody is told.
func (t *Table) Start(banned func(users []string)) {
	t.banned = banned
	if t.client != nil {
		t.wg.Go(t.follow)
	}
}

// Close stops what Start has begun. Changes fail from then on; what is known can still be read.
func (t *Table) Close() error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.cancel()
	t.wg.Wait()
	return nil
}

// Banned tells whether a user is banned, and until when. It waits for nobody.
func (t *Table) Banned(user string) (until time.Time, banned bool) {
	d, holds := t.get(subject{ban, user})
	return d.until, holds
}

// SlowMode returns the slow mode of a room, if it has one. It waits for nobody.
func (t *Table) SlowMode(room string) (SlowMode, bool) {
	d, holds := t.get(subject{slowMode, room})
	return d.slow, holds
}

func (t *Table) get(s subject) (decision, bool) {
	if t.known[s.kind].Load() == 0 {
		return decision{}, false
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.inForce(s, time.Now())
}

// inForce returns the decision about s, and whether anything holds by it. mu is held.
func (t *Table) inForce(s subject, now time.Time) (decision, bool) {
	if c := t.unwritten[s]; c != nil {
		return c.decision, c.holds(now)
	}
	e := t.entries[s]
	return e.decision, e.holds(now)
}

// each calls f for what holds of a kind. mu is held.
func (t *Table) each(k kind, f func(name string, d decision)) {
	now := time.Now()
	for s, c := range t.unwritten {
		if s.kind == k && c.holds(now) {
			f(s.name, c.decision)
		}
	}
	for s, e := range t.entries {
		if s.kind == k && t.unwritten[s] == nil && e.holds(now) {
			f(s.name, e.decision)
		}
	}
}

// Ban bans a user for d, which is over 0 and at most MaxBan, from now on; a ban that he has is replaced. The caller has checked the name: it
// has no control character. Degraded tells that it only holds here for now. before is called when it holds here, and nobody else has heard of it; nil:
// nothing is.
func (t *Table) Ban(ctx context.Context, user string, d time.Duration, before func()) (until time.Time, degraded bool, err error) {
	until = time.Now().Add(d)
	degraded, err = t.change(ctx, subject{ban, user}, decision{until: until}, before)
	return until, degraded, err
}

// Unban lifts the ban of a user, if he has one. Degraded as in Ban.
func (t *Table) Unban(ctx context.Context, user string) (degraded bool, err error) {
	return t.change(ctx, subject{ban, user}, decision{}, nil)
}

// SetSlowMode sets the slow mode of a room until it is lifted, which it is by one without events. The caller has checked it and the name, which
// has no control character. Degraded as in Ban.
func (t *Table) SetSlowMode(ctx context.Context, room string, m SlowMode) (degraded bool, err error) {
	return t.change(ctx, subject{slowMode, room}, decision{slow: m}, nil)
}

// change makes a decision, and calls before, unless it is nil, when it holds here and is not written yet.
func (t *Table) change(ctx context.Context, s subject, d decision, before func()) (degraded bool, err error) {
	c, fresh, err := t.decide(s, d)
	if err != nil {
		return false, err
	}
	if fresh && s.kind == ban {
		t.tell([]string{s.name})
	}
	if t.client == nil {
		return false, nil
	}
	if before != nil {
		before()
	}
	if err := t.write(ctx, s, c, true); err != nil {
		t.log.Debug("decision is not shared yet", zap.Stringer("kind", s.kind), zap.Error(err))
		t.signal()
		return true, nil
	}
	return false, nil
}

// decide makes a decision here. fresh tells that something holds that did not before.
func (t *Table) decide(s subject, d decision) (c *change, fresh bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, false, ErrClosed
	}
	now := time.Now()
	_, before := t.inForce(s, now)
	if fresh = d.holds(now) && !before; fresh && t.full(s.kind) {
		return nil, false, fmt.Errorf("%w: %d %s hold (allowed: %d)", ErrTooMany, mostOf[s.kind], s.kind, mostOf[s.kind])
	}
	if t.client == nil {
		t.put(s, entry{decision: d})
		if len(t.entries) > 2*t.swept {
			t.sweep()
			t.swept = max(len(t.entries), 1024)
		}
		return nil, fresh, nil
	}
	t.number++
	_, known := t.entries[s]
	c = &change{decision: d, number: t.number, made: now, note: known || t.unwritten[s] != nil, busy: true}
	t.pend(s, c)
	return c, fresh, nil
}

// full tells whether no more of a kind may hold. mu is held.
func (t *Table) full(k kind) bool {
	if t.known[k].Load() < int64(mostOf[k]) {
		return false
	}
	n := 0
	t.each(k, func(string, decision) { n++ })
	return n >= mostOf[k]
}

// put sets what is known of Redis about s. mu is held.
func (t *Table) put(s subject, e entry) {
	if _, ok := t.entries[s]; !ok {
		t.known[s.kind].Add(1)
	}
	t.entries[s] = e
}

// pend sets the change about s that is to be written, nil for none. mu is held.
func (t *Table) pend(s subject, c *change) {
	if t.unwritten[s] != nil {
		t.known[s.kind].Add(-1)
		delete(t.unwritten, s)
	}
	if c != nil {
		t.known[s.kind].Add(1)
		t.unwritten[s] = c
	}
}

func (t *Table) tell(users []string) {
	if len(users) > 0 && t.banned != nil {
		t.banned(users)
	}
}

// remember is how long after its use has ended a decision is kept, for those that come late.
const remember = time.Hour

// sweep forgets what does not hold any more and has nothing to overrule. mu is held.
func (t *Table) sweep() {
	now := time.Now()
	redisNow := t.clock/1000 + now.Sub(t.read).Milliseconds()
	for s, e := range t.entries {
		// Who lifts more than may hold at a time does not make the table grow for that.
		needed := t.client != nil && e.keep+remember.Milliseconds() > redisNow && t.known[s.kind].Load() <= int64(2*mostOf[s.kind])
		if needed || e.holds(now) {
			continue
		}
		delete(t.entries, s)
		t.known[s.kind].Add(-1)
		if t.client != nil {
			t.forgotten = append(t.forgotten, entryOf{s, e})
		}
	}
}
