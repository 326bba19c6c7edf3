package presence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// notes is an archive that keeps what it is told.
type notes struct {
	mu       sync.Mutex
	removed  []string
	statuses []string
	versions []uint64
}

func (n *notes) Start(string, Archived, <-chan struct{}) {}
func (n *notes) Done() <-chan struct{}                   { return nil }
func (n *notes) Came(string, string, int64)              {}
func (n *notes) Went(string, string, int64)              {}
func (n *notes) Health() (bool, int)                     { return true, 0 }
func (n *notes) Close(context.Context) error             { return nil }

func (n *notes) User(context.Context, string) (s Seen, known bool, err error) { return s, false, nil }

func (n *notes) SetStatus(_, status string, version uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.statuses, n.versions = append(n.statuses, status), append(n.versions, version)
}

func (n *notes) Removed(instance string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.removed = append(n.removed, instance)
}

// told returns the statuses, whose versions must grow, and the instances that have died.
func (n *notes) told(t *testing.T) (statuses, removed []string) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.versions {
		if i > 0 && n.versions[i] <= n.versions[i-1] {
			t.Errorf("statuses %q have versions %d", n.statuses, n.versions)
		}
	}
	return slices.Clone(n.statuses), slices.Clone(n.removed)
}

// archive gives store i an archive.
func (c *cluster) archive(i int) *notes {
	n := new(notes)
	c.nodes[i].SetArchive(n)
	return n
}

// TestRedisTellsArchiveOfTheDead removes instances: the archive is told of one that has died, not of one that is back under another name.
func TestRedisTellsArchiveOfTheDead(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 3, Options{TTL: 2 * time.Second})
	c.openAll("r")
	c.fill(1, "r", 1)
	c.fill(2, "r", 1)
	first := c.nodes[1].name(1)
	if err := c.redis.ZAdd(t.Context(), c.nodes[0].keys.leases(), redis.Z{Score: 1, Member: first}).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.nodes[0].reap(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is back under another name", func() bool {
		leases, now, err := c.nodes[0].leases(t.Context())
		return err == nil && leases[first] == 0 && leases[c.nodes[1].name(2)] > now
	})
	n := c.archive(0)
	c.nodes[0].buried(first, true)
	c.nodes[0].buried(c.nodes[0].name(1), true)
	c.nodes[0].buried("stopped-0-1", false)
	if _, removed := n.told(t); len(removed) > 0 {
		t.Errorf("told of %q", removed)
	}
	others := c.archive(1)
	c.kill(2)
	eventually(t, "the dead one is told", func() bool {
		_, by0 := n.told(t)
		_, by1 := others.told(t)
		return slices.Contains(by0, c.nodes[2].boot) || slices.Contains(by1, c.nodes[2].boot)
	})
}

// TestRedisKeepsStatusWithoutRedis sets statuses while Redis is away: the archive is told of the latest at once, and of what Redis makes of it.
func TestRedisKeepsStatusWithoutRedis(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 2, Options{})
	n := c.archive(0)
	c.connect(0, "a1", "ann")
	c.connect(1, "a2", "ann")
	set := func(status string) {
		t.Helper()
		if _, err := c.nodes[0].SetStatus(t.Context(), "ann", status); err != nil {
			t.Fatal(err)
		}
	}
	set("first")
	c.server.Kill()
	eventually(t, "the loss is noticed", c.nodes[0].Degraded)
	set("second")
	set("third")
	c.nodes[0].keepStatus("ann", "lost before", 1) // comes after what was set after it
	if statuses, _ := n.told(t); !slices.Equal(statuses, []string{"first", "second", "third"}) {
		t.Errorf("told %q", statuses)
	}
	if status, _, err := c.nodes[0].Connect(t.Context(), Conn{ID: "a3", User: "ann"}); err != nil || status != "third" {
		t.Errorf("the status is %q, %v", status, err)
	}
	c.server.Run()
	eventually(t, "it is told everywhere", func() bool {
		u, online, err := c.nodes[1].User(t.Context(), "ann")
		return err == nil && online && u.Status == "third"
	})
	eventually(t, "the archive has it", func() bool {
		statuses, _ := n.told(t)
		return statuses[len(statuses)-1] == "third"
	})
	set("fourth")
	if statuses, _ := n.told(t); statuses[len(statuses)-1] != "fourth" || slices.Contains(statuses, "lost before") {
		t.Errorf("told %q", statuses)
	}
}

