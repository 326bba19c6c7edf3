package module

import (
	"context"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
)

func init() {
	caddy.RegisterModule(App{})
}

// App knows all handlers of one configuration. It has no configuration of its own and is loaded by the handlers.
type App struct {
	// Written while the configuration is provisioned, in one goroutine.
	handlers []*Handler
	redis    map[string]redisIdentity // by the name of the hub
	count    map[string]int           // handlers by the name of the hub
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
	a.redis, a.count = make(map[string]redisIdentity), make(map[string]int)
	events, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("getting events app: %w", err)
	}
	// Start would be too early: another app may still fail to start, and then the old configuration goes on.
	return events.(*caddyevents.App).On("started", a)
}

// Handle implements caddyevents.Handler: the configuration is live.
func (a *App) Handle(context.Context, caddy.Event) error {
	for _, h := range a.handlers {
		h.activate()
	}
	return nil
}

// add takes a handler in and returns which one of its hub it is, counted from 0. Handlers of one hub must agree on its Redis.
func (a *App) add(h *Handler, key hubKey) (int, error) {
	if other, ok := a.redis[key.name]; ok && other != key.redis {
		return 0, fmt.Errorf("two rooms handlers name the hub %q but not the same redis (%s, %s): use another hub name or the same redis block",
			key.name, other, key.redis)
	}
	a.redis[key.name] = key.redis
	a.handlers = append(a.handlers, h)
	a.count[key.name]++
	return a.count[key.name] - 1, nil
}

// Start implements caddy.App.
func (*App) Start() error { return nil }

// Stop implements caddy.App. The handlers give up their hubs.
func (*App) Stop() error { return nil }

// Interface guards
var (
	_ caddy.App           = (*App)(nil)
	_ caddy.Provisioner   = (*App)(nil)
	_ caddyevents.Handler = (*App)(nil)
)
