package hub

import (
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/ws"
)

// TestAPublishAllocatesLittle does all that a message costs before it is delivered: decoding, rules, limits, the frame, and what the other instances get.
func TestAPublishAllocatesLittle(t *testing.T) {
	h := open(t, nil)
	s := silent(t, h.endpoint, "ann")
	s.say(`{"type":"join","room":"lobby","presence":"none"}`)
	m := []byte(`{"type":"publish","room":"lobby","event":"chat","data":{"text":"hello"}}`)
	// The race detector takes things out of pools at random.
	if n := testing.AllocsPerRun(1000, func() { s.Receive(ws.Message{Data: m}) }); n > 12 {
		t.Errorf("%.0f allocations a message, want at most 12", n)
	}
}
