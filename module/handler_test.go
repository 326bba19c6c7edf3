package module

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/hub"
)

// TestAwait holds requests that come before the configuration is live until it is, or never will be.
func TestAwait(t *testing.T) {
	ended, end := context.WithCancel(t.Context())
	end()
	endpoint := new(hub.Endpoint)
	for _, test := range []struct {
		name    string
		then    func(h *Handler, over func())
		request context.Context
		want    *hub.Endpoint
	}{
		{"live", func(h *Handler, _ func()) { h.activate(endpoint) }, t.Context(), endpoint},
		{"refused", func(_ *Handler, over func()) { over() }, t.Context(), nil},
		{"request ended", func(*Handler, func()) {}, ended, nil},
		{"live before", func(h *Handler, over func()) { h.activate(endpoint); over() }, t.Context(), endpoint},
	} {
		t.Run(test.name, func(t *testing.T) {
			config, over := context.WithCancel(t.Context())
			defer over()
			h := &Handler{handlerState: handlerState{
				endpoint: new(atomic.Pointer[hub.Endpoint]), gate: gate{make(chan struct{}), config.Done()},
			}}
			got := make(chan *hub.Endpoint)
			go func() { got <- h.await(test.request) }()
			test.then(h, over)
			if e := <-got; e != test.want {
				t.Errorf("got %v, want %v", e, test.want)
			}
		})
	}
}
