package presence

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// pump subscribes for one store and hands it what comes, as the bus does.
type pump struct {
	t    testing.TB
	sub  *redis.PubSub
	to   *Redis
	stop chan struct{}
	done chan struct{}

	mu     sync.Mutex
	have   map[string]chan struct{} // closed when the channel is subscribed
	mute   bool                     // drop everything
	filter func(channel, payload string) bool
}

func newPump(t testing.TB, client *redis.Client, to *Redis) *pump {
	p := &pump{
		t: t, sub: client.Subscribe(context.Background()), to: to,
		stop: make(chan struct{}), done: make(chan struct{}), have: map[string]chan struct{}{},
	}
	go p.run()
	p.subscribe(to.UsersChannel())
	return p
}

func (p *pump) subscribe(channel string) {
	p.mu.Lock()
	ready, ok := p.have[channel]
	if !ok {
		ready = make(chan struct{})
		p.have[channel] = ready
	}
	p.mu.Unlock()
	if !ok {
		_ = p.sub.Subscribe(context.Background(), channel) // tried again by the client
	}
	select {
	case <-ready:
	case <-time.After(time.Second): // Redis is down
	}
}

func (p *pump) run() {
	defer close(p.done)
	for {
		select {
		case <-p.stop:
			return
		default:
		}
		msg, err := p.sub.Receive(context.Background())
		if err != nil { // the next call connects again
			select {
			case <-p.stop:
			case <-time.After(20 * time.Millisecond):
			}
			continue
		}
		switch msg := msg.(type) {
		case *redis.Subscription:
			p.mu.Lock()
			ready, known := p.have[msg.Channel]
			again := false
			if known {
				select {
				case <-ready:
					again = true
				default:
					close(ready)
				}
			}
			p.mu.Unlock()
			if again {
				p.to.Lost([]string{msg.Channel})
			}
		case *redis.Message:
			p.mu.Lock()
			drop := p.mute || p.filter != nil && !p.filter(msg.Channel, msg.Payload)
			p.mu.Unlock()
			if !drop {
				p.to.Deliver(msg.Channel, []byte(msg.Payload))
			}
		}
	}
}

func (p *pump) setMute(mute bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mute = mute
}

func (p *pump) close() {
	close(p.stop)
	_ = p.sub.Close()
	<-p.done
}

// cluster is stores on one Redis, each with a client and a pump of its own.
type cluster struct {
	*site
	server *redistest.Server
	redis  *redis.Client // the test's own
	nodes  []*Redis
	pumps  []*pump
	prefix string
}

var sharedServer = struct {
	sync.Mutex
	n int
}{}

func startCluster(t *testing.T, server *redistest.Server, n int, opts Options) *cluster {
	t.Helper()
	sharedServer.Lock()
	sharedServer.n++
	c := &cluster{
		site:   &site{t: t},
		server: server, redis: server.Client(), prefix: fmt.Sprintf("test:{%d}", sharedServer.n),
	}
	sharedServer.Unlock()
	c.open = func(i int, room string) {
		t.Helper()
		if degraded, err := c.tryOpen(i, room); err != nil || degraded {
			t.Fatalf("Open(%s): %t, %v", room, degraded, err)
		}
	}
	for i := range n {
		opts.Node = fmt.Sprintf("n%d", i)
		c.add(opts)
	}
	for i := range n {
		c.ready(i)
	}
	return c
}

func (c *cluster) add(opts Options) *Redis {
	opts.Prefix = c.prefix
	if opts.Logger == nil {
		opts.Logger = zaptest.NewLogger(c.t, zaptest.Level(zap.WarnLevel))
	}
	client := redis.NewClient(&redis.Options{
		Addr: c.server.Addr, MaxRetries: -1, ContextTimeoutEnabled: true, DialTimeout: time.Second,
	})
	rec := newRecorder(c.t)
	s := NewRedis(client, opts, rec)
	p := newPump(c.t, client, s)
	s.Start()
	c.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = s.Close(ctx, 0)
		p.close()
		_ = client.Close()
	})
	c.stores, c.seen = append(c.stores, s), append(c.seen, rec)
	c.nodes, c.pumps = append(c.nodes, s), append(c.pumps, p)
	return s
}

func (c *cluster) tryOpen(i int, room string) (bool, error) {
	c.pumps[i].subscribe(c.nodes[i].RoomChannel(room))
	return c.nodes[i].Open(c.t.Context(), room)
}

// ready waits until store i is in touch with Redis and all its rooms follow.
func (c *cluster) ready(i int) {
	c.t.Helper()
	eventually(c.t, fmt.Sprintf("store %d is shared", i), func() bool {
		s := c.nodes[i]
		if s.Degraded() {
			return false
		}
		s.mu.Lock()
		rooms := make([]*room, 0, len(s.rooms))
		for _, r := range s.rooms {
			rooms = append(rooms, r)
		}
		s.mu.Unlock()
		for _, r := range rooms {
			r.mu.Lock()
			stale := s.degraded(r)
			r.mu.Unlock()
			if stale {
				return false
			}
		}
		return true
	})
}

func TestRedis(t *testing.T) {
	server := redistest.Start(t)
	runSuite(t, func(t *testing.T, n int) *site {
		return startCluster(t, server, n, Options{}).site
	})
}
