package faults

import (
	"fmt"
	"testing"
	"time"
)

// returning is the scale of a trial whose clients are asked to come again: their grace is longer than the way back.
func returning(clients, rooms int) scale {
	s := size(clients, rooms)
	if !full {
		s.grace = 6 * time.Second
	}
	return s
}

// TestReloadClosing asks everybody to come again, as the configuration says, in the middle of traffic: nobody was away.
func TestReloadClosing(t *testing.T) {
	t.Parallel()
	lines := "close_on_reload\ndrain 4s"
	if !full {
		lines = "close_on_reload\ndrain 1s"
	}
	c := start(t, returning(1000, 100), options{lines: lines})
	w := c.gather(100 * time.Millisecond)
	for i := range c.nodes {
		c.reload(i, edition{lines: lines + "\nmax_rooms 10"})
	}
	w.moved()
	w.converse()
	w.hush()
	c.talk()
	c.settled(c.check)
	w.disperse()
	if n := w.stays(); n != 2*len(w.guests) {
		t.Errorf("%d guests were on %d connections", len(w.guests), n)
	}
	w.undisturbed()
	w.verify()
	c.finish()
}

// TestMaxConnectionAge lets connections live for a time: each ends at a time of its own, and nobody was away.
func TestMaxConnectionAge(t *testing.T) {
	t.Parallel()
	age := 4 * time.Second
	if full {
		age = 20 * time.Second
	}
	c := start(t, returning(1000, 100), options{lines: fmt.Sprintf("max_connection_age %s", age)})
	w := c.gather(100 * time.Millisecond)
	w.moved()
	for i := range c.nodes {
		c.reload(i, edition{}) // nobody is too old any more
	}
	w.back()
	w.converse()
	w.hush()
	c.talk()
	c.settled(c.check)
	w.disperse()
	// A fifth of the age is left to chance.
	const parts = 4
	counts := [parts]int{}
	for _, g := range w.guests {
		cl := g.all()[0]
		if cl.bye.Reason != "max_connection_age" {
			t.Errorf("%s was told %+v", g.user, *cl.bye)
		}
		lived := cl.byeAt.Sub(cl.since) - age*4/5
		counts[min(max(int(lived*parts/(age/5)), 0), parts-1)]++
	}
	t.Logf("figure: of %d connections ended in the quarters of the last fifth of their age: %d", len(w.guests), counts)
	for _, n := range counts {
		if n > len(w.guests)*9/10 {
			t.Errorf("connections ended in the quarters of the last fifth of their age: %d", counts)
		}
	}
	w.undisturbed()
	w.verify()
	c.finish()
}
