package module

import (
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// Those whose own instance had Redis all the time learn that they have missed what was said elsewhere meanwhile.
func TestGapOfAnotherInstance(t *testing.T) {
	for name, fault := range map[string]struct{ begin, end func(*redistest.Proxy) }{
		"cut":    {(*redistest.Proxy).Cut, (*redistest.Proxy).Restore},
		"frozen": {(*redistest.Proxy).Freeze, (*redistest.Proxy).Thaw},
	} {
		t.Run(name, func(t *testing.T) {
			redis := redistest.Start(t)
			link := redistest.StartProxy(t, redis.Addr)
			a := caddytest.StartText(t, clusterConfig, "REDIS="+link.URL())
			b := caddytest.StartText(t, clusterConfig, "REDIS="+redis.URL())
			a.WaitLog("presence is shared")
			b.WaitLog("presence is shared")
			ann, bob := dial(t, a, "ann"), dial(t, b, "bob")
			ann.Join("lobby")
			bob.Join("lobby")
			ann.Next("presence")

			fault.begin(link)
			ann.Send(`{"type":"publish","id":1,"room":"lobby"}`)
			if ack := ann.Next("ack"); ack["degraded"] != true {
				t.Fatalf("ack = %v without Redis", ack)
			}
			fault.end(link)
			// ann says no more.
			for {
				if o := bob.Next("gap", "presence", "message"); o["type"] == "gap" {
					if o["room"] != "lobby" || o["reason"] != "bus" {
						t.Errorf("got %v", o)
					}
					break
				}
			}
		})
	}
}
