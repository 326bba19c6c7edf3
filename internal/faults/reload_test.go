package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/freeport"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// TestReloadUnderTraffic reloads again and again while everybody talks and others come and go: nobody is disconnected, told of a change, or
// misses a message, and nothing is left of the configurations that were.
func TestReloadUnderTraffic(t *testing.T) { reloadUnderTraffic(t, size(1000, 100), "") }

func reloadUnderTraffic(t testing.TB, s scale, program string) {
	reloads, pace, pause := 24, 100*time.Millisecond, 20*time.Millisecond
	if full {
		reloads, pace, pause = 100, 200*time.Millisecond, 200*time.Millisecond
	}
	// What is left of a visitor is forgotten when it would be pinged.
	const lines = "ping_interval 5s\n"
	c := start(t, s, options{program: program, lines: lines})
	logs := filepath.Join(t.TempDir(), "log")
	changes := []func(n int) edition{
		func(n int) edition {
			return edition{lines: lines + fmt.Sprintf("limit chat {\non publish\nkey {rooms.conn}\nevents %d\nwindow %dm\n}", 100_000+n, 1+n%3)}
		},
		func(n int) edition {
			return edition{lines: lines + fmt.Sprintf("room room* {\nmax_members %d\n}\nroom visitors {\npublish none\n}", 1000+n)}
		},
		func(int) edition {
			return edition{lines: lines, sites: "http://" + freeport.Addr(t) + " {\nrespond hello\n}"}
		},
		func(n int) edition {
			return edition{lines: lines, global: fmt.Sprintf("log {\noutput file %s%d\nlevel %s\nformat %s\n}", logs, n/6%2, []string{"DEBUG", "ERROR"}[n/6%2], []string{"json", "console"}[n/6%2])}
		},
		func(n int) edition {
			return edition{lines: fmt.Sprintf("max_frame %dKiB\nping_interval %ds", 32+n, 4+n%3)}
		},
		func(n int) edition {
			return edition{lines: lines, beside: fmt.Sprintf("rooms /ws%d {\nuser {http.request.uri.query.user}\nredis {$REDIS}\n}\nrooms /other%d other {\nanonymous\n}", n, n)}
		},
	}
	w := c.gather(pace)
	visits := c.visitors()
	var windows []time.Time // beginnings of what is no reload and what is one, in turns
	before, links := make([]footprint, len(c.nodes)), 0
	for n := range reloads {
		// Every other one takes the change before back.
		e := edition{lines: lines}
		if n%2 == 0 {
			e = changes[n/2%len(changes)](n / 2)
		}
		windows = append(windows, time.Now())
		<-time.After(pause)
		windows = append(windows, time.Now())
		for i := range c.nodes {
			c.reload(i, e)
		}
		if n == 3 {
			for i := range before {
				before[i] = c.footprint(i)
			}
			links = c.links()
		}
	}
	windows = append(windows, time.Now())
	if n := visits.stop(t); n > 0 {
		t.Errorf("%d visitors were told to come later", n)
	}
	w.hush()
	c.talk()
	c.flat(before, links)
	w.disperse()
	if n := w.stays(); n != len(w.guests) {
		t.Errorf("%d guests were on %d connections", len(w.guests), n)
	}
	w.undisturbed()
	w.verify()
	judgeDelays(t, w, windows)
	for i := range 2 {
		if b, err := os.ReadFile(fmt.Sprint(logs, i)); err != nil || strings.Contains(string(b), "panic") {
			t.Errorf("log %d: %v\n%.10000s", i, err, b)
		}
	}
	c.finish()
}

// judgeDelays compares the messages that were said during reloads with those in between.
func judgeDelays(t testing.TB, w *crowd, windows []time.Time) {
	t.Helper()
	delays := w.delays(func(said time.Time) int {
		at, _ := slices.BinarySearchFunc(windows, said, time.Time.Compare)
		return min(at-1, len(windows)-2)
	}, len(windows)-1)
	var quiet, busy []time.Duration // the 99th percentiles of the windows
	for i, d := range delays {
		if len(d) < 10 {
			continue
		}
		slices.Sort(d)
		p99 := d[len(d)*99/100]
		if i%2 == 0 {
			quiet = append(quiet, p99)
		} else {
			busy = append(busy, p99)
		}
	}
	if len(quiet) == 0 || len(busy) == 0 {
		t.Error("too little was said")
		return
	}
	slices.Sort(quiet)
	slices.Sort(busy)
	q, b := quiet[len(quiet)/2], busy[len(busy)/2]
	t.Logf("figure: 99 %% of the messages took at most %s during a reload, %s otherwise (medians of %d and %d windows)", b, q, len(busy), len(quiet))
	if full && b > 3*q {
		t.Errorf("messages took %s during a reload, and %s otherwise", b, q)
	}
}

// visitors come and go all the time.
type visitors struct {
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex
	came     int
	cut      int // whose connection ended before it was answered
	later    int // who were told to come later
	problems map[string]int
}

