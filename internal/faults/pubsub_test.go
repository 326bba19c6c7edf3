package faults

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// TestPubSubKilled cuts the connections that receive, under traffic.
func TestPubSubKilled(t *testing.T) { pubSubKilled(t, size(2000, 200), "") }

func pubSubKilled(t testing.TB, s scale, program string) {
	c := start(t, s, options{program: program})
	c.fill()
	traffic := c.traffic()
	killed := time.Now()
	for range 5 {
		if err := c.store.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Err(); err != nil {
			t.Fatal(err)
		}
		c.settled(func() error { return gapped(c.all(), killed) })
		within(t, "told of the gap after the pub/sub connection was killed", time.Since(killed), 2*time.Second)
		killed = time.Now()
	}
	traffic.stop()
	c.settled(c.check)
	c.talk()
	c.expect(nothing)
	traffic.verify()
	c.finish()
}

// TestPubSubTooSlow has Redis cut an instance that reads too slowly. What was buffered for it is lost.
func TestPubSubTooSlow(t *testing.T) {
	c := start(t, size(500, 50), options{})
	c.fill()
	if err := c.store.ConfigSet(t.Context(), "client-output-buffer-limit", "pubsub 1mb 1mb 1").Err(); err != nil {
		t.Fatal(err)
	}
	before := c.subscribers()
	cut := time.Now()
	c.nodes[1].Signal(syscall.SIGSTOP)
	said := c.on(0)[0]
	ctx, cancel := c.context()
	defer cancel()
	if _, err := said.say(ctx, "lost"); err != nil {
		t.Error(err)
	}
	// Nobody's kind of message, so that it stops in the instances.
	noise := strings.Repeat("z", 64<<10)
	for c.subscribers() == before {
		if err := c.store.Publish(t.Context(), base+":e:"+said.room, noise).Err(); err != nil {
			t.Fatal(err)
		}
	}
	c.nodes[1].Signal(syscall.SIGCONT)
	c.settled(func() error { return gapped(c.on(1), cut) })
	c.settled(c.check)
	c.talk()
	c.expect(nothing)
	c.finish()
}

// subscribers returns how many connections to Redis receive.
func (c *cluster) subscribers() int {
	c.Helper()
	list, err := c.store.Do(c.Context(), "CLIENT", "LIST", "TYPE", "pubsub").Text()
	if err != nil {
		c.Fatal(err)
	}
	return strings.Count(list, "\n")
}

// TestPubSubSilent leads everything to another Redis but the connections that receive: they are in good health, and nobody publishes there.
func TestPubSubSilent(t *testing.T) {
	t.Parallel()
	pubSubSilent(t, size(500, 50), "")
}

func pubSubSilent(t testing.TB, s scale, program string) {
	old, next := redistest.Start(t), redistest.Start(t)
	proxy := redistest.StartProxy(t, old.Addr)
	c := start(t, s, options{program: program, redis: old, url: func(int) string { return proxy.URL() }})
	c.fill()
	moved := time.Now()
	proxy.Failover(next.Addr)
	c.redis, c.store = next, next.Client()
	c.settled(func() error { return gapped(c.all(), moved) })
	within(t, "noticed that a healthy link brings nothing", time.Since(moved), 2*5*time.Second+time.Second)
	c.settled(c.check)
	c.talk()
	c.expect(nothing)
	c.finish()
}

// TestReplicaPromoted loses the last writes with the server that had them.
func TestReplicaPromoted(t *testing.T) { replicaPromoted(t, size(2000, 200), "") }

