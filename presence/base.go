package presence

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/small"
)

// base is what both stores share: this instance's own connections, the rooms that are open, and grace.
//
// Lock order: a room's mu, then base.mu. base.mu is a leaf: under it nothing is waited for, and nobody is called but the archive.
type base struct {
	observer Observer
	log      *zap.Logger
	shared   shared // the part that is in Redis; nil in Memory
	clock    func() time.Time
	boot     string // the name of this instance's life, which is never used again

	mu      sync.Mutex
	archive Archive         // or nil
	written <-chan struct{} // closed when the archive before it, if there was one, writes no more
	closed  bool
	rooms   map[string]*room
	conns   map[string]*conn // own connections, those held through their grace included
	users   map[string]*user // users with an own connection
}

// shared is the store behind the local replicas.
type shared interface {
	// opened prepares a new room that nobody else knows yet. base.mu is held.
	opened(r *room)
	// reload reads the replica of a locked room again.
	reload(r *room)
	// loaded waits until a locked room's replica is read; true when it isn't. The room is unlocked meanwhile.
	loaded(ctx context.Context, r *room) (degraded bool)
	// change queues changes of an own connection in a locked room, nil when the store is out of reach and the room is local.
	change(r *room, c change) *op
	// await waits until a locked room's replica has what o changed; true when it may not have. The room is unlocked meanwhile.
	await(ctx context.Context, r *room, o *op) (degraded bool)
	// degraded tells whether a locked room's replica may be stale.
	degraded(r *room) bool
	// offline queues the end of a connection. base.mu is held and c no longer in base.conns.
	offline(c *conn)
	// asserted queues the explicit status of a user with own connections, which the store may not have.
	asserted(user string)
}

// conn is an own connection. base.mu guards it.
type conn struct {
	Conn
	rooms small.Map[string, *room] // by name
	timer *time.Timer              // runs while the connection is held, else nil
	known bool                     // the shared store has had it
}

// user is what is known of a user with own connections. base.mu guards it.
type user struct {
	conns     small.Map[string, *conn] // by id
	held      int                      // connections among them that are held
	status    string                   // the explicit status, or ""
	statusVer uint64                   // an older status never replaces a newer one
	came      int64                    // when the first connection did without a break, as far as is known here, Unix milliseconds
	seen      int64                    // the latest activity, Unix milliseconds
	lost      int64                    // when an own connection was lost last, Unix milliseconds
}

func newBase(opts Options, o Observer) base {
	var random [6]byte
	_, _ = rand.Read(random[:]) // never fails
	return base{
		observer: o, log: opts.Logger, clock: opts.clock, boot: opts.Node + "-" + hex.EncodeToString(random[:]),
		rooms: map[string]*room{}, conns: map[string]*conn{}, users: map[string]*user{},
	}
}

// now is the time in Unix milliseconds, by the clock of this instance. Nothing that others see is compared with it.
func (b *base) now() int64 { return b.clock().UnixMilli() }

// recovered is deferred: it logs a panic instead of letting it end the process.
func (b *base) recovered(msg string, fields ...zap.Field) {
	if p := recover(); p != nil {
		b.log.Error(msg, append(fields, zap.Any("panic", p), zap.Stack("stack"))...)
	}
}

// Open implements Store.
func (b *base) Open(ctx context.Context, name string) (degraded bool, err error) {
	if err := checkName("room", name); err != nil {
		return false, err
	}
	var r *room
	for {
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return false, ErrClosed
		}
		r = b.rooms[name]
		if r == nil {
			r = newRoom(name)
			if b.shared != nil {
				b.shared.opened(r)
			} else {
				r.local = true
				r.pseq = b.firstSeq(r)
			}
			b.rooms[name] = r
		}
		b.mu.Unlock()
		r.mu.Lock()
		if !r.closed {
			break
		}
		r.mu.Unlock() // closed in between
	}
	defer b.unlock(r)
	if b.shared == nil {
		r.closing = false
		return false, nil
	}
	if r.closing { // nobody was subscribed for a while
		r.closing = false
		b.shared.reload(r)
	}
	return b.shared.loaded(ctx, r), nil
}

// CloseRoom implements Store.
func (b *base) CloseRoom(name string) {
	b.mu.Lock()
	r := b.rooms[name]
	b.mu.Unlock()
	if r == nil {
		return
	}
	r.mu.Lock()
	defer b.unlock(r)
	b.mu.Lock()
	defer b.mu.Unlock()
	for id := range r.own {
		if c := b.conns[id]; c != nil && c.timer == nil {
			return
		}
	}
	r.closing = true
	b.forget(r)
}

// forget closes a locked room that is to be closed and has no own connection. base.mu is held.
func (b *base) forget(r *room) {
	if r.closing && !r.closed && len(r.own) == 0 {
		r.closed = true
		delete(b.rooms, r.name)
	}
}

// lockRoom returns an open room, locked.
func (b *base) lockRoom(name string) (*room, error) {
	b.mu.Lock()
	r, closed := b.rooms[name], b.closed
	b.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	if r == nil {
		return nil, ErrNotOpen
	}
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil, ErrNotOpen
	}
	return r, nil
}

// connect adds an own connection. base.mu is held.
func (b *base) connect(c Conn) (*conn, *user, error) {
	if b.closed {
		return nil, nil, ErrClosed
	}
	if b.conns[c.ID] != nil {
		return nil, nil, ErrConnected
	}
	u := b.users[c.User]
	if u == nil {
		u = &user{came: b.now()}
		b.users[c.User] = u
		if b.archive != nil && !c.Anonymous {
			b.archive.Came(c.User, c.Device, u.came)
		}
	}
	u.seen = b.now()
	own := &conn{Conn: c}
	u.conns.Set(c.ID, own)
	b.conns[c.ID] = own
	return own, u, nil
}

