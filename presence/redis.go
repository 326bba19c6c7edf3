package presence

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
)

// Redis is the presence of all instances that share a Redis and a prefix.
//
// An instance holds one lease, whatever the number of its connections. When it dies, the lease ends and the instances that
// stay tell its members as gone, each once. What the instance's own connections are and say is kept in its memory:
// whenever there is doubt whether Redis has it (a failed write, a flush, a failover, a long pause), the instance
// starts over under a new name there, writes everything again and has the old name removed, without an event for
// anyone who was there all the time. While Redis is out of reach changes are made in the local replicas, and
// answers are degraded.
//
// Redis subscribes to nothing. Whoever uses it subscribes to [Redis.UsersChannel] before Start and to the
// [Redis.RoomChannel] of each room before Open, and hands over what comes to Deliver, in order, and what may be lost to Lost.
//
// Its goroutines run from Start to Close: one that writes, a few that read replicas, and for a while those that heal
// and those that remove dead instances.
type Redis struct {
	base
	client  redis.UniversalClient
	prefix  string
	keys    keys
	ttl     time.Duration
	timeout time.Duration

	reaped, reconciled func() // of the options

	events atomic.Pointer[Events] // never nil

	ctx    context.Context // ends in Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   chan struct{} // of capacity 1: the writer has something to do
	jobs   *sync.Cond    // on base.mu: opens or rereads has something

	// Everything from here to the next comment is guarded by base.mu.

	up       bool     // iid is registered and own changes are queued
	iid      string   // the present name of this instance in Redis; set by the writer only
	doubt    error    // why the writer shall start over; nothing is queued any more
	stale    []string // former names whose rows may still be there
	queue    []*op
	queued   int                     // changes and other operations in queue
	pushing  bool                    // the queue holds everything of this instance, so its length says nothing
	healing  bool                    // the present name is not the first, and others may not be back yet
	whole    time.Time               // until then others may not have written again what Redis has lost
	batch    uint64                  // number of the latest batch of changes, over all names
	acked    uint64                  // number of the latest batch that Redis has answered
	beats    uint64                  // number of the latest heartbeat that was queued
	beaten   uint64                  // number of the latest heartbeat that went well
	lastBeat *op                     // the latest heartbeat that was queued
	touched  []string                // users to mark as active
	statuses uint64                  // number of the latest explicit status that was set here
	unsent   map[string]unsentStatus // by user
	opens    []job                   // replicas to read for the first time
	rereads  []job                   // replicas to read again
	reaping  map[string]bool         // dead instances that this one is removing
	warned   bool                    // that Redis is out of reach, since it was last shared
	endLife  context.CancelFunc      // ends the healing that the present name began

	// The writer's own.

	generation int       // of names
	begun      time.Time // when the present name was registered
	w          int64     // the write counter that Redis has
	renewed    time.Time // when the last good renewal of the lease was sent
	nextBeat   time.Time
	inflight   []*call
	retired    bool // nothing may be written any more

	others map[string]bool // instances, by name, that had members here when the last name was lost; never changed once it is set
}

var _ Store = (*Redis)(nil)

