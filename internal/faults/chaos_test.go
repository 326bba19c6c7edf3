package faults

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestChaos lets clients come and go, move, talk and change while one fault after the other is done to Redis and to the instances, in random
// order, and then expects that all is as if nothing had been. The seed of a failed run is in its log.
func TestChaos(t *testing.T) {
	s := size(1500, 100)
	s.patience = 2 * time.Minute
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	c := start(t, s, options{nodes: 3})
	c.fill()
	began := time.Now()
	run := 15 * time.Second
	if full {
		run = 2 * time.Minute
	}
	done := make(chan struct{})
	var actors sync.WaitGroup
	for a := range 12 {
		own := rand.New(rand.NewPCG(seed, uint64(a+1)))
		actors.Go(func() { c.act(a, own, done) })
	}
	pause := func(d time.Duration) { <-time.After(d) }
	faults := []struct {
		name string
		do   func()
	}{
		{"flush", func() { c.store.FlushAll(t.Context()) }},
		{"restart", func() { c.redis.Kill(); pause(time.Duration(random.IntN(3000)) * time.Millisecond); c.redis.Run() }},
		{"stall", func() { c.redis.Stall(); pause(time.Duration(random.IntN(5000)) * time.Millisecond); c.redis.Resume() }},
		{"kill pub/sub", func() { c.store.ClientKillByFilter(t.Context(), "TYPE", "pubsub") }},
		{"kill commands", func() { c.store.ClientKillByFilter(t.Context(), "TYPE", "normal") }},
		{"flush scripts", func() { c.store.ScriptFlush(t.Context()) }},
		{"pause an instance", func() {
			n := c.nodes[random.IntN(len(c.nodes))]
			n.Signal(syscall.SIGSTOP)
			pause(time.Duration(random.IntN(int(2 * s.ttl))))
			n.Signal(syscall.SIGCONT)
		}},
		{"kill an instance", func() {
			i := random.IntN(len(c.nodes))
			c.kill(i)
			pause(time.Duration(random.IntN(int(s.ttl))))
			c.nodes[i].Run()
		}},
	}
	for time.Since(began) < run {
		f := faults[random.IntN(len(faults))]
		t.Logf("%.1f s: %s", time.Since(began).Seconds(), f.name)
		f.do()
		pause(time.Duration(random.IntN(1500)) * time.Millisecond)
	}
	close(done)
	actors.Wait()
	for _, cl := range c.all() {
		select {
		case <-cl.ended: // it came in when its instance was killed
			c.part(cl, (*client).drop)
		default:
		}
	}
	took := c.settled(c.check)
	t.Logf("figure: all right %.1f s after the last fault, with %d clients", took.Seconds(), len(c.all()))
	c.contented()
	for _, cl := range c.all() {
		cl.told()
	}
	c.talk()
	c.expect(nothing)
	clients := c.all()
	each(len(clients), func(i int) { c.part(clients[i], func(cl *client) { cl.leave(1000) }) })
	c.settled(c.check)
}

// act is what one actor does: its clients are its own.
func (c *cluster) act(a int, random *rand.Rand, done chan struct{}) {
	for n := 0; ; n++ {
		select {
		case <-done:
			return
		case <-time.After(time.Duration(random.IntN(30)) * time.Millisecond):
		}
		node, r := random.IntN(len(c.nodes)), room(random.IntN(c.rooms))
		all := c.all()
		if len(all) == 0 || random.IntN(3) == 0 {
			// An instance may be gone or stand still.
			_, _ = c.tryJoinFor(5*time.Second, node, fmt.Sprintf("actor%d-%d", a, random.IntN(20)), r)
			continue
		}
		cl := all[random.IntN(len(all))]
		ctx, cancel := c.contextFor(5 * time.Second)
		switch random.IntN(6) {
		case 0:
			c.part(cl, func(cl *client) { cl.leave(1000) })
		case 1:
			c.part(cl, (*client).drop)
		case 2:
			_, _ = cl.say(ctx, fmt.Sprint("chaos", n))
		case 3:
			_, _ = cl.ask(ctx, "status", fmt.Sprintf(`"status":"s%d"`, n))
		case 4:
			_, _ = cl.ask(ctx, "status", fmt.Sprintf(`"room":%q,"state":{"n":%d}`, cl.room, n))
		case 5:
			_, _, _ = cl.members(ctx)
		}
		cancel()
	}
}