func replicaPromoted(t testing.TB, s scale, program string) {
	master := redistest.Start(t)
	host, port, _ := strings.Cut(master.Addr, ":")
	replica := redistest.Start(t, "--replicaof", host+" "+port)
	proxy := redistest.StartProxy(t, master.Addr)
	c := start(t, s, options{program: program, redis: master, url: func(int) string { return proxy.URL() }})
	c.fill()
	promoted := replica.Client()
	c.settled(func() error {
		if n := promoted.Exists(t.Context(), base+":m:"+room(0)).Val(); n == 0 {
			return fmt.Errorf("the replica has nothing")
		}
		return nil
	})
	if err := promoted.Do(t.Context(), "REPLICAOF", "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	// These writes are lost: some come, some go.
	for i, cl := range c.all() {
		switch i % 20 {
		case 0:
			c.part(cl, func(cl *client) { cl.leave(1000) })
		case 1:
			c.join(i/2%2, fmt.Sprint("new", i), cl.room)
		}
	}
	c.settled(c.check)
	for _, cl := range c.all() {
		cl.told()
	}
	proxy.Cut()
	master.Kill()
	proxy.Failover(replica.Addr)
	proxy.Restore()
	c.redis, c.store = replica, promoted
	within(t, "repaired after a promoted replica had lost writes", c.settled(c.check), s.renewal()+complete)
	c.talk()
	c.expect(nothing)
	c.finish()
}

// TestScriptsFlushed makes Redis forget the scripts, again and again, in the middle of traffic: no request fails.
func TestScriptsFlushed(t *testing.T) { scriptsFlushed(t, size(500, 50), "") }

func scriptsFlushed(t testing.TB, s scale, program string) {
	c := start(t, s, options{program: program})
	c.fill()
	traffic := c.traffic()
	ctx, cancel := c.context()
	defer cancel()
	clients := c.all()
	const rounds = 10
	done := make(chan struct{})
	go func() {
		defer close(done)
		each(len(clients), func(i int) {
			cl := clients[i]
			for n := range 4 * rounds {
				request := [][2]string{
					{"status", fmt.Sprintf(`"room":%q,"status":"busy%d"`, cl.room, n)},
					{"status", fmt.Sprintf(`"status":"away%d"`, n)},
					{"join", `"room":"other"`},
					{"leave", `"room":"other"`},
				}[n%4]
				if f, err := cl.ask(ctx, request[0], request[1]); err != nil || f.Degraded {
					t.Errorf("%s of %s: %v, degraded %t", request[0], cl.user, err, f.Degraded)
				}
			}
		})
	}()
	flushes := 0
	for flushing := true; flushing; {
		select {
		case <-done:
			flushing = false
		case <-time.After(5 * time.Millisecond):
			flushes++
			if err := c.store.ScriptFlush(ctx).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("figure: %d flushes of the scripts while %d clients made %d requests each", flushes, len(clients), 4*rounds)
	traffic.stop()
	c.settled(c.check)
	traffic.verify()
	c.expect(nothing)
	c.finish()
}

// traffic is one speaker in each of some rooms, who counts aloud. Whoever misses a number must have been told of a gap.
type traffic struct {
	c        *cluster
	began    time.Time
	speakers []*client
	said     []int
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

func (c *cluster) traffic() *traffic {
	ctx, cancel := context.WithCancel(context.Background())
	tr := &traffic{c: c, began: time.Now(), cancel: cancel}
	seen := map[string]bool{}
	for _, cl := range c.on(0) {
		if !seen[cl.room] && len(seen) < 10 {
			seen[cl.room] = true
			tr.speakers = append(tr.speakers, cl)
		}
	}
	tr.said = make([]int, len(tr.speakers))
	for i, cl := range tr.speakers {
		tr.running.Go(func() {
			for ctx.Err() == nil {
				if _, err := cl.say(context.Background(), fmt.Sprint("number", tr.said[i])); err != nil {
					return // its connection has ended
				}
				tr.said[i]++
			}
		})
	}
	return tr
}

// stop ends the talking. What was said has been acked by then.
func (tr *traffic) stop() {
	tr.cancel()
	tr.running.Wait()
}

// verify fails the trial when a member lost a number and was not told, heard one twice, or in another order.
func (tr *traffic) verify() {
	c := tr.c
	c.Helper()
	lost, total := 0, 0
	for i, speaker := range tr.speakers {
		total += tr.said[i]
		for _, cl := range c.all() {
			if cl == speaker || cl.room != speaker.room {
				continue
			}
			next, missing := 0, 0
			cl.mu.Lock()
			for _, m := range cl.messages {
				var n int
				if _, err := fmt.Sscanf(m.data, `"number%d"`, &n); err != nil {
					continue
				}
				if n < next {
					c.Errorf("%s heard number %d after %d", cl.user, n, next-1)
				}
				missing += n - next
				next = n + 1
			}
			missing += tr.said[i] - next
			gaps := len(cl.gaps)
			cl.mu.Unlock()
			if missing > 0 && gaps == 0 {
				c.Errorf("%s in %s lost %d of %d numbers, and was told of no gap", cl.user, cl.room, missing, tr.said[i])
			}
			lost += missing
		}
	}
	c.Logf("figure: %d numbers said, %d lost, none in silence", total, lost)
}
