package faults

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// cluster is some instances on one Redis, and the clients that are connected to them. It belongs to the goroutine of its test; clients are
// guarded by mu.
type cluster struct {
	testing.TB
	scale
	redis *redistest.Server
	store *redis.Client
	base  string // what every key of the hub begins with
	nodes []*caddytest.Caddy
	idle  []int // goroutines of each instance without clients

	mu      sync.Mutex
	clients []*client // those that are open
}

// options are what a trial changes of a cluster.
type options struct {
	nodes   int               // default 2
	program string            // default: the one that is tested
	lines   string            // further lines of the rooms block
	archive string            // the presence database; default: none
	global  string            // global options of Caddy
	redis   *redistest.Server // default: a new one
	url     func(node int) string
}

// start runs a cluster without clients.
func start(t testing.TB, s scale, o options) *cluster {
	t.Helper()
	c := &cluster{TB: t, scale: s, redis: o.redis, base: base}
	if o.nodes == 0 {
		o.nodes = 2
	}
	if o.program == "" {
		o.program = caddytest.Binary(t)
	}
	if c.redis == nil {
		c.redis = redistest.Start(t)
	}
	if o.url == nil {
		o.url = func(int) string { return c.redis.URL() }
	}
	c.store = c.redis.Client()
	c.nodes = make([]*caddytest.Caddy, o.nodes)
	for i := range c.nodes {
		c.nodes[i] = caddytest.StartProgram(t, o.program, c.config(edition{lines: o.lines, archive: o.archive, global: o.global}), "REDIS="+o.url(i))
		c.nodes[i].WaitLog("presence is shared")
	}
	// What the first connection makes grow is not the others'.
	for i := range c.nodes {
		warm := c.join(i, "warm", "warm")
		c.part(warm, func(cl *client) { cl.leave(1000) })
	}
	c.settled(c.check)
	for i := range c.nodes {
		c.idle = append(c.idle, c.goroutines(i))
	}
	return c
}

// edition is what one configuration of an instance says differently from another.
type edition struct {
	global  string // global options of Caddy
	redis   string // the redis block without its word; default: the Redis of the trial
	archive string // the presence database; default: none
	lines   string // further lines of the rooms block
	beside  string // further lines of the site
	sites   string // further sites
	absent  bool   // no rooms block
}

// config names users by the query. At full scale all times are the defaults.
func (c *cluster) config(e edition) string {
	var lines []string
	if c.ttl != defaultTTL {
		lines = append(lines, fmt.Sprintf("grace %s\nttl %s\n", c.grace, c.ttl))
	}
	if e.archive != "" {
		lines = append(lines, fmt.Sprintf("database %q\n", e.archive))
	}
	presence := ""
	if len(lines) > 0 {
		presence = "presence {\n" + strings.Join(lines, "") + "}"
	}
	rooms := fmt.Sprintf("rooms /ws {\nuser {http.request.uri.query.user}\nno_default_limits\nredis %s\n%s\n%s\n}",
		cmp.Or(e.redis, "{$REDIS}"), presence, e.lines)
	if e.absent {
		rooms = ""
	}
	return fmt.Sprintf("{\n%s\n}\n:{$PORT} {\n%s\n%s\n}\n%s\n", e.global, rooms, e.beside, e.sites)
}

// reload makes an edition the configuration of an instance.
func (c *cluster) reload(node int, e edition) {
	c.Helper()
	if status, answer := c.nodes[node].Reload(c.config(e)); status != http.StatusOK {
		c.Fatalf("reload: %d %s", status, answer)
	}
}

// context bounds a request.
func (c *cluster) context() (context.Context, context.CancelFunc) { return c.contextFor(c.patience) }

