package faults

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// TestInstanceCutOff cuts one instance off from Redis for longer than its lease, with writes under way that arrive when it has long been
// taken for dead. Its own clients go on, the others are told that they are gone and that they are back.
func TestInstanceCutOff(t *testing.T) { instanceCutOff(t, size(1000, 100), "") }

func instanceCutOff(t testing.TB, s scale, program string) {
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	c := start(t, s, options{program: program, redis: server, url: func(node int) string {
		if node == 1 {
			return proxy.URL()
		}
		return server.URL()
	}})
	c.fill()
	stayed, cut := c.on(0), c.on(1)
	tap := c.tap()
	began := time.Now()
	proxy.Freeze()
	// This is on its way to Redis, and arrives when the instance has long been taken for dead.
	ctx, cancel := c.context()
	defer cancel()
	if f, err := cut[0].ask(ctx, "status", fmt.Sprintf(`"room":%q,"state":{"n":1}`, cut[0].room)); err != nil || !f.Degraded {
		t.Errorf("status without Redis: %v, degraded %t", err, f.Degraded)
	}
	late := c.join(1, "late", room(0))
	c.settled(func() error { return told(stayed, cut) })
	within(t, "members of an instance that is cut off told as gone", time.Since(began), s.ttl+s.renewal()+time.Second)
	said := c.say()
	if err := c.heard(said, sameNode); err != nil {
		t.Error(err)
	}
	proxy.Thaw()
	within(t, "all right after the cut", c.settled(c.check), 2*complete)
	want := map[string][]string{room(0): {"join " + late.user}}
	for _, cl := range cut {
		want[cl.room] = append(want[cl.room], "leave "+cl.user+" node", "join "+cl.user)
	}
	c.settled(func() error { return c.heardOrGapped(said, began) })
	c.expect(func(cl *client) []string {
		switch {
		case cl == late:
			return nil
		case cl.node == c.nodes[0]:
			return want[cl.room]
		case cl.room == room(0):
			return []string{"join " + late.user}
		}
		return nil
	})
	tap.leaves(t)
	c.talk()
	c.finish()
}
