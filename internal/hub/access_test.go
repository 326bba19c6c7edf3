package hub

import (
	"context"
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/wire"
)

// TestTokenThatCannotBeChecked tells the client when to bring its token again.
func TestTokenThatCannotBeChecked(t *testing.T) {
	h := open(t, func(p *Policy) {
		p.Authenticate = func(context.Context, string) (*Access, *wire.Error) {
			return nil, &wire.Error{Code: wire.Unavailable, Message: "tokens can't be checked now"}
		}
	})
	ann := h.dial("ann")
	ann.Send(`{"type":"auth","id":1,"token":"x"}`)
	frame := ann.Next("error")
	if after, _ := frame["retry_after"].(float64); frame["id"] != 1.0 || frame["code"] != "unavailable" || after < 5000 || after > 10_000 {
		t.Errorf("got %v", frame)
	}
}