// NewRedis returns a store that tells o what changes. It does not connect and has no goroutines before [Redis.Start]; until the first
// contact everything works as while Redis is out of reach.
//
// The client stays the caller's, and must outlive the store. It should not retry (MaxRetries -1): a write that was done twice looks like one
// that went astray, and makes the store start over.
func NewRedis(client redis.UniversalClient, opts Options, o Observer) *Redis {
	opts = opts.withDefaults()
	s := &Redis{
		base:    newBase(opts, o),
		client:  client,
		prefix:  opts.Prefix,
		keys:    keys(opts.Prefix),
		ttl:     opts.TTL,
		timeout: opts.Timeout,
		reaped:  opts.Reaped, reconciled: opts.Reconciled,
		wake:    make(chan struct{}, 1),
		unsent:  map[string]unsentStatus{},
		reaping: map[string]bool{},
		endLife: func() {},
	}
	s.shared = s
	s.events.Store(new(Events))
	s.jobs = sync.NewCond(&s.mu)
	s.iid = s.name(0) // never registered
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// name returns the n-th name of this instance. A name is never used again.
func (s *Redis) name(n int) string { return s.boot + "-" + strconv.Itoa(n) }

// RoomChannel is the channel of a room. Payloads on it that don't begin with "p" are not presence's.
func (s *Redis) RoomChannel(room string) string { return redisdb.RoomChannel(s.prefix, room) }

// UsersChannel is the channel of what concerns users and instances.
func (s *Redis) UsersChannel() string { return redisdb.UsersChannel(s.prefix) }

// Start begins to talk to Redis. It returns at once, and must be called once at most.
func (s *Redis) Start() {
	s.wg.Go(s.write)
	for range readers {
		s.wg.Go(s.read)
	}
}

// Degraded tells whether Redis is out of reach.
func (s *Redis) Degraded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.writable()
}

// writable tells whether operations are queued. base.mu is held.
func (s *Redis) writable() bool { return s.up && s.doubt == nil }

// Connect implements Store.
func (s *Redis) Connect(ctx context.Context, c Conn) (status string, degraded bool, err error) {
	if err := c.check(); err != nil {
		return "", false, err
	}
	s.mu.Lock()
	own, u, err := s.connect(c)
	if err != nil {
		s.mu.Unlock()
		return "", false, err
	}
	var o *op
	if s.writable() {
		o = s.online(own)
	}
	s.mu.Unlock()
	degraded = s.wait(ctx, o) != nil
	s.mu.Lock()
	defer s.mu.Unlock()
	return u.status, degraded, nil
}

// online queues that an own connection is online. base.mu is held.
func (s *Redis) online(c *conn) *op {
	u := s.users[c.User]
	var since int64
	if c.known {
		since = u.came
	}
	args := []any{"+", c.ID, c.User, c.Device, since}
	if u.status != "" {
		args[0] = "~"
		args = append(args, strconv.FormatUint(u.statusVer, 10)+"\n"+u.status)
	}
	return s.push(&op{
		script: usersScript,
		about:  s.keys.user(c.User),
		keys:   []string{s.keys.user(c.User)},
		args:   args,
		reply: func(res []any) {
			text, _ := res[0].(string)
			since, text, _ := strings.Cut(text, "\n")
			s.mu.Lock()
			c.known = true
			if n, err := strconv.ParseInt(since, 10, 64); err == nil {
				s.cameBefore(c, n)
			}
			s.mu.Unlock()
			ver, status, ok := strings.Cut(text, "\n")
			if n, err := strconv.ParseUint(ver, 10, 64); ok && err == nil {
				s.setStatus(c.User, n, status)
			}
		},
	})
}

// cameBefore notes that the user of an own connection was online before he came here. base.mu is held.
func (s *Redis) cameBefore(c *conn, since int64) {
	u := s.users[c.User]
	if s.conns[c.ID] != c || since >= u.came {
		return
	}
	u.came = since
	if s.archive != nil && !c.Anonymous {
		s.archive.Came(c.User, c.Device, since)
	}
}

// offline implements shared.
func (s *Redis) offline(c *conn) {
	if !s.writable() {
		return
	}
	more := 0
	if s.users[c.User] != nil {
		more = 1
	}
	s.push(&op{
		script: usersScript,
		about:  s.keys.user(c.User),
		keys:   []string{s.keys.user(c.User)},
		args:   []any{"-", c.ID, c.User, more},
	})
}

// asserted implements shared.
func (s *Redis) asserted(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.assert(user)
}

// assert puts a user with own connections online once more: the answer holds the explicit status, and brings it to Redis if that has none.
// base.mu is held.
func (s *Redis) assert(user string) {
	if u := s.users[user]; u != nil && s.writable() {
		for c := range u.conns.Values() {
			s.online(c)
			return
		}
	}
}

