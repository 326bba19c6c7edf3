package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// TestReconnectStorm has the clients of a killed instance come back at once to one that accepts two thirds of them a second. All are in in the
// end, the pace is held, nobody was away, and Redis gets no more to do than there are changes.
func TestReconnectStorm(t *testing.T) {
	s := size(6000, 60)
	pace := s.clients / 3
	c := start(t, s, options{lines: fmt.Sprintf("limit accept {\non connect\nkey all\nevents %d\nwindow 1s\nscope instance\n}", pace)})
	// One by one would take as long as the pace says.
	var mu sync.Mutex
	come := func(node, i int) (accepted time.Time, turns int) {
		for {
			_, err := c.tryJoin(node, user(i), room(i%c.rooms))
			var later *laterError
			switch {
			case err == nil:
				return time.Now(), turns
			case !errors.As(err, &later):
				mu.Lock()
				defer mu.Unlock()
				t.Error(err)
				return time.Now(), turns
			case later.code != 4101 || later.in <= 0 || later.in > 30*time.Second:
				mu.Lock()
				t.Errorf("refused with %v", later)
				mu.Unlock()
			}
			turns++
			<-time.After(later.in)
		}
	}
	storm := func(node, n int) (times []time.Time, turns int) {
		times = make([]time.Time, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				at, waited := come(node, i)
				mu.Lock()
				defer mu.Unlock()
				times[i] = at
				turns += waited
			})
		}
		wg.Wait()
		slices.SortFunc(times, time.Time.Compare)
		return times, turns
	}
	n := s.clients / 2
	storm(1, n)
	c.settled(c.check)
	before := c.calls("evalsha")
	began := time.Now()
	c.kill(1)
	times, turns := storm(0, n)
	for i, at := range times {
		// What the test sees is later than what was decided, so that a slow machine can't break this.
		if most := pace * (int(at.Sub(began)/time.Second) + 1); i+1 > most {
			t.Fatalf("%d clients were accepted within %s, allowed are %d", i+1, at.Sub(began), most)
		}
	}
	t.Logf("figure: %d clients back within %.1f s at a pace of %d/s; %d times one was told to come later", n, times[n-1].Sub(began).Seconds(), pace, turns)
	inTime := times[n-1].Sub(began) < s.ttl
	c.settled(c.check)
	calls := c.calls("evalsha") - before
	t.Logf("figure: %.2f scripts a client for coming back, and for the removal of what it had before", float64(calls)/float64(n))
	if calls > 4*n {
		t.Errorf("%d scripts for %d clients", calls, n)
	}
	if inTime {
		c.expect(nothing)
	}
	c.finish()
}

// calls returns how often Redis has run a command.
func (c *cluster) calls(command string) int {
	c.Helper()
	info, err := c.store.Info(c.Context(), "commandstats").Result()
	if err != nil {
		c.Fatal(err)
	}
	_, stat, _ := strings.Cut(info, "cmdstat_"+command+":calls=")
	digits, _, _ := strings.Cut(stat, ",")
	n, _ := strconv.Atoi(digits)
	return n
}

// TestClientVanishes takes a client's network away without a FIN: it leaves after the time of a ping, of its answer and of the grace.
func TestClientVanishes(t *testing.T) {
	t.Parallel()
	s := size(0, 0)
	ping := 25 * time.Second
	lines := ""
	if !full {
		ping = time.Second
		lines = "ping_interval 1s"
	}
	c := start(t, s, options{lines: lines})
	proxy := redistest.StartProxy(t, c.nodes[0].Addr)
	watcher := c.join(1, "watcher", "lobby")
	ctx, cancel := context.WithTimeout(context.Background(), c.patience)
	defer cancel()
	for i := range 3 {
		cl, err := dial(ctx, c.nodes[0], proxy.Addr, user(i), "lobby")
		if err != nil {
			t.Fatal(err)
		}
		defer cl.drop()
	}
	c.settled(func() error { return joined(watcher, 3) })
	began := time.Now()
	proxy.Freeze()
	c.settled(func() error {
		return told([]*client{watcher}, []*client{{room: "lobby"}, {room: "lobby"}, {room: "lobby"}})
	})
	within(t, "leave of a client that vanished", time.Since(began), ping+15*time.Second+2*time.Second+s.grace+time.Second)
	c.expect(func(cl *client) []string {
		return []string{
			"join user0", "join user1", "join user2",
			"leave user0 timeout", "leave user1 timeout", "leave user2 timeout",
		}
	})
	c.settled(c.check)
	c.finish()
}

func joined(cl *client, n int) error {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if len(cl.view) <= n {
		return fmt.Errorf("only %d are in", len(cl.view))
	}
	return nil
}

// TestShortAbsence drops clients, and lets pages be loaded again: who is back within the grace, here or on another instance, was never away.
func TestShortAbsence(t *testing.T) {
	c := start(t, size(500, 50), options{})
	c.fill()
	for i, cl := range c.on(0) {
		node := i % 2
		if i%4 < 2 {
			c.part(cl, (*client).drop)
		} else {
			c.part(cl, func(cl *client) { cl.leave(1001) })
		}
		c.join(node, cl.user, cl.room)
	}
	c.settled(c.check)
	c.expect(nothing)
	c.finish()
}
