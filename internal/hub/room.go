package hub

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/internal/ws"
)

// room is the local side of a room: who of its members is connected here.
type room struct {
	hub    *Hub
	name   string
	opened chan struct{} // closed when the room is subscribed and its presence read, or that has failed for now
	closed chan struct{} // made when the room is given up, closed when that is done; guarded by Hub.mu

	joining sync.Mutex // held by who joins a room with a bound on its members

	refs int         // sessions, tails and readers in it or on their way; guarded by Hub.mu
	idle *time.Timer // gives the room up; guarded by Hub.mu

	speaking sync.Mutex // held while something is said to all members: one after the other

	mu        sync.Mutex
	members   roll    // guarded by mu
	listeners roll    // guarded by mu
	feed      feed    // guarded by mu
	tails     []*Tail // guarded by mu
	backlog   backlog // guarded by mu
}

// enter returns the room of that name, opened, and counts the caller in; exit counts it out. When ctx ends early, all who have entered go on
// without what is not there yet.
func (h *Hub) enter(ctx context.Context, name string) *room {
	for {
		h.mu.Lock()
		r := h.rooms[name]
		if r != nil && r.closed != nil {
			closed := r.closed
			h.mu.Unlock()
			<-closed
			continue
		}
		first := r == nil
		if first {
			r = &room{hub: h, name: name, opened: make(chan struct{}), listeners: roll{which: onListeners}, feed: feed{list: 1}}
			h.rooms[name] = r
		}
		r.refs++
		if r.idle != nil {
			r.idle.Stop()
			r.idle = nil
		}
		h.mu.Unlock()
		if first {
			r.open(ctx)
		}
		select {
		case <-r.opened:
		case <-ctx.Done():
		}
		return r
	}
}

// open subscribes to the room and reads its presence. A failure is no reason not to enter: bus and store go on trying.
func (r *room) open(ctx context.Context) {
	defer close(r.opened)
	if err := r.hub.backend.Bus.Subscribe(ctx, r.hub.channel(r.name)); err != nil {
		r.hub.logger.Debug("subscribing to room", zap.String("room", r.name), zap.Error(err))
	}
	if _, err := r.hub.backend.Store.Open(ctx, r.name); err != nil {
		r.hub.logger.Debug("opening presence of room", zap.String("room", r.name), zap.Error(err))
	}
}

// hears tells whether what others do in a room that was entered arrives here. If not, the store would wait in vain for its own
// changes to come back: it is given no time to, and answers that it is degraded.
func (h *Hub) hears(ctx context.Context, name string) bool {
	return h.backend.Bus.Subscribe(ctx, h.channel(name)) == nil
}

// exit counts the caller out. The last one starts the time after which the room is given up.
func (r *room) exit() {
	h := r.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.refs--; r.refs > 0 || h.draining.Load() {
		return
	}
	if r.idle != nil {
		r.idle.Stop()
	}
	r.idle = time.AfterFunc(time.Duration(h.linger.Load()), r.giveUp)
}

// giveUp forgets a room that nobody has entered since.
func (r *room) giveUp() {
	h := r.hub
	defer h.recovered(nil)
	h.mu.Lock()
	if r.refs > 0 || r.closed != nil || h.draining.Load() {
		h.mu.Unlock()
		return
	}
	r.closed = make(chan struct{})
	h.mu.Unlock()
	// Who enters meanwhile waits, so that his subscription can't be undone here.
	h.backend.Store.CloseRoom(r.name)
	h.backend.Bus.Unsubscribe(h.channel(r.name))
	h.mu.Lock()
	delete(h.rooms, r.name)
	h.mu.Unlock()
	close(r.closed)
}

// stop ends the room's timers. Hub.mu is held.
func (r *room) stop() {
	if r.idle != nil {
		r.idle.Stop()
	}
	r.mu.Lock()
	r.feed.stop()
	r.mu.Unlock()
}

// add sends the join's ack and makes m a member, so that nothing of the room comes before it. named tells that the ack begins the list of
// members. It is called with the room locked in the presence store.
func (r *room) add(m *membership, mode wire.Presence, named bool, ack *ws.Frame) {
	s, h := m.session, r.hub
	r.mu.Lock()
	defer r.mu.Unlock()
	defer s.conn.Send(ack) // last, so that who has read it is counted
	if !r.members.has(m) {
		if !s.place(m) {
			return
		}
		r.members.add(m)
		h.members.Add(1)
		if len(r.members.list) == 1 {
			h.occupied.Add(1)
		}
	}
	m.mode, m.from = mode, r.feed.total
	if named {
		m.list = r.feed.list
	}
	switch listens := mode != wire.PresenceNone; {
	case listens && !r.listeners.has(m):
		r.listeners.add(m)
	case !listens && r.listeners.has(m):
		r.listeners.remove(m)
	}
}

// remove takes m out: nothing of the room is sent to it any more.
func (r *room) remove(m *membership) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.members.has(m) {
		return
	}
	if r.listeners.has(m) {
		r.listeners.remove(m)
	}
	r.members.remove(m)
	r.hub.members.Add(-1)
	if len(r.members.list) == 0 {
		r.hub.occupied.Add(-1)
	}
}

// broadcast sends f to the members who are to hear it, and to every tail.
func (r *room) broadcast(f *ws.Frame, to addressees) {
	r.speaking.Lock()
	defer r.speaking.Unlock()
	r.say(f, to)
}

// say is broadcast with speaking held.
func (r *room) say(f *ws.Frame, to addressees) {
	began := time.Now()
	defer func() { r.hub.metrics.Broadcast.Observe(time.Since(began).Seconds()) }()
	shared, b := ws.Shared{Plain: f}, r.hub.pool.Batch()
	defer b.End()
	all := to.all()
	r.walk(&r.members, func(m *member) {
		if m.conn != to.except && (all || to.user(m.session.user)) {
			b.Send(m.conn, shared.For(m.conn))
		}
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.tails {
		t.add(f)
	}
}
