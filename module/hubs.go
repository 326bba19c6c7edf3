package module

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/bus"
	"github.com/caddyrooms/caddy-rooms/internal/hub"
	"github.com/caddyrooms/caddy-rooms/internal/idempotency"
	"github.com/caddyrooms/caddy-rooms/internal/metrics"
	"github.com/caddyrooms/caddy-rooms/internal/moderation"
	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
	"github.com/caddyrooms/caddy-rooms/presence"
	"github.com/caddyrooms/caddy-rooms/ratelimit"
)

// hubs are the hubs in use, by identity. They outlive configurations: a new one takes its reference before the old one gives it up.
var hubs = caddy.NewUsagePool()

// leaving are the hubs that are being closed, as keys: a reload takes them out of the pool before they are.
var leaving sync.Map

// exit is closed when the process begins to end.
var (
	exit      = make(chan struct{})
	beginExit = sync.OnceFunc(func() { close(exit) })
)

func init() {
	// The process would end under their clients.
	caddy.OnExit(func(context.Context) {
		leaving.Range(func(s, _ any) bool {
			s.(*sharedHub).awaitClose()
			return true
		})
	})
}

// hubKey is the identity of a hub. Rules, limits and timeouts are none of it: they may change under open connections.
type hubKey struct {
	name  string
	redis redisIdentity
}

// sharedHub is a hub with what its policies are made of.
type sharedHub struct {
	*hub.Hub
	key      hubKey
	log      logTarget
	logger   *zap.Logger // writes to log
	metrics  *metrics.Hub
	events   *announcer
	db       *redisdb.DB // nil: in memory
	local    *ratelimit.Memory
	cluster  ratelimit.Limiter // nil: in memory
	requests idempotency.Store // of the API
	base     string            // what the keys and channels begin with; empty: in memory

	database string          // the name of the presence database; "" for none; used as the configuration is put in force
	telling  presence.Events // what other programs are told of presence; as database

	shared atomic.Pointer[sharing] // filled when the hub starts, unless it is in memory
	told   atomic.Bool             // it is known whether Redis is in reach

	closing sync.Once
	until   time.Time     // when it is to be closed; written in closing
	closed  chan struct{} // closed when all is closed
}

