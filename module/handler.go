// Package module is the Caddy module http.handlers.rooms: it reads the configuration, decides who may come in, and hands
// connections to a hub. It is the only package that knows Caddy.
package module

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/hub"
	"github.com/caddyrooms/caddy-rooms/internal/token"
	"github.com/caddyrooms/caddy-rooms/internal/ws"
	"github.com/caddyrooms/caddy-rooms/ratelimit"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// handlerState is what a handler has besides its configuration. Provision writes it, everything else reads it.
type handlerState struct {
	logger   *zap.Logger
	key      *hubKey // of the hub in use; nil before it was taken from the pool
	hub      *sharedHub
	database string // the name of the presence database; "" for none
	policy   *hub.Policy
	verifier *token.Verifier               // nil: no tokens are taken
	jwks     string                        // its key set in the pool; "" for none
	keys     []hub.Key                     // of the limits whose keys depend on the request
	endpoint *atomic.Pointer[hub.Endpoint] // filled when the configuration is live
	gate     gate                          // opens then
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.rooms",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets the handler up. It opens no connection and changes nothing that a running configuration uses: the hub
// starts, and takes over the policy, once the new configuration is live.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	if err := h.validateConfig(); err != nil {
		return err
	}
	h.setDefaults()
	redis, err := h.Redis.resolve()
	if err != nil {
		return err
	}
	appModule, err := ctx.App("rooms")
	if err != nil {
		return fmt.Errorf("getting rooms app: %w", err)
	}
	if h.verifier, h.jwks, err = h.Token.verifier(h.logger.Named("token")); err != nil {
		return err
	}
	if h.database, err = h.Presence.database(); err != nil {
		return err
	}
	key := hubKey{name: h.Hub, redis: redis.identity()}
	app := appModule.(*App)
	if err := app.add(h, key); err != nil {
		return err
	}
	shared, err := loadHub(key, redis, h, h.logger)
	if err != nil {
		return fmt.Errorf("opening hub %q: %w", h.Hub, err)
	}
	h.key, h.hub, h.endpoint = &key, shared, new(atomic.Pointer[hub.Endpoint])
	h.gate = newGate(ctx)
	if h.Metrics != "off" {
		if err := app.show(shared.metrics); err != nil {
			return err
		}
	}
	h.policy, err = h.buildPolicy()
	return err
}

// Cleanup gives up the hub, which is drained if no other configuration uses it.
func (h *Handler) Cleanup() error {
	if h.jwks != "" {
		if _, err := jwksPool.Delete(h.jwks); err != nil {
			h.logger.Error("giving up keys for tokens", zap.Error(err))
		}
	}
	if h.key == nil {
		return nil
	}
	_, err := hubs.Delete(*h.key)
	return err
}

// activate lets clients in by an endpoint. It is called once.
func (h *Handler) activate(e *hub.Endpoint) {
	h.endpoint.Store(e)
	h.gate.open()
}

// await returns the endpoint, once the configuration is live. It returns nil when that ends without having been live, or the request ends.
func (h *Handler) await(ctx context.Context) *hub.Endpoint {
	h.gate.wait(ctx)
	return h.endpoint.Load()
}

// binding is what the handler says to its hub.
func (h *Handler) binding() hub.Binding {
	for i := range h.policy.Limits {
		l := &h.policy.Limits[i]
		l.Decisions = h.hub.metrics.Limit(l.Name) // only now: what is refused shows no limits
	}
	config := caddyconfig.JSON(h, nil)
	return hub.Binding{
		Admission: fmt.Sprintf("%q %t %q %q", h.User, h.Anonymous, h.Device, h.Token.authority()),
		Checks:    fmt.Sprintf("%q %s", h.Origins, caddyconfig.JSON(h.Token, nil)),
		Config:    fmt.Sprintf("%s %q", config, h.verifier.Signers()), // what stands in files changes by itself
		Policy:    h.policy,
	}
}

// buildPolicy translates the configuration, which has been validated, for the hub.
func (h *Handler) buildPolicy() (*hub.Policy, error) {
	p := &hub.Policy{
		Transport: ws.Limits{
			MaxFrame: h.MaxFrame, SendQueue: h.SendQueue, WriteTimeout: time.Duration(h.WriteTimeout), Compression: h.Compression,
		},
		Grace:          max(0, time.Duration(h.Presence.Grace)), // -1 is off
		Coalesce:       max(0, time.Duration(h.Presence.Coalesce)),
		FullUpTo:       h.Presence.FullUpTo,
		Ping:           time.Duration(h.PingInterval),
		Drain:          max(0, time.Duration(h.Drain)),
		MaxAge:         time.Duration(h.MaxConnectionAge),
		MaxRooms:       h.MaxRooms,
		MaxConnections: h.MaxConnections,
		CloseOnRebind:  h.CloseOnReload,
		LogConnections: h.LogConnections,
		Authenticate:   h.authenticate(),
		Trusts:         h.verifier.Trusts,
	}
	for _, r := range h.Rooms {
		rule, err := r.rule()
		if err != nil {
			return nil, err
		}
		p.Rooms = append(p.Rooms, rule)
	}
	for _, l := range h.limits() {
		key := hub.NewKey(l.Key, l.hasRequestKey())
		if key.Request {
			h.keys = append(h.keys, key)
		}
		p.Limits = append(p.Limits, hub.Limit{
			Limit: l.limit(), On: hub.Action(l.On), Key: key, Observe: l.Observe,
			Limiter: h.hub.limiter(l), Outage: ratelimit.Outage(l.OnOutage),
		})
	}
	return p, nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
