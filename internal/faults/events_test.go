package faults

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
)

// listener is another program, which hears the events of all instances and believes nothing else. It keeps what can't be.
type listener struct {
	pubsub *redis.PubSub
	ended  chan struct{}

	mu       sync.Mutex
	online   map[string]bool
	rooms    map[string]map[string]bool // users; rooms that are not occupied are not there
	pseq     map[string]uint64
	counts   map[string]int // how often each message and each status was told
	changes  int
	problems []string
}

func (c *cluster) listen() *listener {
	c.Helper()
	p := &listener{
		ended: make(chan struct{}), online: map[string]bool{}, rooms: map[string]map[string]bool{}, pseq: map[string]uint64{}, counts: map[string]int{},
	}
	p.pubsub = c.store.Subscribe(c.Context(), "rooms:presence:update", "rooms:user:status", "rooms:room:event", "rooms:message:event")
	for range 4 {
		if _, err := p.pubsub.Receive(c.Context()); err != nil {
			c.Fatal(err)
		}
	}
	channel := p.pubsub.Channel(redis.WithChannelSize(1 << 20))
	go func() {
		defer close(p.ended)
		for m := range channel {
			p.take(strings.TrimPrefix(m.Channel, "rooms:"), m.Payload)
		}
	}()
	c.Cleanup(func() { _ = p.pubsub.Close(); <-p.ended })
	return p
}

// take believes an event: each change once, in the order of its room.
func (p *listener) take(channel, payload string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var e struct {
		Version                               int
		Type, Event, Node, User, Room, Status string
		Data                                  json.RawMessage
		Count                                 int
		PSeq                                  uint64
	}
	err := json.Unmarshal([]byte(payload), &e)
	in := p.rooms[e.Room]
	right := err == nil && e.Version == 1 && e.Node != ""
	if channel == "room:event" {
		right = right && e.PSeq >= p.pseq[e.Room]
		p.pseq[e.Room] = e.PSeq
	}
	if channel == "message:event" {
		e.Event = e.Type // its own is what the sender calls it
	}
	switch channel + " " + e.Event {
	case "presence:update online":
		right = right && !p.online[e.User]
		p.online[e.User] = true
	case "presence:update offline":
		right = right && p.online[e.User]
		delete(p.online, e.User)
	case "room:event occupied":
		right = right && in == nil
		p.rooms[e.Room] = map[string]bool{}
	case "room:event join":
		right = right && in != nil && !in[e.User] && e.Count == len(in)+1
		if in != nil {
			in[e.User] = true
		}
	case "room:event leave":
		right = right && in[e.User] && e.Count == len(in)-1
		delete(in, e.User)
	case "room:event vacated":
		right = right && in != nil && len(in) == 0
		delete(p.rooms, e.Room)
	case "user:status status":
		p.counts[e.User+" is "+e.Status]++
	case "message:event message":
		p.counts["message "+string(e.Data)]++
	default:
		right = false
	}
	p.changes++
	if !right {
		p.problems = append(p.problems, fmt.Sprintf("told %s on %s, with %v in the room: %v", payload, channel, slices.Sorted(maps.Keys(in)), err))
	}
}

// knows returns how what the program believes differs from the truth.
func (p *listener) knows(c *cluster) error {
	want := c.truth()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.problems) > 0 {
		c.Fatalf("%d problems, the first: %s", len(p.problems), p.problems[0])
	}
	if got, all := slices.Sorted(maps.Keys(p.online)), slices.Sorted(maps.Keys(want.all)); !slices.Equal(got, all) {
		return fmt.Errorf("by what a program was told of who is online, %s", differ(got, all))
	}
	if got, all := slices.Sorted(maps.Keys(p.rooms)), slices.Sorted(maps.Keys(want.users)); !slices.Equal(got, all) {
		return fmt.Errorf("by what a program was told of occupied rooms, %s", differ(got, all))
	}
	for room, users := range want.users {
		if got, all := slices.Sorted(maps.Keys(p.rooms[room])), slices.Sorted(maps.Keys(users)); !slices.Equal(got, all) {
			return fmt.Errorf("by what a program was told of %s, %s", room, differ(got, all))
		}
	}
	return nil
}

// once returns an error until each of these was told, and fails the trial when one was told twice.
func (p *listener) once(c *cluster, what []string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range what {
		if n := p.counts[w]; n > 1 {
			c.Fatalf("a program was told %d times: %s", n, w)
		} else if n == 0 {
			return fmt.Errorf("a program was not told: %s", w)
		}
	}
	return nil
}

// TestEvents has another program listen to three instances whose clients come, go, talk and set their status, while one is killed.
func TestEvents(t *testing.T) {
	t.Parallel()
	s := size(600, 30)
	c := start(t, s, options{nodes: 3, lines: "events presence user room message"})
	p := c.listen()
	c.fill()
	c.settled(func() error { return p.knows(c) })

	// What is said and set is told once, whoever has it.
	var mu sync.Mutex
	var told []string
	speak := func() {
		c.Helper()
		for text := range c.say() {
			told = append(told, fmt.Sprintf("message %q", text))
		}
		clients := c.all()
		each(len(clients)/3, func(i int) {
			ctx, cancel := c.context()
			defer cancel()
			status := fmt.Sprint("s", words.Add(1))
			if _, err := clients[3*i].ask(ctx, "status", fmt.Sprintf(`"status":%q`, status)); err != nil {
				c.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			told = append(told, clients[3*i].user+" is "+status)
		})
	}
	churn := func() {
		c.Helper()
		clients := c.all()
		rand.Shuffle(len(clients), func(i, k int) { clients[i], clients[k] = clients[k], clients[i] })
		each(len(clients)/2, func(i int) {
			cl := clients[i]
			c.part(cl, func(cl *client) { cl.leave(1000) })
			for node := range c.nodes {
				if c.nodes[node].Running() && rand.N(2) == 0 {
					if _, err := c.tryJoin(node, cl.user, cl.room); err != nil {
						c.Error(err)
					}
				}
			}
		})
	}
	speak()
	churn()
	c.settled(c.check)
	c.settled(func() error { return p.knows(c) })

	c.kill(0)
	churn()
	speak()
	c.settled(c.check)
	c.settled(func() error { return p.knows(c) })
	c.settled(func() error { return p.once(c, told) })

	c.finish()
	c.settled(func() error { return p.knows(c) })
	if err := p.once(c, told); err != nil {
		t.Error(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for what, n := range p.counts {
		if n != 1 {
			t.Errorf("told %d times: %s", n, what)
		}
	}
	t.Logf("figure: %d events, %d of them messages and statuses", p.changes, len(p.counts))
}
