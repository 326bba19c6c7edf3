package module

import (
	"errors"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyrooms/caddy-rooms/internal/metrics"
)

// show has the metrics of a hub shown. Each configuration has a registry of its own, in which all handlers of a hub show the same.
func (a *App) show(m *metrics.Hub) error {
	a.shown = append(a.shown, m)
	return register(a.ctx, m)
}

func register(ctx caddy.Context, m *metrics.Hub) error {
	err := ctx.GetMetricsRegistry().Register(m)
	if _, again := errors.AsType[prometheus.AlreadyRegisteredError](err); err != nil && !again {
		return fmt.Errorf("registering metrics: %w", err)
	}
	return nil
}

// showInForce has the admin endpoint of another configuration show the metrics of the one in force. It takes the place of the endpoint before
// when nothing of its own configuration is provisioned, and stays if that is refused.
func showInForce(ctx caddy.Context) error {
	if inForce == nil {
		return nil
	}
	for _, m := range inForce.shown {
		if err := register(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// unshow takes away what the configuration that is live now shows only because this one, which was in force before, did.
func (a *App) unshow() {
	ctx := caddy.ActiveContext()
	registry := ctx.GetMetricsRegistry()
	if registry == nil {
		return // none is live
	}
	for _, m := range a.shown {
		if inForce == nil || !slices.Contains(inForce.shown, m) {
			registry.Unregister(m)
		}
	}
}