// SetStatus implements Store.
func (s *Redis) SetStatus(ctx context.Context, user, status string) (degraded bool, err error) {
	if err := checkStatus(user, status); err != nil {
		return false, err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false, ErrClosed
	}
	s.statuses++
	if s.writable() {
		o := s.pushStatus(user, status)
		s.mu.Unlock()
		return s.wait(ctx, o) != nil, nil
	}
	n := s.statuses
	s.mu.Unlock()
	s.keepStatus(user, status, n)
	return true, nil
}

// pushStatus queues an explicit status. base.mu is held.
func (s *Redis) pushStatus(user, status string) *op {
	n, e := s.statuses, s.events.Load()
	return s.push(&op{
		script: statusScript,
		about:  s.keys.user(user),
		keys:   []string{s.keys.counters(), s.keys.user(user)},
		args:   []any{s.iid, s.UsersChannel(), user, status, e.Users, e.Head},
		reply: func(res []any) {
			if ver, _ := res[0].(int64); ver > 0 {
				s.mu.Lock()
				s.archiveStatus(user, status, uint64(ver))
				s.mu.Unlock()
			}
		},
		lost: func() { s.keepStatus(user, status, n) },
	})
}

// unsentStatus is an explicit status for which Redis was out of reach.
type unsentStatus struct {
	status string
	n      uint64 // its number
}

// keepStatus sets explicit status number n on this instance, and for all when Redis is back, unless a later one is kept.
func (s *Redis) keepStatus(user, status string, n uint64) {
	s.mu.Lock()
	if old, ok := s.unsent[user]; ok && old.n > n {
		s.mu.Unlock()
		return
	} else if ok || len(s.unsent) < maxQueue {
		s.unsent[user] = unsentStatus{status, n}
	}
	var ver uint64
	if u := s.users[user]; u != nil {
		ver = u.statusVer + 1 // Redis will give it a higher one
	}
	s.archiveStatus(user, status, max(ver, uint64(s.clock().UnixMicro())))
	s.mu.Unlock()
	s.setStatus(user, ver, status)
}

// Touch implements Store.
func (s *Redis) Touch(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conns[id]
	if c == nil {
		return
	}
	if u := s.users[c.User]; s.now()-u.seen >= time.Minute.Milliseconds() {
		u.seen = s.now()
		if len(s.touched) < maxQueue {
			s.touched = append(s.touched, c.User)
		}
	}
}

// Close implements Store. When Redis is out of reach, the members are told as gone when the lease ends. An error means that ctx
// ended or Redis failed before all was done; the lease does the rest.
func (s *Redis) Close(ctx context.Context, hold time.Duration) error {
	if !s.shut() {
		return ErrClosed
	}
	err := s.retire(ctx, hold)
	s.cancel()
	s.mu.Lock()
	queue := s.queue
	s.queue = nil
	s.jobs.Broadcast()
	s.mu.Unlock()
	for _, o := range queue {
		o.finish(ErrClosed)
	}
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.log.Debug("presence closed", zap.String("instance", s.iid))
	return err
}

// retire gives up this instance's name after all that is queued.
func (s *Redis) retire(ctx context.Context, hold time.Duration) error {
	s.mu.Lock()
	if !s.writable() {
		s.mu.Unlock()
		return nil
	}
	iid := s.iid
	if len(s.conns) == 0 {
		hold = 0 // there is nobody whose place others should keep
	}
	o := s.push(&op{
		script: retireScript,
		about:  s.keys.leases(),
		keys:   []string{s.keys.leases(), s.keys.counters(), s.keys.reasons()},
		args:   []any{iid, max(hold, 0).Milliseconds(), string(ReasonTimeout)},
		reads:  true,
		reply:  func([]any) { s.retired = true },
	})
	s.mu.Unlock()
	if err := s.wait(ctx, o); err != nil {
		return fmt.Errorf("presence: giving up the lease: %w", err)
	}
	if hold > 0 {
		return nil
	}
	if _, err := s.reap(ctx, iid); err != nil {
		return fmt.Errorf("presence: leaving everything: %w", err)
	}
	return nil
}
