package faults

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

var words atomic.Int64

// talk has one member of each room on each instance say something, and waits until every other member has heard it, once.
func (c *cluster) talk() {
	c.Helper()
	c.settled(func() error { return c.heard(c.say(), func(speaker, cl *client) bool { return true }) })
}

// say has one member of each room on each instance say something, and returns who said what.
func (c *cluster) say() map[string]*client {
	c.Helper()
	type place struct {
		node any
		room string
	}
	speakers := map[place]*client{}
	for _, cl := range c.all() {
		speakers[place{cl.node, cl.room}] = cl
	}
	said := map[string]*client{}
	for _, cl := range speakers {
		said[fmt.Sprintf("word%d", words.Add(1))] = cl
	}
	texts := slices.Collect(func(yield func(string) bool) {
		for text := range said {
			if !yield(text) {
				return
			}
		}
	})
	each(len(texts), func(i int) {
		ctx, cancel := c.context()
		defer cancel()
		if _, err := said[texts[i]].say(ctx, texts[i]); err != nil {
			c.Errorf("%s says something: %v", said[texts[i]].user, err)
		}
	})
	return said
}

// heard returns an error until each word was heard, once, by every member of the speaker's room that should.
func (c *cluster) heard(said map[string]*client, should func(speaker, cl *client) bool) error {
	began := time.Now()
	for {
		err := c.heardNow(said, should)
		if err == nil || time.Since(began) > 5*time.Second {
			return err
		}
		<-time.After(10 * time.Millisecond)
	}
}

func (c *cluster) heardNow(said map[string]*client, should func(speaker, cl *client) bool) error {
	for _, cl := range c.all() {
		counts := map[string]int{}
		cl.mu.Lock()
		for _, m := range cl.messages {
			counts[m.data]++
		}
		cl.mu.Unlock()
		for text, speaker := range said {
			if speaker == cl || speaker.room != cl.room || !should(speaker, cl) {
				continue
			}
			if n := counts[fmt.Sprintf("%q", text)]; n != 1 {
				return fmt.Errorf("%s in %s heard %d times what %s said", cl.user, cl.room, n, speaker.user)
			}
		}
	}
	return nil
}

// heardOrGapped returns an error until each member of the speakers' rooms has heard what was said, or was told of a gap after since.
func (c *cluster) heardOrGapped(said map[string]*client, since time.Time) error {
	for text, speaker := range said {
		for _, cl := range c.all() {
			if cl == speaker || cl.room != speaker.room || gapped([]*client{cl}, since) == nil {
				continue
			}
			cl.mu.Lock()
			heard := slices.ContainsFunc(cl.messages, func(m message) bool { return m.data == fmt.Sprintf("%q", text) })
			cl.mu.Unlock()
			if !heard {
				return fmt.Errorf("%s in %s neither heard what %s said nor was told of a gap", cl.user, cl.room, speaker.user)
			}
		}
	}
	return nil
}

// sameNode tells whether two clients are on one instance.
func sameNode(a, b *client) bool { return a.node == b.node }

// latency returns the median of the time that a message takes from one member to another of the same room and instance.
func (c *cluster) latency(from, to *client) time.Duration {
	c.Helper()
	var took []time.Duration
	for range 50 {
		text := fmt.Sprintf("word%d", words.Add(1))
		ctx, cancel := c.context()
		began := time.Now()
		if _, err := from.say(ctx, text); err != nil {
			c.Fatal(err)
		}
		c.settled(func() error {
			return c.heardNow(map[string]*client{text: from}, func(_, cl *client) bool { return cl == to })
		})
		to.mu.Lock()
		took = append(took, to.messages[len(to.messages)-1].at.Sub(began))
		to.mu.Unlock()
		cancel()
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// gapped returns an error until each of the clients was told of a gap after since.
func gapped(clients []*client, since time.Time) error {
	for _, cl := range clients {
		cl.mu.Lock()
		told := slices.ContainsFunc(cl.gaps, since.Before)
		cl.mu.Unlock()
		if !told {
			return fmt.Errorf("%s in %s was told of no gap", cl.user, cl.room)
		}
	}
	return nil
}
