package faults

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// stopTimeout is what systemd leaves a Caddy to stop, by the unit file of its packages.
const stopTimeout = 5 * time.Second

// drain is the drain of a trial: the default at full scale.
func (s scale) drain() time.Duration {
	if full {
		return 4 * time.Second
	}
	return time.Second
}

// TestStop stops one of two instances in each way there is, with traffic on both: its clients are sent away one after the other and are back
// elsewhere without having been away, and nothing is left of it.
func TestStop(t *testing.T) {
	for _, test := range []struct {
		name string
		stop func(t *testing.T, node *caddytest.Caddy)
	}{
		{"SIGTERM", func(_ *testing.T, node *caddytest.Caddy) { node.Signal(syscall.SIGTERM) }},
		{"caddy stop", func(t *testing.T, node *caddytest.Caddy) {
			if code, output := node.Command("stop"); code != 0 {
				t.Errorf("caddy stop: %d %s", code, output)
			}
		}},
		{"POST stop", func(t *testing.T, node *caddytest.Caddy) {
			resp, err := http.Post("http://"+node.Admin+"/stop", "", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if b, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
				t.Errorf("POST /stop: %d %s", resp.StatusCode, b)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			alone(t)
			s := returning(2000, 200)
			// The listeners stay open for a while, so that one can see what they answer.
			c := start(t, s, options{global: fmt.Sprintf("shutdown_delay %s", s.drain()/2), lines: fmt.Sprintf("drain %s", s.drain())})
			w := c.gather(200 * time.Millisecond)
			sent := c.on(0)
			late := c.comeLate(0)
			began := time.Now()
			test.stop(t, c.nodes[0])
			if code := c.nodes[0].Ended(); code != 0 {
				t.Errorf("the process ended with %d", code)
			}
			within(t, "ended after it was asked to", time.Since(began), stopTimeout)
			late.verify(t)
			w.back()
			w.converse()
			judgeSpread(t, sent, s.drain())
			c.settled(c.check)
			w.hush()
			c.talk()
			w.disperse()
			if n := w.stays(); n != len(w.guests)+len(sent) {
				t.Errorf("%d guests, of whom %d were sent away, were on %d connections", len(w.guests), len(sent), n)
			}
			w.undisturbed()
			w.verify()
			c.finish()
		})
	}
}

// judgeSpread fails the trial when most of the clients were sent away at once.
func judgeSpread(t *testing.T, sent []*client, drain time.Duration) {
	t.Helper()
	first := time.Now()
	for _, cl := range sent {
		if cl.byeAt.Before(first) {
			first = cl.byeAt
		}
	}
	quarters := [4]int{}
	for _, cl := range sent {
		quarters[min(int(cl.byeAt.Sub(first)*4/drain), 3)]++
	}
	t.Logf("figure: of %d clients sent away in the quarters of %s: %d", len(sent), drain, quarters)
	for _, n := range quarters {
		if n > len(sent)*2/3 {
			t.Errorf("of %d clients sent away in the quarters of %s: %d", len(sent), drain, quarters)
		}
	}
}

// latecomers try to come in all the time, while an instance is stopping.
type latecomers struct {
	ended   sync.WaitGroup
	refused int
	wrong   []string
}

// comeLate sends latecomers to an instance, from when it begins to refuse until it listens no more.
func (c *cluster) comeLate(node int) *latecomers {
	l := &latecomers{}
	url := c.nodes[node].URL("/ws?user=late")
	l.ended.Go(func() {
		for {
			ctx, cancel := c.context()
			ws, resp, err := websocket.Dial(ctx, url, nil)
			cancel()
			switch {
			case err == nil && l.refused > 0:
				l.wrong = append(l.wrong, "one was taken after others were refused")
				_ = ws.CloseNow()
			case err == nil:
				_ = ws.CloseNow()
				<-time.After(time.Millisecond)
			case resp == nil && l.refused > 0:
				return
			case resp == nil: // it does not listen any more, and has refused nobody
				l.wrong = append(l.wrong, err.Error())
				return
			default:
				l.refused++
				if wait, err := strconv.Atoi(resp.Header.Get("Retry-After")); resp.StatusCode != http.StatusServiceUnavailable || err != nil || wait < 1 {
					l.wrong = append(l.wrong, fmt.Sprintf("refused with %s, Retry-After %q", resp.Status, resp.Header.Get("Retry-After")))
				}
			}
		}
	})
	return l
}

func (l *latecomers) verify(t *testing.T) {
	t.Helper()
	l.ended.Wait()
	for i, wrong := range l.wrong {
		if i < 10 {
			t.Error(wrong)
		}
	}
	t.Logf("figure: %d newcomers were told to come later meanwhile", l.refused)
}

// TestStopWithoutRedis stops an instance whose Redis does not answer, or ends meanwhile: all clients are told, and it ends as soon.
func TestStopWithoutRedis(t *testing.T) {
	for _, test := range []struct {
		name          string
		before, while func(*redistest.Server)
	}{
		{"stalled", (*redistest.Server).Stall, nil},
		{"killed", (*redistest.Server).Kill, nil},
		{"stalled meanwhile", nil, (*redistest.Server).Stall},
		{"killed meanwhile", nil, (*redistest.Server).Kill},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := returning(1000, 100)
			// Hubs are closed together, not one after the other.
			second := fmt.Sprintf("rooms /second second {\nanonymous\nredis {$REDIS}\ndrain %s\n}", s.drain())
			c := start(t, s, options{nodes: 1, lines: fmt.Sprintf("drain %s\n", s.drain())})
			c.reload(0, edition{lines: fmt.Sprintf("drain %s\n", s.drain()), beside: second, global: fmt.Sprintf("shutdown_delay %s", s.drain()/4)})
			w := c.gather(200 * time.Millisecond)
			w.disperse()
			ws, _, err := websocket.Dial(context.Background(), c.nodes[0].URL("/second"), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer ws.CloseNow()
			if test.before != nil {
				test.before(c.redis)
			}
			began := time.Now()
			c.nodes[0].Signal(syscall.SIGTERM)
			if test.while != nil {
				c.settled(func() error {
					if w.unmoved() == len(w.guests) {
						return fmt.Errorf("nobody is sent away")
					}
					return nil
				})
				test.while(c.redis)
			}
			if code := c.nodes[0].Ended(); code != 0 {
				t.Errorf("the process ended with %d", code)
			}
			within(t, "ended after it was asked to", time.Since(began), stopTimeout)
			w.hush()
			for _, g := range w.guests {
				cl := g.last()
				<-cl.ended
				if _, err := cl.farewell(); err != nil {
					t.Errorf("%s: %v", g.user, err)
				}
			}
		})
	}
}

