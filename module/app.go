package module

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/caddyrooms/caddy-rooms/internal/hub"
	"github.com/caddyrooms/caddy-rooms/internal/metrics"
)

func init() {
	caddy.RegisterModule(App{})
}

// inForce is the app of the configuration that is live, and next that of one which has started, but which Caddy may still refuse as long as the
// other has not been stopped. Caddy starts and ends configurations one at a time, and only then these are used.
var inForce, next *App

// App knows all handlers of one configuration. It has no configuration of its own and is loaded by the handlers.
type App struct {
	// Written while the configuration is provisioned, in one goroutine.
	ctx      caddy.Context
	events   *caddyevents.App
	handlers map[hubKey][]*Handler
	redis    map[string]redisIdentity // by the name of the hub
	database map[hubKey]string        // the names of presence databases
	shown    []*metrics.Hub           // the metrics that are to be shown
	apis     []*API
}

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "rooms",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision waits for the configuration to be live.
func (a *App) Provision(ctx caddy.Context) error {
	a.handlers, a.redis, a.database = make(map[hubKey][]*Handler), make(map[string]redisIdentity), make(map[hubKey]string)
	events, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("getting events app: %w", err)
	}
	a.ctx, a.events = ctx, events.(*caddyevents.App)
	// Start would be too early for a policy: another app may still fail to start, and then the old configuration goes on.
	// Stop would be late for the next policy and a farewell: other apps may stop first, and wait for requests to end.
	return errors.Join(a.events.On("started", a), a.events.On("stopping", a))
}

// Handle implements caddyevents.Handler: the configuration has started, or is at its end.
func (a *App) Handle(_ context.Context, e caddy.Event) error {
	if e.Name() != "started" {
		return a.Stop()
	}
	next = a
	if inForce == nil {
		succeed()
	}
	return nil
}

// succeed puts the configuration in force that has started, if there is one.
func succeed() {
	before := inForce
	inForce, next = next, nil
	if inForce != nil {
		inForce.activate()
	}
	if before != nil {
		before.unshow()
	}
}

// activate makes the policies of the configuration those in force, and its logs and event handlers those of the hubs.
func (a *App) activate() {
	for _, handlers := range a.handlers {
		shared := handlers[0].hub
		shared.log.use(handlers[0].logger)
		shared.events.app.Store(a)
		bindings := make([]hub.Binding, len(handlers))
		for i, h := range handlers {
			bindings[i] = h.binding()
		}
		shared.tell(handlers)
		endpoints := shared.Bind(bindings)
		shared.useDatabase(a.database[shared.key])
		for i, e := range endpoints {
			handlers[i].activate(e)
		}
	}
	for _, api := range a.apis {
		api.gate.open()
	}
}

// add takes a handler in. Handlers of one hub must agree on its Redis, and those that have a presence database on that.
func (a *App) add(h *Handler, key hubKey) error {
	if other, ok := a.redis[key.name]; ok && other != key.redis {
		return fmt.Errorf("two rooms handlers name the hub %q but not the same redis (%s, %s): use another hub name or the same redis block",
			key.name, other, key.redis)
	}
	if other := a.database[key]; other != "" && h.database != "" && other != h.database {
		return fmt.Errorf("two rooms handlers name the hub %q but not the same presence database: write it once, or the same twice", key.name)
	}
	a.redis[key.name], a.database[key] = key.redis, cmp.Or(h.database, a.database[key])
	a.handlers[key] = append(a.handlers[key], h)
	return nil
}

// Start implements caddy.App. Only now all handlers are known: each API gets its hub, and one that names none of them is refused.
func (a *App) Start() error {
	for _, api := range a.apis {
		handlers := a.handlers[hubKey{name: api.Hub, redis: a.redis[api.Hub]}]
		if len(handlers) == 0 {
			return fmt.Errorf("rooms_api names the hub %q, and no rooms handler of the configuration has it (there are: %s)",
				api.Hub, listed(slices.Sorted(maps.Keys(a.redis))))
		}
		api.hub = handlers[0].hub
	}
	return nil
}

// Stop implements caddy.App, for whatever reason the configuration ends. If it was in force, another one is now live, or the process is at its
// end. The handlers give up their hubs by themselves.
func (a *App) Stop() error {
	switch {
	case a == next: // refused in the end
		next = nil
	case a != inForce:
	case caddy.Exiting():
		beginExit()
		for _, handlers := range a.handlers {
			handlers[0].hub.beginClose()
		}
	default:
		succeed()
	}
	return nil
}

// Cleanup implements caddy.CleanerUpper: a configuration that is refused after all has started is not stopped.
func (a *App) Cleanup() error { return a.Stop() }

// Interface guards
var (
	_ caddy.App           = (*App)(nil)
	_ caddy.CleanerUpper  = (*App)(nil)
	_ caddy.Provisioner   = (*App)(nil)
	_ caddyevents.Handler = (*App)(nil)
)
