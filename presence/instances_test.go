package presence

import (
	"context"
	"errors"
	"fmt"
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

func testConnections(t *testing.T, s *site) {
	nodes := s.nodes(0)
	if len(nodes) != len(s.stores) || !slices.Equal(nodes, s.nodes(1)) {
		t.Fatalf("instances are %q and %q", nodes, s.nodes(1))
	}
	expect := func(user string, want ...UserConn) {
		t.Helper()
		for i := range s.stores {
			if got, err := s.store(i).Connections(t.Context(), user); err != nil || !slices.Equal(got, want) {
				t.Errorf("store %d: %+v, %v, want %+v", i, got, err, want)
			}
		}
	}
	node := func(i int) string { return nodes[s.at(i)] }
	expect("ann")
	s.connect(1, "a.1", "ann")
	s.connect(0, "a.3", "ann")
	s.sameDevice(1, "a-2", "ann")
	s.connect(0, "b1", "bob")
	if _, err := s.store(0).SetStatus(t.Context(), "ann", "busy"); err != nil {
		t.Fatal(err)
	}
	two, one, three := UserConn{"a-2", node(1), ""}, UserConn{"a.1", node(1), "dev-a.1"}, UserConn{"a.3", node(0), "dev-a.3"}
	expect("ann", two, one, three)
	expect("bob", UserConn{"b1", node(0), "dev-b1"})
	s.store(1).Disconnect("a.1", time.Hour, ReasonTimeout)
	expect("ann", two, one, three)
	s.store(1).Disconnect("a.1", 0, ReasonTimeout)
	eventually(t, "the connection is gone", func() bool { u, _, err := s.store(0).User(t.Context(), "ann"); return err == nil && u.Conns == 2 })
	expect("ann", two, three)
	for _, id := range []string{"", strings.Repeat("x", MaxName+1)} {
		if _, err := s.store(0).Connections(t.Context(), id); !errors.Is(err, ErrInvalid) {
			t.Errorf("Connections(%q): %v", id, err)
		}
	}
	if err := s.store(0).Close(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.store(0).Connections(t.Context(), "ann"); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
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
	// While an instance starts over, it is there under two names, and so are its connections. Here it stays so.
	c.connect(0, "b1", "bob")
	former, k := c.nodes[0].name(0), c.nodes[0].keys
	pipe := c.redis.TxPipeline()
	pipe.ZAdd(t.Context(), k.leases(), redis.Z{Member: former, Score: float64(time.Now().Add(time.Hour).UnixMilli())})
	pipe.HSet(t.Context(), k.counters(), former, 7)
	pipe.HSet(t.Context(), k.user("bob"), former+".b1", "dev-b1")
	// And one that died, which nobody has found out yet.
	pipe.ZAdd(t.Context(), k.leases(), redis.Z{Member: "dead-0-1", Score: 1})
	pipe.HSet(t.Context(), k.counters(), "dead-0-1", 7)
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := c.site.nodes(4); !slices.Equal(got, []string{"n0", "n1", "n1"}) {
		t.Errorf("with one under two names: %q", got)
	}
	conns, err := c.nodes[4].Connections(t.Context(), "bob")
	if err != nil || !slices.Equal(conns, []UserConn{{"b1", "n0", "dev-b1"}}) {
		t.Errorf("of one under two names: %+v, %v", conns, err)
	}
}

// TestRedisConnectionsWithoutRedis asks while Redis is out of reach, and after it came back without its data.
func TestRedisConnectionsWithoutRedis(t *testing.T) {
	server := redistest.Start(t)
	c := startCluster(t, server, 2, Options{Timeout: time.Second})
	want := []UserConn{{"a0", "n0", "dev-a0"}, {"a1", "n1", "dev-a1"}}
	for i, w := range want {
		c.connect(i, w.ID, "ann")
	}
	// With a room in common each waits for the other.
	c.openAll("r")
	for i := range want {
		c.join(i, "r", fmt.Sprint("a", i), State{})
	}
	ask := func() ([]UserConn, []string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		conns, err := c.nodes[0].Connections(ctx, "ann")
		nodes, err2 := c.nodes[0].Instances(ctx)
		if err == nil && !slices.Equal(conns, want) || err2 == nil && !slices.Equal(nodes, []string{"n0", "n1"}) {
			t.Fatalf("%+v of %q without an error", conns, nodes)
		}
		return conns, nodes, errors.Join(err, err2)
	}
	server.Kill()
	if conns, nodes, err := ask(); err == nil || !slices.Equal(conns, want[:1]) || !slices.Equal(nodes, []string{"n0"}) {
		t.Errorf("without Redis: %+v of %q, %v", conns, nodes, err)
	}
	server.Run()
	eventually(t, "all are known again", func() bool { _, _, err := ask(); return err == nil })
}
