package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
)

// crowd is guests of whom some talk all the time: in each room one on each instance. It belongs to the goroutine of its test.
type crowd struct {
	c       *cluster
	guests  []*guest
	talkers []*guest      // those of them who talk
	quiet   chan struct{} // closed by hush, once
	home    chan struct{} // closed by disperse, once
	hushed  sync.Once
	gone    sync.Once
	talking sync.WaitGroup
	staying sync.WaitGroup
}

// guest is a user in a room who stays whatever happens: sent away, it comes back, to another instance, when it was told to.
type guest struct {
	user, room string

	mu    sync.Mutex
	stays []*client // its connections, one after the other
	acked []bool    // by the number of what it has said
}

// errUnasked is what a guest says whose connection ended without a bye.
var errUnasked = errors.New("was not asked to come again")

// gather connects the clients of the scale, as fill does, and has some talk, each at that pace; with 0 nobody does.
func (c *cluster) gather(pace time.Duration) *crowd {
	c.Helper()
	w := &crowd{c: c, guests: make([]*guest, c.scale.clients), quiet: make(chan struct{}), home: make(chan struct{})}
	each(len(w.guests), func(i int) {
		cl, err := c.tryJoin(i/c.rooms%len(c.nodes), user(i), room(i%c.rooms))
		for droppedByListener(err) { // of a configuration before
			cl, err = c.tryJoin(i/c.rooms%len(c.nodes), user(i), room(i%c.rooms))
		}
		if err != nil {
			c.Error(err)
			return
		}
		w.guests[i] = &guest{user: cl.user, room: cl.room, stays: []*client{cl}}
	})
	if c.Failed() {
		c.FailNow()
	}
	c.settled(c.check)
	for _, cl := range c.all() {
		cl.told()
	}
	c.Cleanup(func() {
		w.hush()
		w.disperse()
	})
	for i, g := range w.guests {
		w.staying.Go(func() { w.stay(g) })
		if pace > 0 && i/c.rooms < len(c.nodes) {
			w.talkers = append(w.talkers, g)
			w.talking.Go(func() { w.talk(g, pace) })
		}
	}
	return w
}

// last returns the guest's present connection, or the one before.
func (g *guest) last() *client {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stays[len(g.stays)-1]
}

// all returns the guest's connections.
func (g *guest) all() []*client {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]*client(nil), g.stays...)
}

// talk says numbers. One whose answer the end of the connection took away may have arrived.
func (w *crowd) talk(g *guest, pace time.Duration) {
	<-time.After(rand.N(pace)) // not all at the same moment
	every := time.NewTicker(pace)
	defer every.Stop()
	for n := 0; ; {
		select {
		case <-every.C:
		case <-w.quiet:
			return
		}
		cl := g.last()
		select {
		case <-cl.ended: // away
			continue
		default:
		}
		ctx, cancel := w.c.context()
		_, err := cl.say(ctx, fmt.Sprintf("%s %d %d", g.user, n, time.Now().UnixNano()))
		cancel()
		g.mu.Lock()
		g.acked = append(g.acked, err == nil)
		g.mu.Unlock()
		n++
	}
}

// stay brings the guest back until all go home.
func (w *crowd) stay(g *guest) {
	for {
		cl := g.last()
		select {
		case <-cl.ended:
		case <-w.home:
			return
		}
		w.c.part(cl, func(*client) {})
		in, err := cl.farewell()
		if err != nil {
			w.c.Errorf("%s in %s: %v", cl.user, cl.room, err)
		}
		select {
		case <-time.After(in):
		case <-w.home:
			return
		}
		if next := w.comeBack(g, cl); next == nil {
			return
		}
	}
}

// comeBack tries the instances after that of the last connection until one takes the guest.
func (w *crowd) comeBack(g *guest, last *client) *client {
	node := 0
	for i, n := range w.c.nodes {
		if n == last.node {
			node = i
		}
	}
	for {
		select {
		case <-w.home:
			return nil
		default:
		}
		node = (node + 1) % len(w.c.nodes)
		if cl, err := w.c.tryJoin(node, g.user, g.room); err == nil {
			g.mu.Lock()
			g.stays = append(g.stays, cl)
			g.mu.Unlock()
			return cl
		}
		if w.c.nodes[node] == last.node { // all were tried
			<-time.After(10 * time.Millisecond)
		}
	}
}

// farewell returns when a client whose connection has ended was told to come again. An error tells that it was not, or not properly.
func (c *client) farewell() (in time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bye == nil {
		return 0, fmt.Errorf("%w: %w", errUnasked, c.reason)
	}
	want := websocket.CloseError{Code: 4200, Reason: fmt.Sprintf("4200;%d", c.bye.ReconnectIn)}
	if got, ok := errors.AsType[websocket.CloseError](c.reason); !ok || got != want {
		return 0, fmt.Errorf("told %+v, then closed with %w, want code %d, %q", *c.bye, c.reason, want.Code, want.Reason)
	}
	return time.Duration(c.bye.ReconnectIn) * time.Millisecond, nil
}

// converse waits until everybody who talks has said some more.
func (w *crowd) converse() {
	w.c.Helper()
	said := func(g *guest) int {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.acked)
	}
	before := make([]int, len(w.talkers))
	for i, g := range w.talkers {
		before[i] = said(g)
	}
	w.c.settled(func() error {
		for i, g := range w.talkers {
			if n := said(g) - before[i]; n < 5 {
				return fmt.Errorf("%s has said %d more", g.user, n)
			}
		}
		return nil
	})
}

// hush ends the talking. What was said has been answered by then, or never will be.
func (w *crowd) hush() {
	w.hushed.Do(func() { close(w.quiet) })
	w.talking.Wait()
}

