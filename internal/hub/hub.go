// Package hub connects clients with rooms. It owns the connections and the rooms of one process and delivers locally; what
// crosses instances goes through the bus, and who is where through a presence store.
//
// Locks are taken in this order: Session.work, a presence store's room or room.speaking, Hub.mu, room.mu, Session.mu, a connection's own;
// Hub.sessionsMu before the last one alone. Besides Session.work and room.joining the hub never calls the store with a lock of its own held.
package hub

import (
	"context"
	cryptorand "crypto/rand"
	"encoding/base64"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/bus"
	"github.com/caddyrooms/caddy-rooms/internal/metrics"
	"github.com/caddyrooms/caddy-rooms/internal/moderation"
	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/internal/ws"
	"github.com/caddyrooms/caddy-rooms/presence"
	"github.com/caddyrooms/caddy-rooms/ratelimit"
)

// Options is what a hub works with. The hub owns the store and the bus from Start to Close.
type Options struct {
	Node    string        // the instance's readable name, told to clients
	Base    string        // what all keys and channels of the hub begin with
	Timeout time.Duration // the longest wait for a shared store
	Logger  *zap.Logger
	Metrics *metrics.Hub // nil: nobody reads them
	// Exceeded is called when a limit refuses something and has not within the last minute. It must not block. nil: nothing is.
	Exceeded func(limit *Limit)

	// Limiter decides on slow modes; nil: one in memory. It is the caller's, and is not closed.
	Limiter ratelimit.Limiter

	// Open makes the store and the bus and starts them. It is called once, when the hub starts, and waits for nobody.
	Open func(presence.Observer, bus.Receiver) Backend
}

// Backend is where a hub's state lives besides its own memory.
type Backend struct {
	Store presence.Store
	Bus   bus.Bus
	// Shared tells that there are other instances to publish to.
	Shared bool
	// Up tells whether these can be reached now; nil without them.
	Up func() bool
	// Moderation is what moderators have decided. It is not started yet. nil: a table in memory.
	Moderation *moderation.Table
	// Feed takes what the bus brings for a shared store; nil for one in memory.
	Feed Feed
}

// Feed is the receiving side of a shared presence store.
type Feed interface {
	Deliver(channel string, payload []byte)
	Lost(channels []string)
}

// Hub is the rooms and connections of one process. Its methods may be called from any goroutine.
type Hub struct {
	opts      Options
	logger    *zap.Logger
	connLog   *zap.Logger // of the ends of connections
	metrics   *metrics.Hub
	unwatched func() // takes the gauges away
	id        string // this hub's life, unique over all instances
	backend   Backend
	pool      *ws.Pool

	started  sync.Once
	running  atomic.Bool
	draining atomic.Bool     // set with mu locked
	life     context.Context // ends when draining is set, by end
	end      context.CancelFunc
	open     atomic.Int64 // sessions admitted and not ended
	ended    sync.WaitGroup

	sessionsMu sync.Mutex
	sessions   map[string]*Session // by the id of the connection; guarded by sessionsMu
	users      map[string]*Session // the first of each user; guarded by sessionsMu

	coalesce      atomic.Int64             // nanoseconds
	linger        atomic.Int64             // nanoseconds
	fullUpTo      atomic.Int64             // members of a room; 0: no bound
	slowDecisions func() metrics.Decisions // of slow modes, which show only once there is one

	countEvery time.Duration // between two counts of a crowded room; another one in tests

	messageEvents atomic.Pointer[messageEvents] // nil: nobody is told

	members  atomic.Int64 // of all rooms, connections
	occupied atomic.Int64 // rooms with members

	turnsMu sync.Mutex
	turns   map[string]time.Time // the next to give to a client to come back at, by the name of the limit; guarded by turnsMu

	questions questions
	orders    lines // about the same user in one line

	exceededAt sync.Map // name of a limit -> *atomic.Int64, when it refused last, Unix nanoseconds

	observing sync.Mutex
	observed  map[string]*observation // by the name of the limit; guarded by observing

	mu        sync.RWMutex
	rooms     map[string]*room // guarded by mu
	endpoints []*Endpoint      // guarded by mu
	archive   presence.Archive // or nil; guarded by mu
}