func (c *cluster) visitors() *visitors {
	ctx, cancel := context.WithCancel(c.Context())
	v := &visitors{cancel: cancel, problems: map[string]int{}}
	for i, node := range c.nodes {
		v.running.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				err := visit(ctx, node, fmt.Sprintf("visitor%d-%d", i, n))
				v.mu.Lock()
				switch {
				case err == nil:
					v.came++
				case droppedByListener(err):
					v.cut++
				case err != nil && strings.Contains(err.Error(), "got 503"):
					v.later++
				case ctx.Err() == nil:
					v.problems[err.Error()]++
				}
				v.mu.Unlock()
			}
		})
	}
	return v
}

// droppedByListener tells whether a client has stood in the queue of a listener that a reload has closed: Caddy opens its listeners anew.
func droppedByListener(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
}

// stop fails the trial when one did not get in. It returns how many were told to come later.
func (v *visitors) stop(t testing.TB) (later int) {
	t.Helper()
	v.cancel()
	v.running.Wait()
	for problem, n := range v.problems {
		t.Errorf("%d visitors: %s", n, problem)
	}
	t.Logf("figure: %d visitors came and went meanwhile, %d were dropped with a listener, %d told to come later", v.came, v.cut, v.later)
	return v.later
}

// TestReloadBindsOpenSockets holds connections that are open to the limits and rules of a new configuration.
func TestReloadBindsOpenSockets(t *testing.T) {
	t.Parallel()
	const (
		auto = "auto_join auto\nroom auto {\npresence none\n%s\n}\n%s\nroom * {\n}"
		// The witness is told everything, by a handler whose rules stay.
		witness = "rooms /witness {\nuser {http.request.uri.query.user}\nanonymous\nredis {$REDIS}\n}"
	)
	c := start(t, size(0, 0), options{lines: fmt.Sprintf(auto, "", "")})
	reload := func(ofAuto, rules string, nodes ...int) {
		for _, node := range nodes {
			c.reload(node, edition{lines: fmt.Sprintf(auto, ofAuto, rules), beside: witness})
		}
	}
	reload("", "", 0, 1)
	dial := func(node int, user string) *roomstest.Client {
		cl := roomstest.Dial(t, c.nodes[node].URL("/ws?user="+user), nil)
		if ack := cl.Next("ack"); ack["room"] != "auto" {
			t.Errorf("%s: %v", user, ack)
		}
		return cl
	}
	publish := func(cl *roomstest.Client, room string) { cl.Send(`{"type":"publish","id":1,"room":%q}`, room) }
	ann, bob := dial(0, "ann"), dial(1, "bob")
	for _, room := range []string{"lobby", "closing", "watched"} {
		ann.Join(room)
		bob.Join(room)
		ann.Next("presence")
	}

	reload("", "limit once {\non publish\nevents 1\nwindow 1h\n}", 0, 1)
	publish(ann, "lobby")
	ann.Next("ack")
	bob.Next("message")
	publish(ann, "lobby")
	ann.Refused("rate_limited")

	const closed = "room closing {\njoin none\n}"
	expelled := func(cl *roomstest.Client) {
		t.Helper()
		if left := cl.Next("left"); left["room"] != "closing" || left["reason"] != "forbidden" {
			t.Errorf("left = %v", left)
		}
	}
	reload("", closed, 0)
	expelled(ann)
	if events := bob.Events(); !slices.Equal(events, []string{"leave ann kicked"}) {
		t.Errorf("bob was told %q", events)
	}
	publish(ann, "closing")
	ann.Refused("not_joined")
	reload("", closed, 1)
	expelled(bob)
	// Where the server has put them they stay, also when nobody may go there.
	reload("join none", "", 0, 1)
	publish(bob, "auto")
	bob.Next("ack")
	ann.Next("message")

	see := roomstest.Dial(t, c.nodes[0].URL("/witness?user=see"), nil)
	see.Join("watched")
	for _, cl := range []*roomstest.Client{ann, bob} {
		cl.Next("presence")
	}
	watched := func(presence string) string { return "room watched {\npresence " + presence + "\n}" }
	reload("", watched("count"), 0, 1)
	dial(1, "carl").Join("watched")
	see.Next("presence")
	for _, cl := range []*roomstest.Client{ann, bob} {
		if f := cl.Next("presence"); f["count"] != 4.0 || len(f["events"].([]any)) > 0 {
			t.Errorf("with the presence of a count, %s was told %v", cl.User, f)
		}
	}
	reload("", watched("none"), 0, 1)
	dial(1, "dave").Join("watched")
	if events := see.Events(); !slices.Equal(events, []string{"join dave"}) {
		t.Errorf("the witness was told %q", events)
	}
	ann.Quiet()
	reload("", watched("full"), 0, 1)
	dial(1, "eve").Join("watched")
	// Those who came and went meanwhile were not told, so names go on from a list that is read anew.
	if events := ann.Events(); len(events) > 0 {
		t.Errorf("before she has read the list again, ann was told %q", events)
	}
	if gap := ann.Next("gap"); gap["room"] != "watched" || gap["reason"] != "presence" {
		t.Errorf("gap = %v", gap)
	}
	ann.Send(`{"type":"members","id":2,"room":"watched","cursor":""}`)
	ann.Next("ack")
	dial(1, "fred").Join("watched")
	if events := ann.Events(); !slices.Equal(events, []string{"join fred"}) {
		t.Errorf("with full presence again, ann was told %q", events)
	}
}