// back waits until all guests are back from where they were sent.
func (w *crowd) back() {
	w.c.Helper()
	w.c.settled(func() error {
		for _, g := range w.guests {
			select {
			case <-g.last().ended:
				return fmt.Errorf("%s is away", g.user)
			default:
			}
		}
		return nil
	})
}

// disperse ends the coming back.
func (w *crowd) disperse() {
	w.gone.Do(func() { close(w.home) })
	w.staying.Wait()
}

// stays returns on how many connections the guests were.
func (w *crowd) stays() (n int) {
	for _, g := range w.guests {
		n += len(g.all())
	}
	return n
}

// undisturbed fails the trial when a guest was told of anything but messages.
func (w *crowd) undisturbed() {
	w.c.Helper()
	wrong := 0
	for _, g := range w.guests {
		for i, cl := range g.all() {
			events := cl.told()
			cl.mu.Lock()
			if len(events)+len(cl.gaps)+len(cl.refused)+len(cl.complaints)+cl.degraded > 0 {
				if wrong++; wrong < 10 {
					w.c.Errorf("%s in %s, connection %d: events %v, gaps %v, refusals %v, complaints %q, %d degraded answers",
						cl.user, cl.room, i, events, cl.gaps, cl.refused, cl.complaints, cl.degraded)
				}
			}
			cl.mu.Unlock()
		}
	}
	if wrong > 0 {
		w.c.Errorf("%d connections were told what they should not be", wrong)
	}
}

// verify fails the trial unless each guest has heard all that was acked to the others in its room, once and in order, but for what was said
// while it was away. Call it when all have talked once more after hush.
func (w *crowd) verify() {
	w.c.Helper()
	acked, doubtful, away, wrong := 0, 0, 0, 0
	rooms := map[string][]*guest{}
	for _, g := range w.guests {
		rooms[g.room] = append(rooms[g.room], g)
		for _, ok := range g.acked {
			if ok {
				acked++
			} else {
				doubtful++
			}
		}
	}
	for _, g := range w.guests {
		stays, heard := len(g.all()), g.numbers()
		for _, speaker := range rooms[g.room] {
			if speaker == g {
				continue
			}
			if heard[speaker.user] == nil {
				heard[speaker.user] = make([][]int, stays)
			}
			missed, err := follow(heard[speaker.user], speaker.acked)
			away += missed
			if err != nil {
				if wrong++; wrong < 10 {
					w.c.Errorf("%s in %s, of %s: %v", g.user, g.room, speaker.user, err)
				}
			}
		}
	}
	if wrong > 0 {
		w.c.Errorf("%d times a guest heard another wrongly", wrong)
	}
	if acked == 0 {
		w.c.Error("nothing was said")
	}
	w.c.Logf("figure: %d messages acked, %d unanswered at the end of a connection; %d times a guest missed one while it was away", acked, doubtful, away)
}

// numbers returns what the guest has heard, by speaker and connection.
func (g *guest) numbers() map[string][][]int {
	stays := g.all()
	heard := map[string][][]int{}
	for i, cl := range stays {
		cl.mu.Lock()
		for _, m := range cl.messages {
			n, _, ok := m.number()
			if !ok {
				continue
			}
			if heard[m.from] == nil {
				heard[m.from] = make([][]int, len(stays))
			}
			heard[m.from][i] = append(heard[m.from][i], n)
		}
		cl.mu.Unlock()
	}
	return heard
}

// number returns the number that a guest has said, and when.
func (m message) number() (n int, said time.Time, ok bool) {
	var nanos int64
	_, rest, _ := strings.Cut(strings.Trim(m.data, `"`), " ")
	if _, err := fmt.Sscanf(rest, "%d %d", &n, &nanos); err != nil {
		return 0, time.Time{}, false
	}
	return n, time.Unix(0, nanos), true
}

// follow compares the numbers that were heard of a speaker on one connection after the other with those that were acked. It returns how
// many are missing between two connections.
func follow(heard [][]int, acked []bool) (missed int, err error) {
	lost := func(from, to int) (lost []int) {
		for n := from; n < to; n++ {
			if acked[n] {
				lost = append(lost, n)
			}
		}
		return lost
	}
	next := 0
	for stay, numbers := range heard {
		for i, n := range numbers {
			if n < next {
				return missed, fmt.Errorf("heard %d after %d", n, next-1)
			}
			away := lost(next, n)
			if len(away) > 0 && (stay == 0 || i > 0) {
				return missed, fmt.Errorf("did not hear %v, between %d and %d, on connection %d", away, next-1, n, stay)
			}
			missed += len(away)
			next = n + 1
		}
	}
	away := lost(next, len(acked))
	if last := len(heard) - 1; len(away) > 0 && (last == 0 || len(heard[last]) > 0) {
		return missed, fmt.Errorf("did not hear the last, %v", away)
	}
	return missed + len(away), nil
}

// delays returns how long the messages took that were said in a time, all of them.
func (w *crowd) delays(during func(said time.Time) int, windows int) [][]time.Duration {
	delays := make([][]time.Duration, windows)
	for _, g := range w.guests {
		for _, cl := range g.all() {
			cl.mu.Lock()
			for _, m := range cl.messages {
				if _, said, ok := m.number(); ok {
					if i := during(said); i >= 0 {
						delays[i] = append(delays[i], m.at.Sub(said))
					}
				}
			}
			cl.mu.Unlock()
		}
	}
	return delays
}

// visit connects to an instance for a moment. It returns what was wrong.
func visit(ctx context.Context, node *caddytest.Caddy, user string) error {
	cl, err := dial(ctx, node, node.Addr, user, "visitors")
	if err != nil {
		return err
	}
	cl.leave(1000)
	return nil
}
