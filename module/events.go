package module

import (
	"context"
	"runtime/debug"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

// The events that a hub emits through Caddy's events app. They are rare; the data of all has the name of the hub as "hub".
const (
	eventRedisLost     = "rooms_redis_lost"     // Redis is out of reach; "address"
	eventRedisRestored = "rooms_redis_restored" // it can be reached again; "address"
	eventHubOpened     = "rooms_hub_opened"     // a hub has begun to take connections; "node"
	eventHubDrained    = "rooms_hub_drained"    // all connections of a hub are gone and it is closed; "node"
	eventLimitExceeded = "rooms_limit_exceeded" // a limit refuses something and has not for a minute; "limit", "on"
)

// maxEvents is how many events may wait for a handler that takes its time.
const maxEvents = 64

// announcer emits the events of a hub, in order, to the handlers of the configuration that is live. Handlers may take their time: one
// goroutine waits for them, from start to close.
type announcer struct {
	hub    string
	logger *zap.Logger
	app    atomic.Pointer[App] // of the latest configuration that has the hub; nil before the first
	queue  chan announcement
	stop   chan struct{} // closed when no more is announced
	done   chan struct{} // closed when all is emitted
}

type announcement struct {
	name string
	data map[string]any
}

func newAnnouncer(hub string, logger *zap.Logger) *announcer {
	return &announcer{
		hub: hub, logger: logger, queue: make(chan announcement, maxEvents), stop: make(chan struct{}), done: make(chan struct{}),
	}
}

func (a *announcer) start() { go a.run() }

// announce has an event emitted soon. It never waits, and may be called from any goroutine.
func (a *announcer) announce(name string, data map[string]any) {
	data["hub"] = a.hub
	select {
	case a.queue <- announcement{name, data}:
	default:
		a.logger.Warn("event handlers are too slow, event dropped", zap.String("event", name))
	}
}

// close lets what was announced be emitted, and waits for it until ctx ends. It is called once, after start.
func (a *announcer) close(ctx context.Context) {
	close(a.stop)
	select {
	case <-a.done:
	case <-ctx.Done():
	}
}

func (a *announcer) run() {
	defer close(a.done)
	for {
		select {
		case e := <-a.queue:
			a.emit(e)
			continue
		case <-a.stop:
		}
		select {
		case e := <-a.queue:
			a.emit(e)
		default:
			return
		}
	}
}

func (a *announcer) emit(e announcement) {
	defer func() {
		if r := recover(); r != nil {
			a.logger.Error("panic in event handler", zap.Any("error", r), zap.ByteString("stack", debug.Stack()))
		}
	}()
	if app := a.app.Load(); app != nil {
		app.events.Emit(app.eventContext(), e.name, e.data)
	}
}

// eventContext returns the context to emit events with. It does not end with the configuration: that a hub is drained becomes known only after
// the last configuration with it has ended, and concerns the handlers of that one.
func (a *App) eventContext() caddy.Context {
	ctx := a.ctx
	ctx.Context = context.WithoutCancel(ctx.Context)
	return ctx
}
