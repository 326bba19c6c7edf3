package presence

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// toll counts what a client sends in pipelines, and holds them up on demand.
type toll struct {
	mu        sync.Mutex
	pipelines int            // with reads of replicas; guarded by mu
	calls     map[string]int // by the hash of the script, without those that failed; guarded by mu
	held      chan struct{}  // pipelines wait for it to be closed; nil: they don't; guarded by mu
}

func (o *toll) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (o *toll) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (o *toll) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		o.mu.Lock()
		held := o.held
		o.mu.Unlock()
		if held != nil {
			<-held
		}
		err := next(ctx, cmds)
		o.mu.Lock()
		defer o.mu.Unlock()
		if slices.ContainsFunc(cmds, func(c redis.Cmder) bool { return c.Name() == "hscan" }) {
			o.pipelines++
		}
		for _, c := range cmds {
			if c.Name() == "evalsha" && c.Err() == nil {
				o.calls[c.Args()[1].(string)]++
			}
		}
		return err
	}
}

func (o *toll) reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls, o.pipelines = map[string]int{}, 0
}

// hold holds pipelines up until release.
func (o *toll) hold() (release func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	held := make(chan struct{})
	o.held = held
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.held = nil
		close(held)
	}
}

func (o *toll) expectCalls(t *testing.T, what string, script *redis.Script, most int) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := o.calls[script.Hash()]; n < 1 || n > most {
		t.Errorf("%s: %d calls, want 1 to %d", what, n, most)
	}
}

// together has f done for 0 to n-1 at the same time: the writer is held up until so many things are in its queue.
func (c *cluster) together(o *toll, n, queued int, f func(i int)) {
	c.t.Helper()
	release := c.block(0)
	o.reset()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	eventually(c.t, "they are queued", func() bool {
		c.nodes[0].mu.Lock()
		defer c.nodes[0].mu.Unlock()
		return c.nodes[0].queued >= queued
	})
	release()
	wg.Wait()
}

// TestRedisFewCalls has many come and go at the same time.
func TestRedisFewCalls(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 0, Options{})
	s := c.add(Options{Node: "n"})
	o := &toll{calls: map[string]int{}}
	s.client.AddHook(o)
	c.ready(0)
	const n = 500
	const few = n/maxBatch + 2*n/maxPipeline + 1 // each pipeline may end with a call that isn't full

	c.together(o, n, n, func(i int) { c.connect(0, fmt.Sprint("c", i), fmt.Sprint("u", i)) })
	o.expectCalls(t, "coming online", usersScript, few)

	rooms := func(i int) string { return fmt.Sprint("room", i/5) }
	for i := 0; i < n; i += 5 {
		c.pumps[0].subscribe(s.RoomChannel(rooms(i)))
	}
	o.reset()
	release := o.hold()
	var opening sync.WaitGroup
	for i := 0; i < n; i += 5 {
		opening.Go(func() { _, _ = s.Open(t.Context(), rooms(i)) })
	}
	eventually(t, "the rooms wait to be read", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.opens) >= n/5-readers*readRooms
	})
	release()
	opening.Wait()
	o.mu.Lock()
	if most := readers + n/5/readRooms + 1; o.pipelines < 1 || o.pipelines > most {
		t.Errorf("%d rooms were read in %d round trips, want 1 to %d", n/5, o.pipelines, most)
	}
	o.mu.Unlock()

	c.together(o, n, n, func(i int) { c.join(0, rooms(i), fmt.Sprint("c", i), State{}) })
	o.expectCalls(t, "joining", changeScript, few)
	if got := len(c.members(0, rooms(0))); got != 5 {
		t.Errorf("%d members of a room, want 5", got)
	}

	c.together(o, n, 2*n, func(i int) { s.Disconnect(fmt.Sprint("c", i), 0, ReasonLeft) })
	eventually(t, "all are gone", func() bool {
		count, err := s.OnlineCount(t.Context())
		return err == nil && count == 0
	})
	c.fence(rooms(0))
	o.expectCalls(t, "leaving", changeScript, few)
	o.expectCalls(t, "going offline", usersScript, few)
}

// TestRedisIdleMembers counts what members cost who do nothing: the lease of their instance.
func TestRedisIdleMembers(t *testing.T) {
	server := redistest.Start(t)
	c := startCluster(t, server, 1, Options{})
	for r := range 20 {
		room := fmt.Sprint("room", r)
		c.openAll(room)
		c.fill(0, room, 20)
	}
	meter := server.Meter()
	var cost redistest.Cost
	eventually(t, "three heartbeats", func() bool {
		cost = meter.Cost()
		return cost.Calls["evalsha"] >= 3
	})
	beats := cost.Calls["evalsha"]
	delete(cost.Calls, "info") // the meter's own
	want := map[string]int64{"evalsha": beats, "hget": beats, "time": beats, "zadd": beats, "zrangebyscore": beats}
	if !maps.Equal(cost.Calls, want) {
		t.Errorf("commands %v, want %v", cost.Calls, want)
	}
}