func (c *cluster) contextFor(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

// join connects a client to an instance and has it join a room.
func (c *cluster) join(node int, user, room string) *client {
	c.Helper()
	cl, err := c.tryJoin(node, user, room)
	if err != nil {
		c.Fatal(err)
	}
	return cl
}

// tryJoin is join from any goroutine.
func (c *cluster) tryJoin(node int, user, room string) (*client, error) {
	return c.tryJoinFor(c.patience, node, user, room)
}

func (c *cluster) tryJoinFor(d time.Duration, node int, user, room string) (*client, error) {
	ctx, cancel := c.contextFor(d)
	defer cancel()
	cl, err := dial(ctx, c.nodes[node], c.nodes[node].Addr, user, room)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.clients = append(c.clients, cl)
	c.mu.Unlock()
	return cl, nil
}

// part ends a client's connection, as end does it.
func (c *cluster) part(cl *client, end func(*client)) {
	c.mu.Lock()
	c.clients = slices.DeleteFunc(c.clients, func(o *client) bool { return o == cl })
	c.mu.Unlock()
	end(cl)
}

// fill connects the clients of the scale: user i, in room i modulo rooms, so that every room has members on every instance.
func (c *cluster) fill() {
	c.Helper()
	each(c.scale.clients, func(i int) {
		if _, err := c.tryJoin(i/c.rooms%len(c.nodes), user(i), room(i%c.rooms)); err != nil {
			c.Error(err)
		}
	})
	if c.Failed() {
		c.FailNow()
	}
	c.settled(c.check)
	for _, cl := range c.all() {
		cl.told()
	}
}

func user(i int) string { return "user" + strconv.Itoa(i) }
func room(i int) string { return "room" + strconv.Itoa(i) }

// all returns the clients that are open.
func (c *cluster) all() []*client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.clients)
}

// on returns the open clients of an instance.
func (c *cluster) on(node int) []*client {
	return slices.DeleteFunc(c.all(), func(cl *client) bool { return cl.node != c.nodes[node] })
}

// kill ends an instance with SIGKILL, and with it its clients, which are returned.
func (c *cluster) kill(node int) []*client {
	lost := c.on(node)
	c.nodes[node].Kill()
	for _, cl := range lost {
		c.part(cl, func(cl *client) { <-cl.ended })
	}
	return lost
}

// settled waits until check finds nothing, and returns for how long it did.
func (c *cluster) settled(check func() error) time.Duration {
	c.Helper()
	began := time.Now()
	for {
		now := time.Since(began)
		err := check()
		if err == nil {
			return now
		}
		if now > c.patience {
			c.Fatalf("after %s: %v", now.Round(time.Second), err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// expect fails the trial unless each client was told of exactly these joins and leaves since the last time, in any order, and has nothing to
// complain of.
func (c *cluster) expect(events func(cl *client) []string) {
	c.Helper()
	wrong := 0
	for _, cl := range c.all() {
		var got []string
		for _, e := range cl.told() {
			if e.op != "update" {
				got = append(got, e.String())
			}
		}
		want := events(cl)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			if wrong++; wrong < 10 {
				c.Errorf("%s in %s was told %q, want %q", cl.user, cl.room, got, want)
			}
		}
	}
	if wrong > 0 {
		c.Errorf("%d of %d clients were told something wrong", wrong, len(c.all()))
	}
	c.contented()
}

// nothing is the expectation of no event.
func nothing(*client) []string { return nil }

// contented fails the trial when a client has a complaint.
func (c *cluster) contented() {
	c.Helper()
	for _, cl := range c.all() {
		cl.mu.Lock()
		for _, complaint := range cl.complaints {
			c.Error(complaint)
		}
		cl.complaints = nil
		cl.mu.Unlock()
	}
}

// finish ends all clients and expects that nothing is left of them in Redis or in the instances but what was there before.
func (c *cluster) finish() {
	c.Helper()
	c.contented()
	clients := c.all()
	each(len(clients), func(i int) { c.part(clients[i], func(cl *client) { cl.leave(1000) }) })
	c.settled(c.check)
	c.settled(func() error {
		for i := range c.nodes {
			if !c.nodes[i].Running() {
				continue
			}
			// A few of Caddy's own, of the last requests, come and go.
			if n := c.goroutines(i); n > c.idle[i]+10 {
				return fmt.Errorf("instance %d has %d goroutines without a client, and had %d", i, n, c.idle[i])
			}
		}
		return nil
	})
}

// told returns an error until each of the clients was told that those of gone in its room have left.
func told(clients, gone []*client) error {
	want := map[string]int{}
	for _, cl := range gone {
		want[cl.room]++
	}
	for _, cl := range clients {
		cl.mu.Lock()
		got := 0
		for _, e := range cl.events {
			if e.op == "leave" {
				got++
			}
		}
		cl.mu.Unlock()
		if got < want[cl.room] {
			return fmt.Errorf("%s in %s was told %d times of a leave, want %d", cl.user, cl.room, got, want[cl.room])
		}
	}
	return nil
}
