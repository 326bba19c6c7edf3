package faults

import (
	"syscall"
	"testing"
	"time"
)

// renewal is how often an instance renews its lease.
func (s scale) renewal() time.Duration { return min(s.ttl/4, time.Second) * 11 / 10 }

// TestKilledInstance kills one of three instances: its members are told as gone once, in time, except those who are back.
func TestKilledInstance(t *testing.T) { killedInstance(t, size(5000, 500), "") }

func killedInstance(t testing.TB, s scale, program string) {
	c := start(t, s, options{nodes: 3, program: program})
	c.fill()
	// Who has a second connection elsewhere stays as well.
	c.join(1, user(0), room(0))
	c.expect(nothing)
	tap := c.tap()

	killed := time.Now()
	lost := c.kill(0)
	gone := map[string][]string{} // by room
	back := 0
	var returning []*client
	for _, cl := range lost {
		switch {
		case cl.user == user(0):
		case len(cl.user)%2 == 0 && back < len(lost)/5:
			back++
			returning = append(returning, cl)
		default:
			gone[cl.room] = append(gone[cl.room], "leave "+cl.user+" node")
		}
	}
	each(len(returning), func(i int) {
		if _, err := c.tryJoin(1+i%2, returning[i].user, returning[i].room); err != nil {
			c.Error(err)
		}
	})
	c.settled(c.check)
	var last time.Time
	for _, cl := range c.all() {
		cl.mu.Lock()
		for _, e := range cl.events {
			if e.at.After(last) {
				last = e.at
			}
		}
		cl.mu.Unlock()
	}
	within(t, "last leave after kill -9", last.Sub(killed), s.ttl+s.renewal()+time.Second)
	// Those who came back after the kill have seen in their snapshot who was there still.
	c.expect(func(cl *client) []string { return gone[cl.room] })
	if n := tap.leaves(t); n != len(lost) {
		t.Errorf("%d rows left, want those of the %d lost connections", n, len(lost))
	}
	c.finish()
}

// TestPausedInstance stops an instance for twice its lease: its members are told as gone once, and as back once.
func TestPausedInstance(t *testing.T) { pausedInstance(t, size(2000, 200), "") }

func pausedInstance(t testing.TB, s scale, program string) {
	c := start(t, s, options{program: program})
	c.fill()
	tap := c.tap()
	away, stayed := c.on(1), c.on(0)
	paused := time.Now()
	c.nodes[1].Signal(syscall.SIGSTOP)
	c.settled(func() error { return told(stayed, away) })
	within(t, "members of a paused instance told as gone", time.Since(paused), s.ttl+s.renewal()+time.Second)
	for time.Since(paused) < 2*s.ttl {
		<-time.After(10 * time.Millisecond)
	}
	resumed := time.Now()
	c.nodes[1].Signal(syscall.SIGCONT)
	within(t, "all right again after the pause", c.settled(c.check), 5*time.Second)
	t.Logf("figure: back %.2f s after the pause", time.Since(resumed).Seconds())
	want := map[string][]string{}
	for _, cl := range away {
		want[cl.room] = append(want[cl.room], "leave "+cl.user+" node", "join "+cl.user)
	}
	c.expect(func(cl *client) []string {
		if cl.node == c.nodes[1] {
			return nil
		}
		return want[cl.room]
	})
	if n := tap.leaves(t); n != len(away) {
		t.Errorf("%d rows left, want those of the %d clients of the paused instance", n, len(away))
	}
	c.finish()
}

// TestStoppedForLessThanItsLease stops an instance for half of its lease, as a snapshot of its machine might: nobody is told anything.
func TestStoppedForLessThanItsLease(t *testing.T) {
	c := start(t, size(500, 50), options{})
	c.fill()
	c.nodes[1].Signal(syscall.SIGSTOP)
	<-time.After(c.ttl / 2)
	c.nodes[1].Signal(syscall.SIGCONT)
	c.settled(c.check)
	c.expect(nothing)
	c.finish()
}