// TestRedisRestoresStatus brings back a status that Redis has lost, and none that is older than what it has.
func TestRedisRestoresStatus(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 2, Options{})
	c.openAll("r")
	c.view("r")
	c.sameDevice(0, "a1", "ann")
	c.join(0, "r", "a1", State{})
	back := archived{&c.nodes[0].base}
	back.RestoreStatus("nobody", "busy", 7)
	back.RestoreStatus("ann", "busy", 7)
	for i := range c.nodes {
		eventually(t, "ann is busy", func() bool { return c.members(i, "r")["ann"].Status == "busy" })
		eventually(t, "Redis has it", func() bool {
			u, online, err := c.nodes[i].User(t.Context(), "ann")
			return err == nil && online && u.Status == "busy"
		})
	}
	if status, _, err := c.nodes[1].Connect(t.Context(), Conn{ID: "a2", User: "ann"}); err != nil || status != "busy" {
		t.Errorf("elsewhere the status is %q, %v", status, err)
	}
	if _, err := c.nodes[1].SetStatus(t.Context(), "ann", "away"); err != nil {
		t.Fatal(err)
	}
	for i := range c.nodes {
		eventually(t, "ann is away", func() bool { return c.members(i, "r")["ann"].Status == "away" })
	}
	back.RestoreStatus("ann", "busy", 7)
	if u, _, err := c.nodes[1].User(t.Context(), "ann"); err != nil || u.Status != "away" {
		t.Errorf("%+v, %v", u, err)
	}
	if status := c.members(0, "r")["ann"].Status; status != "away" {
		t.Errorf("the status is %q", status)
	}
}

// TestRedisEmptiedSaysNothing empties Redis: that somebody is not there does not mean that he is offline, before the loss is noticed, while it is
// made good, and while another instance, with whom no room is shared, has not written again.
func TestRedisEmptiedSaysNothing(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 2, Options{})
	c.connect(1, "b1", "bob")
	offline := func() bool {
		t.Helper()
		_, online, err := c.nodes[0].User(t.Context(), "bob")
		if err != nil && !errors.Is(err, errRebuilding) {
			t.Fatal(err)
		}
		return err == nil && !online
	}
	release := c.block(1)
	if err := c.redis.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if offline() {
		t.Error("offline before the loss was noticed")
	}
	first := c.nodes[0].name(1)
	eventually(t, "the first store is shared again", func() bool {
		if offline() && !c.sure(0) {
			t.Error("offline while the others come back")
		}
		s := c.nodes[0]
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.iid != first && s.writable() && !s.healing
	})
	if offline() && !c.sure(0) {
		t.Error("offline while the other comes back")
	}
	release()
	eventually(t, "bob is back", func() bool {
		_, online, err := c.nodes[0].User(t.Context(), "bob")
		return err == nil && online
	})
	eventually(t, "what is not there is certain again", func() bool {
		_, online, err := c.nodes[0].User(t.Context(), "nobody")
		return err == nil && !online
	})
	release = c.block(0)
	var connecting sync.WaitGroup
	connecting.Go(func() { c.connect(0, "d1", "dan") })
	eventually(t, "dan is here", func() bool {
		s := c.nodes[0]
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.users["dan"] != nil
	})
	if _, online, err := c.nodes[0].User(t.Context(), "dan"); !online || !errors.Is(err, errRebuilding) {
		t.Error(fmt.Errorf("dan, who is not written yet: %t, %w", online, err))
	}
	release()
	connecting.Wait()
}

// sure tells whether store i has waited for others as long as it does.
func (c *cluster) sure(i int) bool {
	s := c.nodes[i]
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.healing && !s.whole.IsZero() && !time.Now().Before(s.whole)
}
