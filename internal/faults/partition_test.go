package faults

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
	// Whatever of these is on its way to Redis then arrives when the instance has long been taken for dead.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var busy sync.WaitGroup
	for _, cl := range cut[:10] {
		busy.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if _, err := cl.ask(ctx, "status", fmt.Sprintf(`"room":%q,"state":{"n":%d}`, cl.room, n)); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			}
		})
	}
	c.settled(func() error {
		n := 0
		for _, cl := range stayed {
			cl.mu.Lock()
			n += len(cl.events)
			cl.mu.Unlock()
		}
		if n < 100 {
			return errors.New("no updates come through")
		}
		return nil
	})
	began := time.Now()
	proxy.Freeze()
	late := c.join(1, "late", room(0))
	c.settled(func() error { return told(stayed, cut) })
	within(t, "members of an instance that is cut off told as gone", time.Since(began), s.ttl+s.renewal()+time.Second)
	cancel()
	busy.Wait()
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
