package faults

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// TestReloadMovesHub gives the hub another Redis, or another place in it: a reload waits for nobody, all are asked to come again and meet in
// the new place, and nothing is left of the old one.
func TestReloadMovesHub(t *testing.T) {
	next := redistest.Start(t)
	for _, test := range []struct {
		name  string
		redis string
		base  string
	}{
		{"another Redis", next.URL(), base},
		{"another prefix", "{$REDIS} {\nkey_prefix next\n}", "next:{default}"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s, drain := moving()
			c := start(t, s, options{lines: drain})
			w := c.gather(0)
			before, links := []footprint{c.footprint(0), c.footprint(1)}, c.links()
			old := place{c.store, c.base}
			for i := range c.nodes {
				c.reload(i, edition{redis: test.redis, lines: drain})
			}
			w.notAwaited()
			c.base = test.base
			if test.base == base {
				c.redis, c.store = next, next.Client()
			}
			w.moved()
			c.settled(c.check)
			c.settled(func() error { return old.empty(c) })
			if old.store != c.store {
				c.settled(func() error {
					if list := old.store.ClientList(t.Context()).Val(); strings.Contains(list, "name=caddy-rooms:") {
						return fmt.Errorf("the old Redis has the connections %s", list)
					}
					return nil
				})
			}
			c.flat(before, links)
			c.talk()
			w.disperse()
			c.contented()
			c.finish()
		})
	}
}

// TestReloadRemovesHub takes the directive away: all are sent away, and nothing is left.
func TestReloadRemovesHub(t *testing.T) {
	t.Parallel()
	s, drain := moving()
	c := start(t, s, options{lines: drain})
	w := c.gather(0)
	w.disperse()
	for i := range c.nodes {
		c.reload(i, edition{absent: true, beside: "respond hello"})
	}
	w.notAwaited()
	for _, g := range w.guests {
		cl := g.last()
		c.part(cl, func(cl *client) { <-cl.ended })
		if _, err := cl.farewell(); err != nil {
			t.Errorf("%s: %v", g.user, err)
		}
	}
	c.settled(func() error { return place{c.store, c.base}.empty(c) })
	c.settled(func() error {
		if n := c.links(); n > 0 {
			return fmt.Errorf("the instances have %d connections to Redis", n)
		}
		for i := range c.nodes {
			if n := c.goroutines(i); n > c.idle[i] {
				return fmt.Errorf("instance %d has %d goroutines, and had %d with an idle hub", i, n, c.idle[i])
			}
		}
		return nil
	})
	c.contented()
}

// TestReloadBackAndForth gives the hub another Redis and, with the first clients under way, the old one again: all meet there.
func TestReloadBackAndForth(t *testing.T) {
	t.Parallel()
	next := redistest.Start(t)
	s, drain := moving()
	c := start(t, s, options{lines: drain})
	w := c.gather(0)
	before, links := []footprint{c.footprint(0), c.footprint(1)}, c.links()
	for i := range c.nodes {
		c.reload(i, edition{redis: next.URL(), lines: drain})
	}
	c.settled(func() error {
		if n := w.unmoved(); n > len(w.guests)*9/10 {
			return fmt.Errorf("%d are where they were", n)
		}
		return nil
	})
	for i := range c.nodes {
		c.reload(i, edition{lines: drain})
	}
	w.notAwaited()
	w.moved()
	c.settled(c.check)
	c.settled(func() error { return place{next.Client(), base}.empty(c) })
	c.flat(before, links)
	c.talk()
	w.disperse()
	c.contented()
	c.finish()
}

// TestReloadChangesLogin gives one instance another login to the same Redis, which makes a new hub of it: its clients are asked to come again,
// and nobody was away.
func TestReloadChangesLogin(t *testing.T) {
	t.Parallel()
	s, drain := moving()
	s.grace = max(s.grace, 5*time.Second) // the machine may be slow
	c := start(t, s, options{lines: drain})
	if err := c.store.Do(t.Context(), "ACL", "SETUSER", "other", "on", ">secret", "~*", "&*", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
	w := c.gather(0)
	links := c.links()
	stay := len(c.on(1))
	c.reload(0, edition{redis: "redis://other:secret@" + c.redis.Addr, lines: drain})
	c.settled(func() error {
		if n := w.unmoved(); n > stay {
			return fmt.Errorf("%d are where they were", n)
		}
		return nil
	})
	w.back()
	c.settled(c.check)
	c.settled(func() error { // the old hub's are closed when its places are kept no longer
		if n := c.links(); n > links+2 {
			return fmt.Errorf("the instances have %d connections to Redis, and had %d", n, links)
		}
		return nil
	})
	w.undisturbed()
	c.talk()
	w.disperse()
	c.finish()
}

// moving returns the scale of a trial that moves a hub, and the drain that leaves time to see it.
func moving() (scale, string) {
	s := size(1000, 100)
	if full {
		return s, "drain 10s"
	}
	return s, "drain 3s"
}

// unmoved returns how many guests are on the connection with which they came.
func (w *crowd) unmoved() (n int) {
	for _, g := range w.guests {
		select {
		case <-g.all()[0].ended:
		default:
			n++
		}
	}
	return n
}

// notAwaited fails the trial when a reload that sends the guests away has waited for them to go.
func (w *crowd) notAwaited() {
	w.c.Helper()
	open := w.unmoved()
	w.c.Logf("figure: %d of %d connections were open when the reloads were over", open, len(w.guests))
	if open < len(w.guests)/10 {
		w.c.Errorf("%d connections of %d were open when the reloads were over", open, len(w.guests))
	}
}

// moved waits until all guests are on other connections than those with which they came.
func (w *crowd) moved() {
	w.c.Helper()
	w.c.settled(func() error {
		if n := w.unmoved(); n > 0 {
			return fmt.Errorf("%d are where they were", n)
		}
		return nil
	})
	w.back()
}

// place is where a hub is in a Redis.
type place struct {
	store *redis.Client
	base  string
}

// empty returns what is left in a place, but for what ends by itself.
func (p place) empty(c *cluster) error {
	keys, err := p.store.Keys(c.Context(), p.base+":*").Result()
	if err != nil {
		return err
	}
	for _, key := range keys {
		switch kind, _, _ := strings.Cut(strings.TrimPrefix(key, p.base+":"), ":"); kind {
		case "x", "d", "rl", "idem", "mod": // they end by themselves, or are to stay
		default:
			return fmt.Errorf("the old place has %d keys, one is %s", len(keys), key)
		}
	}
	return nil
}