// New returns a hub that does nothing until it is bound.
func New(opts Options) *Hub {
	if opts.Metrics == nil {
		opts.Metrics = metrics.New("")
	}
	if opts.Limiter == nil {
		opts.Limiter = ratelimit.NewMemory()
	}
	life, end := context.WithCancel(context.Background())
	return &Hub{
		life: life, end: end, opts: opts, logger: opts.Logger, connLog: opts.Logger.Named("conn"), metrics: opts.Metrics, id: opts.Node + "-" + randomID(6),
		countEvery: time.Second, sessions: make(map[string]*Session), users: make(map[string]*Session), rooms: make(map[string]*room),
		slowDecisions: sync.OnceValue(func() metrics.Decisions { return opts.Metrics.Limit(SlowModeLimit) }),
		turns:         make(map[string]time.Time), observed: make(map[string]*observation),
	}
}

// unsubscribeAfter is how long an empty room is kept, so that coming and going causes no subscriptions.
const unsubscribeAfter = 30 * time.Second

// start opens the backend, once, and takes over what the policies say about the whole hub.
func (h *Hub) start() {
	longest := func(of func(*Policy) time.Duration) time.Duration { return most(h, of) }
	h.coalesce.Store(int64(longest(func(p *Policy) time.Duration { return p.Coalesce })))
	h.fullUpTo.Store(int64(most(h, func(p *Policy) int { return p.FullUpTo })))
	// A room outlives the memberships that are held in it, so that a return on another instance is heard.
	h.linger.Store(int64(unsubscribeAfter + longest(func(p *Policy) time.Duration { return p.Grace })))
	ping := longest(func(p *Policy) time.Duration { return p.Ping })
	h.started.Do(func() {
		h.pool = ws.NewPool(h.logger, h.metrics, ping)
		h.backend = h.opts.Open(h, h)
		if h.backend.Moderation == nil {
			h.backend.Moderation = moderation.New(moderation.Options{})
		}
		h.backend.Moderation.Start(h.closeBanned)
		h.unwatched = h.metrics.Watch(h.gauges)
		h.running.Store(true)
		if h.backend.Shared {
			go h.subscribeUsers()
		}
	})
	h.pool.SetPingInterval(ping)
}

// subscribeUsers subscribes to what concerns users wherever they are. Without an answer the bus goes on trying.
func (h *Hub) subscribeUsers() {
	defer h.recovered(nil)
	ctx, cancel := h.context()
	defer cancel()
	if err := h.backend.Bus.Subscribe(ctx, redisdb.UsersChannel(h.opts.Base)); err != nil {
		h.logger.Debug("subscribing to users", zap.Error(err))
		return
	}
	h.backend.Moderation.Lost() // what was decided before
}

// Close gives every connection a notice and a close frame, spread over the longest drain of the endpoints, waits until they are gone, and
// closes the backend when nobody can be back in time any more. That may be on another instance, or in another hub that a reload has put in
// this one's place: who is, was never away. It is not waited for once exit is closed, as the process ends then: the other instances keep
// the places. All but that takes DrainTime and CloseTime at most, if the backend answers.
func (h *Hub) Close(exit <-chan struct{}) error {
	h.mu.Lock()
	closed := h.draining.Swap(true)
	h.mu.Unlock()
	if !closed {
		h.end()
	}
	if closed || !h.running.Load() {
		return nil
	}
	h.drain()
	grace := h.keepPlaces(exit)

	h.mu.Lock()
	for _, r := range h.rooms {
		r.stop()
	}
	h.mu.Unlock()
	h.observing.Lock()
	observed := slices.Collect(maps.Keys(h.observed))
	h.observing.Unlock()
	for _, limit := range observed {
		h.tellObserved(limit)
	}
	ctx, cancel := context.WithTimeout(context.Background(), CloseTime)
	defer cancel()
	archived := make(chan error, 1)
	go func() { archived <- h.closeArchive(ctx, h.backend.Store.SetArchive(nil)) }()
	err := errors.Join(h.backend.Store.Close(ctx, grace), h.backend.Moderation.Close(), h.backend.Bus.Close(), <-archived)
	h.unwatched()
	h.pool.Close()
	return err
}

