package module

import (
	"context"

	"github.com/caddyserver/caddy/v2"
)

// gate holds requests up until the configuration is live: Caddy serves them a moment before.
type gate struct {
	live chan struct{}   // closed then
	over <-chan struct{} // closed when the configuration is at its end, also if it never was live
}

func newGate(ctx caddy.Context) gate { return gate{make(chan struct{}), ctx.Done()} }

// open lets requests through. It is called once.
func (g gate) open() { close(g.live) }

// wait returns when the gate is open, and then true, or won't be, or the request has ended.
func (g gate) wait(ctx context.Context) bool {
	select {
	case <-g.live:
		return true
	default:
	}
	select {
	case <-g.live:
		return true
	case <-g.over:
	case <-ctx.Done():
	}
	return false
}