// loadHub returns the hub with that identity, made if there is none. It dials nothing and starts nothing.
func loadHub(key hubKey, redis *redisSettings, h *Handler, logger *zap.Logger) (*sharedHub, error) {
	v, _, err := hubs.LoadOrNew(key, func() (caddy.Destructor, error) {
		return newSharedHub(key, redis, time.Duration(h.Presence.TTL), logger), nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*sharedHub), nil
}

func newSharedHub(key hubKey, redis *redisSettings, ttl time.Duration, logger *zap.Logger) *sharedHub {
	s := &sharedHub{key: key, metrics: metrics.For(key.name), local: ratelimit.NewMemory(), closed: make(chan struct{})}
	s.log.use(logger)
	logger = s.log.logger(string(Handler{}.CaddyModule().ID))
	s.logger, s.events = logger, newAnnouncer(key.name, logger)
	opts := hub.Options{
		Node: hub.NewNodeID(), Logger: logger, Metrics: s.metrics, Timeout: time.Second, Limiter: s.local,
		Exceeded: func(l *hub.Limit) {
			s.events.announce(eventLimitExceeded, map[string]any{"limit": l.Name, "on": string(l.On)})
		},
	}
	if redis == nil {
		s.requests = idempotency.NewMemory()
		opts.Open = func(o presence.Observer, _ bus.Receiver) hub.Backend {
			s.open()
			return hub.Backend{Store: presence.NewMemory(presence.Options{Logger: logger}, o), Bus: bus.Local{}}
		}
		s.Hub = hub.New(opts)
		return s
	}
	opts.Base, opts.Timeout = redisdb.Base(redis.prefix, key.name), redis.options.Timeout
	s.base = opts.Base
	server := redis.options
	server.Prefix = opts.Base
	s.db = redisdb.Open(server, logger.Named("redis"))
	s.db.OnRoundTrip(s.metrics.RoundTrip)
	s.db.OnChange(s.announceRedis(server.Redacted()))
	s.db.OnChange(func(bool) { s.told.Store(true) })
	s.cluster = ratelimit.NewRedis(s.db.Commands(), ratelimit.RedisOptions{Prefix: opts.Base})
	opts.Limiter = ratelimit.Fallback{Shared: s.cluster, Local: s.local}
	s.requests = idempotency.NewRedis(s.db.Commands(), opts.Base, 0, logger.Named("idempotency"))
	opts.Open = func(o presence.Observer, r bus.Receiver) hub.Backend {
		s.open()
		s.db.Start()
		store := presence.NewRedis(s.db.Commands(), presence.Options{
			Prefix: opts.Base, Node: opts.Node, TTL: ttl, Timeout: opts.Timeout, Logger: logger.Named("presence"),
			Reaped: s.metrics.Reaps.Inc, Reconciled: s.metrics.Reconciliations.Inc,
		}, o)
		b := bus.NewRedis(s.db, r, logger.Named("bus"), bus.RedisOptions{
			Control:     redisdb.ControlChannel(opts.Base, opts.Node),
			LossNotice:  s.LossNotice(),
			LossChannel: redisdb.UsersChannel(opts.Base),
			Dropped:     s.metrics.DroppedBus.Inc,
		})
		b.Start()
		store.SetEvents(s.telling)
		store.Start()
		s.shared.Store(&sharing{store, b})
		table := moderation.New(moderation.Options{
			Client: s.db.Commands(), Base: opts.Base, Timeout: opts.Timeout, Logger: logger.Named("moderation"),
		})
		return hub.Backend{Store: store, Bus: b, Feed: store, Shared: true, Up: s.db.Up, Moderation: table}
	}
	s.Hub = hub.New(opts)
	return s
}

// open begins the life of the hub: it takes connections from now on.
func (s *sharedHub) open() {
	s.events.start()
	s.events.announce(eventHubOpened, map[string]any{"node": s.Node()})
}

// announceRedis returns what is to be called when Redis has become reachable, or is not any more.
func (s *sharedHub) announceRedis(address string) func(up bool) {
	lost := false
	return func(up bool) {
		switch {
		case !up:
			s.events.announce(eventRedisLost, map[string]any{"address": address})
		case lost:
			s.events.announce(eventRedisRestored, map[string]any{"address": address})
		}
		lost = !up
	}
}

// presentHubs returns the hubs in use and those that are being closed, sorted by name; of one name first the one that clients come to.
func presentHubs() []*sharedHub {
	all := make(map[*sharedHub]bool)
	hubs.Range(func(_, s any) bool {
		all[s.(*sharedHub)] = true
		return true
	})
	leaving.Range(func(s, _ any) bool {
		all[s.(*sharedHub)] = true
		return true
	})
	return slices.SortedFunc(maps.Keys(all), func(a, b *sharedHub) int {
		return cmp.Or(cmp.Compare(a.key.name, b.key.name), cmp.Compare(a.State(), b.State()), cmp.Compare(a.Node(), b.Node()))
	})
}

// limiter returns who decides on l.
func (s *sharedHub) limiter(l LimitConfig) ratelimit.Limiter {
	// What is counted for each connection concerns no other instance.
	if s.cluster == nil || l.Scope == "instance" || strings.Contains(l.Key, "{rooms.conn}") {
		return s.local
	}
	return ratelimit.Fallback{Shared: s.cluster, Local: s.local, Outage: ratelimit.Outage(l.OnOutage)}
}

// beginClose starts to close the hub, once. It returns at once.
func (s *sharedHub) beginClose() {
	s.closing.Do(func() {
		s.until = time.Now().Add(s.DrainTime() + hub.CloseTime)
		leaving.Store(s, nil)
		go func() {
			defer close(s.closed)
			defer leaving.Delete(s)
			defer func() {
				if r := recover(); r != nil {
					s.logger.Error("panic while closing hub", zap.Any("error", r), zap.ByteString("stack", debug.Stack()))
				}
			}()
			if err := s.close(); err != nil {
				s.logger.Error("closing hub", zap.Error(err))
			}
		}()
	})
}

// awaitClose waits, as the process ends, for the clients to be sent away, but not for a Redis that does not answer. Hubs that close together
// are waited for no longer than one.
func (s *sharedHub) awaitClose() {
	beginExit()
	s.beginClose()
	select {
	case <-s.closed:
	case <-time.After(max(time.Until(s.until), hub.CloseTime)):
	}
}

// Destruct implements caddy.Destructor: no configuration uses the hub any more. It waits at exit, and not on a reload, which holds up the
// admin API.
func (s *sharedHub) Destruct() error {
	if caddy.Exiting() {
		s.awaitClose()
		return nil
	}
	s.log.use(caddy.Log()) // the logs of the last configuration with the hub are about to be closed
	s.beginClose()
	return nil
}

func (s *sharedHub) close() error {
	if s.State() == hub.StateStarting {
		return s.release(nil)
	}
	about := []zap.Field{zap.String("hub", s.key.name), zap.String("redis", s.key.redis.String())}
	s.logger.Info("draining hub", append(about, zap.Int("connections", s.Connections()), zap.Duration("drain", s.DrainWindow()))...)
	err := s.release(s.Close(exit))
	s.logger.Info("hub closed", about...)
	s.events.announce(eventHubDrained, map[string]any{"node": s.Node()})
	ctx, cancel := context.WithTimeout(context.Background(), hub.CloseTime)
	defer cancel()
	s.events.close(ctx)
	return err
}

// release closes what the hub has worked with, after it has ended with err.
func (s *sharedHub) release(err error) error {
	err = errors.Join(err, s.local.Close(), s.requests.Close())
	if s.db != nil {
		err = errors.Join(err, s.cluster.Close(), s.db.Close())
	}
	return err
}
