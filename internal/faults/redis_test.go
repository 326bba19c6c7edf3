package faults

import (
	"fmt"
	"testing"
	"time"
)

// complete is how soon presence must be complete after Redis answers again.
const complete = 2 * time.Second

// TestRedisFlushed empties Redis: no client is told of a change, and everything is written again.
func TestRedisFlushed(t *testing.T) { redisFlushed(t, size(10_000, 500), "") }

func redisFlushed(t testing.TB, s scale, program string) {
	c := start(t, s, options{program: program})
	c.fill()
	if err := c.store.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	within(t, "presence complete after FLUSHALL", c.settled(c.check), complete)
	c.talk()
	c.expect(nothing)
	c.finish()
}

// TestRedisRestartedEmpty lets Redis die and come back with nothing.
func TestRedisRestartedEmpty(t *testing.T) {
	c := start(t, size(10_000, 500), options{})
	c.fill()
	died := time.Now()
	c.redis.Kill()
	c.redis.Run()
	within(t, "presence complete after a restart of Redis", c.settled(c.check), complete)
	c.settled(func() error { return gapped(c.all(), died) })
	c.talk()
	c.expect(nothing)
	c.finish()
}

// TestRedisRestartedFromAnOldDump lets Redis come back with what it had before an instance died: with members long gone, and old ones of those
// who live.
func TestRedisRestartedFromAnOldDump(t *testing.T) {
	c := start(t, size(3000, 300), options{nodes: 3})
	c.fill()
	if err := c.store.Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	c.kill(2)
	for i, cl := range c.all() {
		if i%5 == 0 {
			c.part(cl, func(cl *client) { cl.leave(1000) })
			c.join(i%2, fmt.Sprint("new", i), cl.room)
		}
	}
	c.settled(c.check)
	for _, cl := range c.all() {
		cl.told()
	}
	c.redis.Kill()
	c.redis.Run()
	if n := c.store.HLen(t.Context(), base+":m:"+room(0)).Val(); n == 0 {
		t.Error("the dump is empty")
	}
	within(t, "presence right after a restart from an old dump", c.settled(c.check), 2*complete)
	c.talk()
	c.expect(nothing)
	c.finish()
}

// TestRedisDown takes Redis away for a while. Members of one instance go on talking, newcomers come in, and afterwards everybody learns once what
// has changed meanwhile, and that messages may be missing.
func TestRedisDown(t *testing.T) {
	redisAway(t, size(2000, 200), 30*time.Second, (*cluster).redisKilled, (*cluster).redisRun)
}

// TestRedisStalled is TestRedisDown with a Redis that answers nothing and loses nothing.
func TestRedisStalled(t *testing.T) {
	redisAway(t, size(2000, 200), 10*time.Second, func(c *cluster) { c.redis.Stall() }, func(c *cluster) { c.redis.Resume() })
}

func (c *cluster) redisKilled() { c.redis.Kill() }
func (c *cluster) redisRun()    { c.redis.Run() }

// redisAway is a trial without Redis for a time, at full scale; otherwise for twice the lease.
func redisAway(t *testing.T, s scale, span time.Duration, away, back func(*cluster)) {
	c := start(t, s, options{})
	c.fill()
	from, to := c.join(0, "from", room(0)), c.join(0, "to", room(0))
	c.settled(c.check)
	before := c.latency(from, to)
	for _, cl := range c.all() {
		cl.told()
	}

	gone := time.Now()
	away(c)
	// The first calls find out that Redis is gone; none takes longer than the timeout of 2 s, and a bit for a busy machine.
	first := c.timed(func() { c.join(0, "early", room(1)) })
	within(t, "first join without Redis", first, 3*time.Second)
	c.settled(func() error {
		if n := c.timed(func() { c.join(1, fmt.Sprint("probe", words.Add(1)), room(2)) }); n > time.Second/2 {
			return fmt.Errorf("a join takes %s without Redis", n)
		}
		return nil
	})
	during := c.latency(from, to)
	t.Logf("figure: median latency on one instance %s with Redis, %s without", before, during)
	if during > 10*before+50*time.Millisecond {
		t.Errorf("a message takes %s without Redis, and took %s", during, before)
	}
	late := c.join(0, "late", room(0))
	if late.degradedAnswers() == 0 {
		t.Error("the ack of a join without Redis is not degraded")
	}
	// Somebody goes, somebody comes back elsewhere, somebody changes places.
	left, moved := map[string]bool{}, map[string]bool{}
	for i, cl := range c.on(0) {
		switch {
		case cl == from || cl == to || cl == late:
		case i%10 == 0:
			left[cl.user] = true
			c.part(cl, func(cl *client) { cl.leave(1000) })
		case i%10 == 1:
			moved[cl.user] = true
			c.part(cl, (*client).drop)
			c.join(1, cl.user, cl.room)
		}
	}
	said := c.say()
	if err := c.heard(said, sameNode); err != nil {
		t.Error(err)
	}
	if !full {
		span = 2 * s.ttl
	}
	for time.Since(gone) < span {
		<-time.After(10 * time.Millisecond)
	}
	for _, cl := range c.all() {
		select {
		case <-cl.ended:
			t.Errorf("%s was disconnected without Redis", cl.user)
		default:
		}
	}
	back(c)
	answered := time.Now()
	c.settled(func() error { return gapped(c.all(), gone) })
	c.settled(c.check)
	within(t, "everything right after Redis is back", time.Since(answered), 2*complete+s.grace)
	c.contented()
	c.net(left, moved)
	for _, cl := range c.all() {
		cl.told()
	}
	c.talk()
	c.expect(nothing)
	c.finish()
}

// net fails the trial when a client was told more than once of somebody's end, or of the end of one who stayed. The instance that somebody has
// moved away from can't know before Redis is back that he is elsewhere, so its clients are told that he left, and that he is back.
func (c *cluster) net(left, moved map[string]bool) {
	c.Helper()
	for _, cl := range c.all() {
		gone := map[string]int{}
		cl.mu.Lock()
		for _, e := range cl.events {
			if e.op == "leave" {
				gone[e.user]++
			}
		}
		cl.mu.Unlock()
		for user, n := range gone {
			if n > 1 || !left[user] && !(moved[user] && cl.node == c.nodes[0]) {
				c.Errorf("%s in %s was told %d times that %s left", cl.user, cl.room, n, user)
			}
		}
	}
}

// timed returns how long f takes.
func (c *cluster) timed(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

func (c *client) degradedAnswers() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.degraded
}