func (c Conn) check() error {
	if err := checkName("connection", c.ID); err != nil {
		return err
	}
	if err := checkName("user", c.User); err != nil {
		return err
	}
	return checkText("device", c.Device)
}

// leave takes an own connection out of a locked room.
func (b *base) leave(r *room, id string, reason Reason) *op {
	e, in := r.own[id]
	if !in {
		return nil
	}
	delete(r.own, id)
	o := b.change(r, change{id: id, entry: entry{user: e.user}, gone: true, reason: reason})
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.conns[id]; c != nil {
		c.rooms.Delete(r.name)
	}
	b.forget(r)
	return o
}

// change brings a change of an own connection to the store, and at once to the replica of a room that is local.
func (b *base) change(r *room, c change) *op {
	var o *op
	if b.shared != nil {
		o = b.shared.change(r, c)
	}
	if r.local {
		b.applyOwn(r, []change{c})
		return nil // nothing to wait for
	}
	return o
}

// await waits until the replica of a locked room has what o changed. The room is unlocked meanwhile.
func (b *base) await(ctx context.Context, r *room, o *op) (degraded bool) {
	switch {
	case b.shared == nil:
		return false
	case o == nil:
		return b.shared.degraded(r)
	default:
		return b.shared.await(ctx, r, o)
	}
}

// Join implements Store.
func (b *base) Join(ctx context.Context, name, id string, s State, admit func(v View, degraded bool)) error {
	if err := checkText("status", s.Status); err != nil {
		return err
	}
	r, err := b.lockRoom(name)
	if err != nil {
		return err
	}
	var idle []*conn
	defer func() { b.unlock(r); b.expireAll(idle) }()
	e, err := b.enter(r, id)
	if err != nil {
		return err
	}
	was, in := r.own[id]
	if in {
		e = was
	}
	o := b.say(r, id, e, s, !in)
	if !in {
		// Before admit, so that who comes back is not counted twice.
		var last *op
		if last, idle = b.leaveHeld(r, e.user, r.row(id)); last != nil {
			o = last
		}
	}
	degraded := b.await(ctx, r, o)
	if admit != nil {
		r.viewed = true
		admit(view{r, degraded, b.now()}, degraded)
	}
	return nil
}

// enter notes that connection id is in a locked room, and returns how it starts there.
func (b *base) enter(r *room, id string) (entry, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return entry{}, ErrClosed
	}
	c := b.conns[id]
	if c == nil || c.timer != nil {
		return entry{}, ErrNotConnected
	}
	c.rooms.Set(r.name, r)
	e := entry{user: c.User, device: c.Device, status: DefaultStatus, state: "{}"}
	if u := b.users[c.User]; u.status != "" {
		e.status = u.status
	}
	return e, nil
}

// say makes s what an own connection says of itself in a locked room.
func (b *base) say(r *room, id string, e entry, s State, first bool) *op {
	was := e
	e.quiet = first && s == State{}
	if s.Status != "" {
		e.status = s.Status
	}
	if s.State != "" {
		e.state = s.State
	}
	if !first && e.same(was) {
		return nil
	}
	r.own[id] = e
	return b.change(r, change{id: id, entry: e})
}

// Leave implements Store.
func (b *base) Leave(ctx context.Context, name, id string, reason Reason, depart func(degraded bool)) error {
	r, err := b.lockRoom(name)
	if errors.Is(err, ErrNotOpen) {
		if depart != nil {
			depart(false)
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { b.unlock(r) }()
	degraded := b.await(ctx, r, b.leave(r, id, reason))
	if depart != nil {
		depart(degraded)
	}
	return nil
}

// Update implements Store.
func (b *base) Update(ctx context.Context, name, id string, s State) (degraded bool, err error) {
	if err := checkText("status", s.Status); err != nil {
		return false, err
	}
	r, err := b.lockRoom(name)
	if err != nil {
		return false, err
	}
	defer func() { b.unlock(r) }()
	e, in := r.own[id]
	if !in {
		return false, ErrNotMember
	}
	return b.await(ctx, r, b.say(r, id, e, s, false)), nil
}

// setStatus makes status what a user's own connections say in all their rooms, unless a newer one is known.
func (b *base) setStatus(name string, ver uint64, status string) {
	b.mu.Lock()
	u := b.users[name]
	if u == nil || ver <= u.statusVer || b.closed {
		b.mu.Unlock()
		return
	}
	u.status, u.statusVer = status, ver
	type place struct {
		room *room
		id   string
	}
	var places []place
	for id, c := range u.conns.All() {
		for r := range c.rooms.Values() {
			places = append(places, place{r, id})
		}
	}
	b.mu.Unlock()
	for _, p := range places {
		p.room.mu.Lock()
		if e, in := p.room.own[p.id]; in {
			b.say(p.room, p.id, e, State{Status: status}, false)
		}
		b.unlock(p.room)
	}
}

// Touch implements Store.
func (b *base) Touch(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.conns[id]; c != nil {
		b.users[c.User].seen = b.now()
	}
}

// View implements Store.
func (b *base) View(name string, f func(v View, degraded bool)) bool {
	r, err := b.lockRoom(name)
	if err != nil {
		return false
	}
	defer b.unlock(r)
	degraded := b.shared != nil && b.shared.degraded(r)
	r.viewed = true
	f(view{r, degraded, b.now()}, degraded)
	return true
}

// shut refuses everything from now on; false when that was so before.
func (b *base) shut() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.closed = true
	for _, c := range b.conns {
		if c.timer != nil {
			c.timer.Stop()
		}
	}
	return true
}
