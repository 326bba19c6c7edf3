package faults

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// monitor sees every command that Redis runs, with Redis's own time.
type monitor struct {
	conn  net.Conn
	ended chan struct{}

	mu       sync.Mutex
	accepted []time.Duration // when a limit let something pass, by the clock of Redis
	checks   int
}

// watch begins to watch what Redis does with limits.
func (c *cluster) watch() *monitor {
	c.Helper()
	conn, err := net.Dial("tcp", c.redis.Addr)
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { conn.Close() })
	if _, err := conn.Write([]byte("MONITOR\r\n")); err != nil {
		c.Fatal(err)
	}
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, 1<<20)
	if !lines.Scan() || lines.Text() != "+OK" {
		c.Fatalf("Redis answers %q to MONITOR", lines.Text())
	}
	m := &monitor{conn: conn, ended: make(chan struct{})}
	go func() {
		defer close(m.ended)
		for lines.Scan() {
			m.take(lines.Text())
		}
	}()
	return m
}

// take reads a line like +1339518083.107412 [0 lua] "SET" "rooms:{default}:rl:…". The scripts of limits write when, and only when,
// something may pass.
func (m *monitor) take(line string) {
	if !strings.Contains(line, `"`+base+":rl:") {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	head, command, _ := strings.Cut(line, "] ")
	command = strings.ToUpper(command)
	switch {
	case strings.HasPrefix(command, `"EVALSHA"`):
		m.checks++
	case strings.HasPrefix(command, `"SET"`), strings.HasPrefix(command, `"ZADD"`):
		stamp, _, _ := strings.Cut(strings.TrimPrefix(head, "+"), " ")
		seconds, micros, _ := strings.Cut(stamp, ".")
		s, err1 := strconv.ParseInt(seconds, 10, 64)
		us, err2 := strconv.ParseInt(micros, 10, 64)
		if err := errors.Join(err1, err2); err == nil {
			m.accepted = append(m.accepted, time.Duration(s)*time.Second+time.Duration(us)*time.Microsecond)
		}
	}
}

func (m *monitor) stop() {
	m.conn.Close()
	<-m.ended
}

// verdict tells what is wrong with a limit of so many events in a second, of which accepted came through in the time of a run under
// overload. decided are the same by the clock of Redis. burst is how much more than events the algorithm may let through in a second.
func verdict(events, burst int, run time.Duration, accepted int, decided []time.Duration) error {
	if most := burst + int(float64(events)*(run.Seconds()+1)); accepted > most {
		return fmt.Errorf("%d were accepted in %s, allowed are %d", accepted, run, most)
	}
	// A command is stamped after its script has looked at the clock, and Redis may have to wait for a processor in between.
	const window = time.Second - 20*time.Millisecond
	first := 0
	for i, at := range decided {
		for at-decided[first] > window {
			first++
		}
		if n := i - first + 1; n > events+burst {
			return fmt.Errorf("%d were accepted within a second, allowed are %d", n, events+burst)
		}
	}
	share := 0.9
	if !full {
		share = 0.7 // a busy machine asks less often
	}
	if least := int(share * float64(events) * run.Seconds()); accepted < least {
		return fmt.Errorf("%d were accepted in %s, at least %d should be", accepted, run, least)
	}
	return nil
}

// hammer has six connections of one user on three instances send a hundred messages a second, which is as much as none of them is closed for,
// and returns the verdict on a limit of so many events a second.
func hammer(t *testing.T, limit string, events, burst int) error {
	s := size(0, 0)
	run := 8 * time.Second
	if full {
		run = time.Minute
	}
	c := start(t, s, options{nodes: 3, lines: limit})
	watcher := c.join(0, "watcher", "lobby")
	var senders []*client
	for i := range 6 {
		senders = append(senders, c.join(i%3, "user", "lobby"))
	}
	monitor := c.watch()
	began := time.Now()
	var wg sync.WaitGroup
	for _, cl := range senders {
		wg.Go(func() {
			every := time.NewTicker(60 * time.Millisecond)
			defer every.Stop()
			for time.Since(began) < run {
				<-every.C
				if err := cl.ws.Write(t.Context(), websocket.MessageText, []byte(`{"type":"publish","room":"lobby"}`)); err != nil {
					t.Errorf("sending: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	for _, cl := range senders { // all that was sent before is decided by now
		ctx, cancel := c.context()
		if _, err := cl.ask(ctx, "heartbeat", `"x":0`); err != nil {
			t.Error(err)
		}
		cancel()
	}
	monitor.stop()
	if len(monitor.accepted) > 0 {
		c.settled(func() error {
			watcher.mu.Lock()
			defer watcher.mu.Unlock()
			if len(watcher.messages) != len(monitor.accepted) {
				return fmt.Errorf("%d messages arrived, %d were accepted", len(watcher.messages), len(monitor.accepted))
			}
			return nil
		})
	}
	watcher.mu.Lock()
	accepted := len(watcher.messages)
	watcher.mu.Unlock()
	t.Logf("figure: %d of %.0f allowed were accepted in %.1f s: %.1f %%", accepted, float64(events)*took.Seconds(), took.Seconds(),
		100*float64(accepted)/(float64(events)*took.Seconds()))
	err := verdict(events, burst, took, accepted, monitor.accepted)
	c.finish()
	return err
}

// TestLimitOfTheCluster hammers one user's limit from three instances: it is never passed in any second, and nearly all of it is reached.
func TestLimitOfTheCluster(t *testing.T) {
	const limit = "limit chat {\non publish\nkey {rooms.user}\nevents %d\nwindow %ds\nalgorithm %s\nscope %s\n}"
	for _, test := range []struct {
		name          string
		limit         string
		events, burst int
		wrong         bool
	}{
		{"sliding_counter", fmt.Sprintf(limit, 20, 1, "sliding_counter", "cluster"), 20, 0, false},
		{"sliding_log", fmt.Sprintf(limit, 20, 1, "sliding_log", "cluster"), 20, 0, false},
		{"gcra", fmt.Sprintf(limit, 20, 1, "gcra", "cluster"), 20, 20, false},
		{"wrong: one a second with a burst of twenty", fmt.Sprintf(limit, 20, 20, "gcra", "cluster"), 20, 20, true},
		{"wrong: each instance counts for itself", fmt.Sprintf(limit, 20, 1, "sliding_counter", "instance"), 20, 0, true},
		{"wrong: twice the limit", fmt.Sprintf(limit, 40, 1, "sliding_counter", "cluster"), 20, 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			switch err := hammer(t, test.limit, test.events, test.burst); {
			case test.wrong && err == nil:
				t.Error("a wrong limiter passes")
			case test.wrong:
				t.Logf("as it should, it fails: %v", err)
			case err != nil:
				t.Error(err)
			}
		})
	}
}

// TestFloodIsCheap floods at ten times a limit of the cluster: Redis is asked about few of the messages.
func TestFloodIsCheap(t *testing.T) {
	c := start(t, size(0, 0), options{lines: "limit chat {\non publish\nkey {rooms.user}\nevents 10\nwindow 1s\n}"})
	cl := c.join(0, "user", "lobby")
	monitor := c.watch()
	const messages = 500
	every := time.NewTicker(10 * time.Millisecond)
	defer every.Stop()
	for range messages {
		<-every.C
		if err := cl.ws.Write(t.Context(), websocket.MessageText, []byte(`{"type":"publish","room":"lobby"}`)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := c.context()
	defer cancel()
	if _, err := cl.ask(ctx, "heartbeat", `"x":0`); err != nil {
		t.Fatal(err)
	}
	monitor.stop()
	share := float64(monitor.checks) / messages
	t.Logf("figure: %.3f calls of Redis a message, at ten times the limit", share)
	if share > 0.15 {
		t.Errorf("%.3f calls of Redis a message, allowed are 0.15", share)
	}
	c.finish()
}

// TestLimitsWithoutRedis stalls Redis: no message waits for a check beyond its deadline, and each limit does what it says.
func TestLimitsWithoutRedis(t *testing.T) {
	for _, test := range []struct {
		outage string
		passed int    // of ten
		code   string // of the refusal
	}{
		{"local", 5, "rate_limited"},
		{"allow", 10, ""},
		{"deny", 0, "unavailable"},
	} {
		t.Run(test.outage, func(t *testing.T) {
			c := start(t, size(0, 0), options{nodes: 1, lines: "limit chat {\non publish\nkey {rooms.user}\nevents 5\nwindow 1h\non_outage " + test.outage + "\n}"})
			speaker, hearer := c.join(0, "speaker", "lobby"), c.join(0, "hearer", "lobby")
			c.redis.Stall()
			var slowest time.Duration
			for range 10 {
				began := time.Now()
				// Requests of one client are done in order, so that the pong comes when the check is over.
				if err := speaker.ws.Write(t.Context(), websocket.MessageText, []byte(`{"type":"publish","room":"lobby"}`)); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := c.context()
				if _, err := speaker.ask(ctx, "ping", `"x":0`); err != nil {
					t.Fatal(err)
				}
				cancel()
				slowest = max(slowest, time.Since(began))
			}
			within(t, "slowest check without an answer from Redis", slowest, 100*time.Millisecond)
			if slowest > time.Second {
				t.Errorf("a check took %s, its deadline is 50 ms", slowest)
			}
			c.settled(func() error {
				hearer.mu.Lock()
				defer hearer.mu.Unlock()
				if n := len(hearer.messages); n != test.passed {
					return fmt.Errorf("%d messages of 10 passed, want %d", n, test.passed)
				}
				return nil
			})
			speaker.mu.Lock()
			refused := fmt.Sprint(speaker.refused)
			speaker.mu.Unlock()
			if test.code == "" && refused != "[]" || !strings.Contains(refused, test.code) {
				t.Errorf("refused with %s, want %q", refused, test.code)
			}
			c.redis.Resume()
			c.settled(c.check)
			c.finish()
		})
	}
}

// TestFlooderIsClosed lets a client send on regardless: errors come at most once a second and count those not sent, and twenty times the limit
// closes it.
func TestFlooderIsClosed(t *testing.T) {
	c := start(t, size(0, 0), options{nodes: 1, lines: "limit chat {\non publish\nkey {rooms.user}\nevents 10\nwindow 1m\n}"})
	cl := c.join(0, "flooder", "lobby")
	send := func(n int) {
		for range n {
			if err := cl.ws.Write(t.Context(), websocket.MessageText, []byte(`{"type":"publish","room":"lobby"}`)); err != nil {
				t.Fatal(err)
			}
		}
	}
	began := time.Now()
	send(110)
	c.settled(func() error {
		if time.Since(began) < 1100*time.Millisecond {
			return errors.New("it is too early for a second error")
		}
		return nil
	})
	send(1)
	c.settled(func() error {
		cl.mu.Lock()
		defer cl.mu.Unlock()
		if len(cl.refused) < 2 {
			return fmt.Errorf("refused with %v", cl.refused)
		}
		return nil
	})
	cl.mu.Lock()
	refused := cl.refused
	cl.mu.Unlock()
	if allowed := 1 + int(time.Since(began)/time.Second); len(refused) > allowed {
		t.Errorf("%d errors in %s", len(refused), time.Since(began))
	}
	told := len(refused)
	for _, r := range refused {
		told += r.Suppressed
	}
	if told != 101 {
		t.Errorf("errors %v speak of %d messages, want 101", refused, told)
	}
	send(99)
	c.part(cl, func(cl *client) { <-cl.ended })
	if cl.bye == nil || fmt.Sprint(cl.bye.Code) != "4100" || cl.bye.ReconnectIn <= 0 {
		t.Errorf("closed with %v", cl.bye)
	}
	c.settled(c.check)
	c.finish()
}
