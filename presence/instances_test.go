package presence

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// nodes returns the nodes of the instances by store i.
func (s *site) nodes(i int) []string {
	s.t.Helper()
	nodes, err := s.store(i).Instances(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return nodes
}

func testInstances(t *testing.T, s *site) {
	if nodes := s.nodes(0); len(nodes) != len(s.stores) || !slices.Equal(nodes, s.nodes(1)) {
		t.Fatalf("instances are %q and %q", nodes, s.nodes(1))
	}
	if err := s.store(0).Close(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.store(0).Instances(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestMemoryInstances(t *testing.T) {
	for node, want := range map[string]string{"": "node", "a-b": "a-b", "a.b": "a-b"} {
		if got := startMemory(t, Options{Node: node}).nodes(0); !slices.Equal(got, []string{want}) {
			t.Errorf("with node %q: %q", node, got)
		}
	}
}

// TestRedisInstances has instances of one name, one that dies and one that keeps the places of its members.
func TestRedisInstances(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 4, Options{TTL: 1500 * time.Millisecond})
	c.add(Options{Node: "n1", TTL: time.Minute})
	c.ready(4)
	if got, want := c.nodes[0].boot, c.site.nodes(4); !strings.HasPrefix(got, "n0-") || !slices.Equal(want, []string{"n0", "n1", "n1", "n2", "n3"}) {
		t.Fatalf("%s lists %q", got, want)
	}
	c.connect(2, "a1", "ann")
	if err := c.nodes[2].Close(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if got := c.site.nodes(0); !slices.Equal(got, []string{"n0", "n1", "n1", "n3"}) {
		t.Errorf("without the one that was closed: %q", got)
	}
	c.kill(3)
	eventually(t, "the dead one is not listed", func() bool { return slices.Equal(c.site.nodes(0), []string{"n0", "n1", "n1"}) })
	// While an instance starts over, it is there under two names. Here it stays so.
	former, k := c.nodes[0].name(0), c.nodes[0].keys
	pipe := c.redis.TxPipeline()
	pipe.ZAdd(t.Context(), k.leases(), redis.Z{Member: former, Score: float64(time.Now().Add(time.Hour).UnixMilli())})
	pipe.HSet(t.Context(), k.counters(), former, 7)
	// And one that died, which nobody has found out yet.
	pipe.ZAdd(t.Context(), k.leases(), redis.Z{Member: "dead-0-1", Score: 1})
	pipe.HSet(t.Context(), k.counters(), "dead-0-1", 7)
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := c.site.nodes(4); !slices.Equal(got, []string{"n0", "n1", "n1"}) {
		t.Errorf("with one under two names: %q", got)
	}
}

// TestRedisInstancesWithoutRedis asks while Redis is out of reach, and after it came back without its data.
func TestRedisInstancesWithoutRedis(t *testing.T) {
	server := redistest.Start(t)
	c := startCluster(t, server, 2, Options{Timeout: time.Second})
	c.connect(0, "a0", "ann")
	c.connect(1, "a1", "ann")
	// With a room in common each waits for the other.
	c.openAll("r")
	c.join(0, "r", "a0", State{})
	c.join(1, "r", "a1", State{})
	ask := func() ([]string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		nodes, err := c.nodes[0].Instances(ctx)
		if err == nil && !slices.Equal(nodes, []string{"n0", "n1"}) {
			t.Fatalf("%q without an error", nodes)
		}
		return nodes, err
	}
	server.Kill()
	if nodes, err := ask(); err == nil || !slices.Equal(nodes, []string{"n0"}) {
		t.Errorf("without Redis: %q, %v", nodes, err)
	}
	server.Run()
	eventually(t, "all are known again", func() bool { _, err := ask(); return err == nil })
}
