package presence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

var errTest = errors.New("for the test")

// block keeps the writer of store i from sending anything until release is called.
func (c *cluster) block(i int) (release func()) {
	c.t.Helper()
	s := c.nodes[i]
	blocked, gate := make(chan struct{}), make(chan struct{})
	s.mu.Lock()
	o := s.beat()
	reply := o.reply
	o.reply = func(res []any) {
		reply(res)
		close(blocked)
		<-gate
	}
	s.mu.Unlock()
	<-blocked
	return func() { close(gate) }
}

// TestRedisRereadOfAnEmptiedStore loses messages of a room in a Redis that has just been emptied: what is there now is not the truth.
func TestRedisRereadOfAnEmptiedStore(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 2, Options{})
	c.openAll("r")
	c.view("r")
	c.fill(1, "r", 50)
	c.consistent("r", 0, 1)
	release := c.block(1) // which has all members, and comes back late
	if err := c.redis.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	c.nodes[0].Lost([]string{c.nodes[0].RoomChannel("r")})
	eventually(t, "the room was read, or the loss noticed", func() bool {
		s := c.nodes[0]
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.iid != s.name(1) || len(c.seen[0].log("r")) > 50
	})
	release()
	eventually(t, "all are back in Redis", func() bool { return len(c.rows("r")) == 50 })
	for i := range c.nodes {
		c.ready(i)
	}
	c.consistent("r", 0, 1)
	if leaves := count(c.seen[0].log("r"), "leave"); len(leaves) > 0 {
		t.Errorf("told of %v", leaves)
	}
}

