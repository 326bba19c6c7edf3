package hub

import (
	"sync"
	"testing"
)

// TestWelcomeIsFirst has messages and orders for a user who is just coming: whatever they are, the first frame is the welcome, and a room that
// the server puts him in is there.
func TestWelcomeIsFirst(t *testing.T) {
	h := open(t, nil)
	for range 30 {
		var wg sync.WaitGroup
		wg.Go(func() {
			for range 2000 { // no more than fit the queue of who does not read them yet
				h.Publish(Message{User: "ann", Event: "mail", Data: []byte("1")})
			}
		})
		wg.Go(func() {
			for n := 0; n == 0 && t.Context().Err() == nil; {
				n = h.Do(t.Context(), Order{Do: Enter, User: "ann", Room: "lobby"}).Connections
			}
		})
		ann := h.dial("ann") // expects a welcome
		for {
			if f := ann.Next("message", "ack"); f["type"] == "ack" {
				break
			}
		}
		wg.Wait()
		_ = ann.WS.CloseNow()
		h.waitFor("the end of the connection", func() bool { return h.Connections() == 0 })
	}
}