// Archive has the presence store tell a from now on, nobody if it is nil, and closes the archive before, for which it does not wait.
// The hub must be bound.
func (h *Hub) Archive(a presence.Archive) {
	before := h.backend.Store.SetArchive(a)
	h.mu.Lock()
	h.archive = a
	h.mu.Unlock()
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), CloseTime)
		defer cancel()
		if err := h.closeArchive(ctx, before); err != nil {
			h.logger.Warn("closing presence database", zap.Error(err))
		}
	}()
}

func (h *Hub) closeArchive(ctx context.Context, a presence.Archive) error {
	defer h.recovered(nil)
	if a == nil {
		return nil
	}
	return a.Close(ctx)
}

// CloseTime is what closing a hub takes at most besides its drain and the time that places are kept.
const CloseTime = 500 * time.Millisecond

// keepPlaces waits until none of those who were sent away can be back in time any more, or exit is closed. It returns for how long others
// should keep their places.
func (h *Hub) keepPlaces(exit <-chan struct{}) time.Duration {
	grace := most(h, func(p *Policy) time.Duration { return p.Grace })
	if !h.backend.Shared || grace <= 0 {
		return 0
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-exit:
		return grace
	case <-timer.C:
		return 0
	}
}

// gauges returns how things stand, for the metrics.
func (h *Hub) gauges() metrics.Gauges {
	o := h.Occupancy()
	h.mu.RLock()
	archive := h.archive
	h.mu.RUnlock()
	g := metrics.Gauges{
		Connections: o.Connections, Rooms: o.Rooms, Members: o.Members, OutboxBytes: h.pool.Waiting(),
		Shared: h.backend.Shared, RedisUp: h.backend.Up != nil && h.backend.Up(), Archived: archive != nil,
	}
	if archive != nil {
		g.DatabaseUp, g.DatabaseRows = archive.Health()
	}
	return g
}

// DrainTime is how long it takes at most to send all clients away: they have a moment to answer also when all are closed at once.
func (h *Hub) DrainTime() time.Duration { return max(h.DrainWindow(), time.Second) }

// drain closes all connections, spread over the drain window, and waits until they are gone.
func (h *Hub) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), h.DrainTime())
	defer cancel()
	// Most of the window is for closing, the rest for the clients' answers.
	h.closeSpread(ctx, h.DrainWindow()*3/4, func(*Session) bool { return true })
	gone := make(chan struct{})
	go func() {
		h.ended.Wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-ctx.Done():
		h.pool.Abort()
		<-gone
	}
}

// closeSpread asks the chosen clients to come again, spread over window, the rest at once when ctx ends.
func (h *Hub) closeSpread(ctx context.Context, window time.Duration, chosen func(*Session) bool) {
	defer h.recovered(nil)
	var open []*Session
	h.eachSession(func(s *Session) {
		if chosen(s) {
			open = append(open, s)
		}
	})
	timer := time.NewTimer(0)
	defer timer.Stop()
	start := time.Now()
	for i, s := range open {
		timer.Reset(time.Until(start.Add(window * time.Duration(i) / time.Duration(len(open)))))
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		in := max(window, time.Second)
		if grace := s.endpoint.Policy().Grace; grace > 0 {
			in = max(min(in, grace/2), time.Millisecond) // whoever does as told is back in time
		}
		s.closeIn(wire.CloseRestart, "restart", rand.N(in), false)
	}
}

// Connections returns how many connections are open.
func (h *Hub) Connections() int { return int(h.open.Load()) }

// context bounds a call of the store.
func (h *Hub) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), h.opts.Timeout)
}

func (h *Hub) channel(room string) string { return redisdb.RoomChannel(h.opts.Base, room) }

func (h *Hub) room(name string) *room {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.rooms[name]
}

// NewNodeID returns a name for an instance, to be told to clients: it gives nothing of the machine away.
func NewNodeID() string { return "n" + randomID(4) }

// randomID returns n random bytes in letters, digits, - and _.
func randomID(n int) string {
	b := make([]byte, n)
	_, _ = cryptorand.Read(b) // never fails: crypto/rand ends the program instead
	return base64.RawURLEncoding.EncodeToString(b)
}