// TestRedisChangesWhileHealing makes changes between the moment when everything is written again and the reading of the room, and has them
// written after it: the replica is ahead of Redis, and what comes back from there has been made.
func TestRedisChangesWhileHealing(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 2, Options{})
	c.openAll("r")
	c.view("r")
	c.fill(0, "r", 3)
	c.fill(1, "r", 3)
	c.consistent("r", 0, 1)
	for _, id := range []string{"stays", "goes"} {
		c.sameDevice(0, id, id)
	}
	s := c.nodes[0]
	s.suspect(errTest)
	eventually(t, "all is written again", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.iid == s.name(2) && s.up && !s.pushing
	})
	release := c.block(0)
	for _, id := range []string{"stays", "goes"} {
		if err := s.Join(t.Context(), "r", id, State{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	c.leave(0, "r", "goes")
	r, err := s.lockRoom("r")
	if err != nil {
		t.Fatal(err)
	}
	early := r.local
	r.mu.Unlock()
	if !early {
		t.Skip("the machine is too slow: the room was read before its members had changed")
	}
	c.ready(0)
	release()
	c.consistent("r", 0, 1)
	want := []string{"join stays online {}", "join goes online {}", "leave goes left"}
	if log := c.seen[0].log("r")[6:]; !slices.Equal(log, want) {
		t.Errorf("the instance itself was told %q, want %q", log, want)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.iid != s.name(2) {
		t.Errorf("it started over once more, as %s", s.iid)
	}
}

// TestRedisLossOfWhatWasNotSeen loses Redis when it has a member that its channel has not brought yet.
func TestRedisLossOfWhatWasNotSeen(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 1, Options{})
	c.open(0, "r")
	c.view("r")
	c.sameDevice(0, "c", "ann")
	c.pumps[0].setMute(true)
	joined := make(chan error, 1)
	in := false
	go func() {
		joined <- c.nodes[0].Join(t.Context(), "r", "c", State{}, func(v View, degraded bool) {
			_, in = v.Member("ann")
			in = in && degraded
		})
	}()
	eventually(t, "Redis has it", func() bool { return len(c.rows("r")) == 1 })
	c.nodes[0].suspect(errTest)
	if err := <-joined; err != nil || !in {
		t.Errorf("%v; admitted with itself in the room, degraded: %t", err, in)
	}
	c.pumps[0].setMute(false)
	c.ready(0)
	c.consistent("r", 0)
	if log := c.seen[0].log("r"); len(log) > 1 {
		t.Errorf("told of %q", log)
	}
}

// TestRedisNobodyIsDeadForComingLater brings two instances back after an outage longer than their leases, the second a while later.
func TestRedisNobodyIsDeadForComingLater(t *testing.T) {
	server := redistest.Start(t)
	c := startCluster(t, server, 2, Options{TTL: 2 * time.Second, Timeout: time.Second})
	c.openAll("r")
	c.view("r")
	c.fill(0, "r", 5)
	c.fill(1, "r", 5)
	c.consistent("r", 0, 1)
	server.Stall()
	eventually(t, "both have noticed", func() bool { return c.nodes[0].Degraded() && c.nodes[1].Degraded() })
	release := make([]func(), len(c.nodes))
	for i, s := range c.nodes {
		s.mu.Lock() // nobody begins again
		release[i] = sync.OnceFunc(s.mu.Unlock)
		defer release[i]()
	}
	server.Resume()
	eventually(t, "both leases have ended", func() bool {
		leases, err := c.redis.ZRangeWithScores(t.Context(), c.nodes[0].keys.leases(), 0, 0).Result()
		return err == nil && leases[0].Score < float64(time.Now().UnixMilli())
	})
	release[0]()
	eventually(t, "the first has written all again", func() bool {
		s := c.nodes[0]
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.up && s.iid != s.name(1) && !s.pushing
	})
	release[1]()
	for i := range c.nodes {
		c.ready(i)
	}
	c.consistent("r", 0, 1)
	for i := range c.nodes {
		if leaves := count(c.seen[i].log("r"), "leave"); len(leaves) > 0 {
			t.Errorf("store %d was told of %v", i, leaves)
		}
	}
}

// TestRedisLosesWritesOfAll takes back the last write of two instances, as a failover can, of which one notices while the other is busy.
func TestRedisLosesWritesOfAll(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 2, Options{})
	c.openAll("r")
	c.view("r")
	c.fill(0, "r", 3)
	c.fill(1, "r", 3)
	c.consistent("r", 0, 1)
	release := c.block(1)
	pipe := c.redis.TxPipeline()
	for i, s := range c.nodes {
		s.mu.Lock()
		iid := s.iid
		s.mu.Unlock()
		id := fmt.Sprintf("r-s%d-002", i)
		pipe.HDel(t.Context(), s.keys.members("r"), iid+"."+id)
		pipe.HDel(t.Context(), s.keys.counts("r"), id)
		pipe.HIncrBy(t.Context(), s.keys.counters(), iid, -1)
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := c.nodes[0]
	eventually(t, "the first has noticed", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.iid == s.name(2) && s.up && !s.pushing
	})
	<-time.After(4 * settle) // in which it could read the room
	release()
	eventually(t, "all is written again", func() bool { return len(c.rows("r")) == 6 })
	for i := range c.nodes {
		c.ready(i)
	}
	c.consistent("r", 0, 1)
	for i := range c.nodes {
		if leaves := count(c.seen[i].log("r"), "leave"); len(leaves) > 0 {
			t.Errorf("store %d was told of %v", i, leaves)
		}
	}
}

// TestRedisClocksApart has instances whose clocks are ten minutes apart go through what a day brings.
func TestRedisClocksApart(t *testing.T) {
	server := redistest.Start(t)
	c := startCluster(t, server, 0, Options{})
	for i, skew := range []time.Duration{-10 * time.Minute, 0, 10 * time.Minute} {
		c.add(Options{
			Node: fmt.Sprint("n", i), TTL: 2 * time.Second, Timeout: time.Second,
			clock: func() time.Time { return time.Now().Add(skew) },
		})
		c.ready(i)
	}
	c.openAll("r")
	c.view("r")
	began := time.Now().UnixMilli()
	for i := range c.nodes {
		c.fill(i, "r", 5)
	}
	c.sameDevice(0, "a0", "ann")
	c.join(0, "r", "a0", State{State: `{"n":0}`})
	c.sameDevice(2, "a2", "ann")
	c.join(2, "r", "a2", State{State: `{"n":2}`})
	if _, err := c.nodes[0].Update(t.Context(), "r", "a0", State{State: `{"n":3}`}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.nodes[1].SetStatus(t.Context(), "ann", "busy"); err != nil {
		t.Fatal(err)
	}
	for i := range c.nodes {
		eventually(t, "what was said last is shown", func() bool {
			m := c.members(i, "r")["ann"]
			return m.Status == "busy" && m.Since >= began-1000 && m.Since < time.Now().UnixMilli()+1000
		})
	}
	c.consistent("r", 0, 1, 2)

	// Everyone goes on alone, in a room from before and in a new one.
	server.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for i, s := range c.nodes {
		if _, err := c.tryOpen(i, "new"); err != nil {
			t.Fatal(err)
		}
		s.View("new", func(View, bool) {})
		id := fmt.Sprint("d", i)
		if _, _, err := s.Connect(ctx, Conn{ID: id, User: id}); err != nil {
			t.Fatal(err)
		}
		for _, room := range []string{"r", "new"} {
			if err := s.Join(ctx, room, id, State{}, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Leave(ctx, "r", fmt.Sprintf("r-s%d-000", i), ReasonLeft, nil); err != nil {
			t.Fatal(err)
		}
	}
	server.Run()
	for i := range c.nodes {
		c.ready(i)
	}
	eventually(t, "all of them are in Redis", func() bool { return len(c.rows("r")) == 17 && len(c.rows("new")) == 3 })
	c.consistent("r", 0, 1, 2)
	c.consistent("new", 0, 1, 2)
	for i := range c.nodes {
		if leaves := count(c.seen[i].log("r"), "leave"); len(leaves) != 3 {
			t.Errorf("store %d was told of %v", i, leaves)
		}
	}
	c.kill(2) // whose clock is ahead
	eventually(t, "it is removed", func() bool { return len(c.rows("r")) == 11 && len(c.rows("new")) == 2 })
	c.consistent("r", 0, 1)
	c.consistent("new", 0, 1)
}