// TestStopLongDrain stops an instance over a longer time than a place is kept: nobody is told to come when it is too late.
func TestStopLongDrain(t *testing.T) {
	t.Parallel()
	s := returning(2000, 200)
	drain := 40 * time.Second
	if !full {
		s.grace, drain = 4*time.Second, 6*time.Second
	}
	c := start(t, s, options{lines: fmt.Sprintf("drain %s", drain)})
	w := c.gather(0)
	sent := c.on(0)
	c.nodes[0].Signal(syscall.SIGTERM)
	if code := c.nodes[0].Ended(); code != 0 {
		t.Errorf("the process ended with %d", code)
	}
	w.back()
	for _, cl := range sent {
		if in := time.Duration(cl.bye.ReconnectIn) * time.Millisecond; in > s.grace/2 {
			t.Errorf("%s was told to come in %s, with a grace of %s", cl.user, in, s.grace)
		}
	}
	c.settled(c.check)
	w.disperse()
	w.undisturbed()
	c.finish()
}

// TestStopWhileMoving stops an instance whose clients are being sent from an old hub to a new one: they are told, all the same.
func TestStopWhileMoving(t *testing.T) {
	t.Parallel()
	next := redistest.Start(t)
	s, drain := moving()
	for _, test := range []struct {
		name string
		edition
	}{
		{"another Redis", edition{redis: next.URL(), lines: drain}},
		{"no directive", edition{absent: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := start(t, s, options{nodes: 1, lines: drain})
			w := c.gather(0)
			w.disperse()
			c.reload(0, test.edition)
			c.nodes[0].Signal(syscall.SIGTERM)
			if code := c.nodes[0].Ended(); code != 0 {
				t.Errorf("the process ended with %d", code)
			}
			for _, g := range w.guests {
				cl := g.last()
				c.part(cl, func(cl *client) { <-cl.ended })
				if _, err := cl.farewell(); err != nil {
					t.Errorf("%s: %v", g.user, err)
				}
			}
			// Their places are kept for the grace, and then given up by whoever is there.
			c.nodes[0].Run()
			c.settled(c.check)
		})
	}
}
