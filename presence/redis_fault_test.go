package presence

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// kill makes store i stop as if its process had died.
func (c *cluster) kill(i int) {
	c.nodes[i].cancel()
	c.nodes[i].mu.Lock()
	c.nodes[i].jobs.Broadcast()
	c.nodes[i].mu.Unlock()
	c.nodes[i].wg.Wait()
	c.pumps[i].setMute(true)
}

// rows returns what Redis has in room.
func (c *cluster) rows(room string) map[string]entry {
	c.t.Helper()
	raw, err := c.redis.HGetAll(c.t.Context(), c.nodes[0].keys.members(room)).Result()
	if err != nil {
		c.t.Fatal(err)
	}
	rows := map[string]entry{}
	for id, value := range raw {
		e, err := decodeEntry(value)
		if err != nil {
			c.t.Fatalf("row %q: %q", id, value)
		}
		rows[id] = e
	}
	return rows
}

// consistent waits until the stores and Redis agree on room: counts with members, and each replica with Redis.
func (c *cluster) consistent(room string, stores ...int) {
	c.t.Helper()
	var problem string
	deadline := time.Now().Add(20 * time.Second)
	for {
		problem = c.disagreement(room, stores)
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("room %s: %s", room, problem)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (c *cluster) disagreement(room string, stores []int) string {
	rows := c.rows(room)
	counts := map[string]string{}
	for user, n := range countUsers(rows) {
		counts[user] = fmt.Sprint(n)
	}
	stored, err := c.redis.HGetAll(c.t.Context(), c.nodes[0].keys.counts(room)).Result()
	if err != nil {
		c.t.Fatal(err)
	}
	if !maps.Equal(counts, stored) {
		return fmt.Sprintf("Redis counts %v, but has %v", stored, counts)
	}
	if listed := c.listed(room); listed != (len(rows) > 0) {
		return fmt.Sprintf("%d are in, and that the room is listed is %t", len(rows), listed)
	}
	ends, err := c.redis.TTL(c.t.Context(), c.nodes[0].keys.seq(room)).Result()
	if err != nil {
		c.t.Fatal(err)
	}
	if len(rows) > 0 && ends >= 0 {
		return fmt.Sprintf("%d are in, and the sequence ends in %s", len(rows), ends)
	}
	for _, i := range stores {
		r, err := c.nodes[i].lockRoom(room)
		if err != nil {
			return err.Error()
		}
		replica := maps.Clone(r.conns)
		r.mu.Unlock()
		if !maps.Equal(replica, rows) {
			return fmt.Sprintf("store %d has\n%v\nRedis\n%v", i, replica, rows)
		}
		if told := c.toldUsers(i, room); !slices.Equal(told, slices.Sorted(maps.Keys(counts))) {
			return fmt.Sprintf("store %d told of %q, in are %v", i, told, counts)
		}
	}
	return ""
}

// listed tells whether Redis has room among all rooms.
func (c *cluster) listed(room string) bool {
	c.t.Helper()
	err := c.redis.ZScore(c.t.Context(), c.nodes[0].keys.rooms(), room).Err()
	if err != nil && !errors.Is(err, redis.Nil) {
		c.t.Fatal(err)
	}
	return err == nil
}

func countUsers(rows map[string]entry) map[string]int {
	n := map[string]int{}
	for _, e := range rows {
		n[e.user]++
	}
	return n
}

// toldUsers returns who is in room by the events of store i.
func (c *cluster) toldUsers(i int, room string) []string {
	rec := c.seen[i]
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return slices.Sorted(maps.Keys(rec.state[room]))
}

// fill has n users join room on store i.
func (c *cluster) fill(i int, room string, n int) {
	c.t.Helper()
	for k := range n {
		id := fmt.Sprintf("%s-s%d-%03d", room, i, k)
		c.sameDevice(i, id, id)
		c.join(i, room, id, State{})
	}
}

// view looks at room on every store, so that every change from now on is told.
func (c *cluster) view(room string) {
	for i := range c.nodes {
		c.seen[i].mu.Lock()
		if c.seen[i].state[room] == nil {
			c.seen[i].state[room] = map[string]Member{}
		}
		c.seen[i].mu.Unlock()
		c.nodes[i].View(room, func(View, bool) {})
	}
}

func count(events []string, prefix string) map[string]int {
	n := map[string]int{}
	for _, e := range events {
		if strings.HasPrefix(e, prefix) {
			n[e]++
		}
	}
	return n
}

func TestRedisInstanceDies(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 3, Options{TTL: 1200 * time.Millisecond})
	rooms := []string{"a", "b*[x]"}
	for _, room := range rooms {
		c.openAll(room)
		c.view(room)
		c.fill(0, room, 70)
		c.fill(1, room, 5)
		// One user of the dead instance is elsewhere too.
		c.sameDevice(2, "again-"+room, room+"-s0-000")
		c.join(2, room, "again-"+room, State{})
		c.consistent(room, 0, 1, 2)
	}
	c.kill(0)
	for _, room := range rooms {
		c.consistent(room, 1, 2)
		eventually(t, "only the living are left", func() bool { return len(c.rows(room)) == 6 })
		c.consistent(room, 1, 2)
		for i := 1; i <= 2; i++ {
			leaves := count(c.seen[i].log(room), "leave")
			if len(leaves) != 69 {
				t.Errorf("store %d: %d leaves of %s: %v", i, len(leaves), room, leaves)
			}
			for e, n := range leaves {
				if n != 1 || !strings.HasSuffix(e, " node") {
					t.Errorf("store %d was told %d times %q", i, n, e)
				}
			}
		}
	}
	eventually(t, "nothing of the dead is left", func() bool {
		keys, err := c.redis.Keys(t.Context(), c.prefix+"*n0-*").Result()
		leases, err2 := c.redis.ZCard(t.Context(), c.nodes[0].keys.leases()).Result()
		online, err3 := c.nodes[1].OnlineCount(t.Context())
		return err == nil && err2 == nil && err3 == nil && len(keys) == 0 && leases == 2 && online == 12
	})
}

func TestRedisHealsAfterFlush(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 3, Options{})
	c.openAll("r")
	c.view("r")
	for i := range c.nodes {
		c.fill(i, "r", 60)
	}
	c.openAll("watched") // by two stores that have nobody in it
	c.view("watched")
	c.fill(1, "watched", 120)
	c.sameDevice(0, "a1", "ann")
	c.join(0, "r", "a1", State{State: `{"n":1}`})
	c.sameDevice(1, "a2", "ann")
	c.join(1, "r", "a2", State{State: `{"n":2}`})
	if _, err := c.nodes[0].SetStatus(t.Context(), "ann", "busy"); err != nil {
		t.Fatal(err)
	}
	for i := range c.nodes {
		eventually(t, "ann is busy", func() bool { return c.members(i, "r")["ann"].Status == "busy" })
	}
	c.consistent("r", 0, 1, 2)
	for i := range c.nodes {
		c.seen[i].clear("r")
	}
	if err := c.redis.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	c.sameDevice(2, "late", "late")
	c.join(2, "r", "late", State{}) // whose diff tells the others that something is wrong
	for i := range c.nodes {
		eventually(t, "the late one is seen", func() bool { _, in := c.members(i, "r")["late"]; return in })
	}
	c.sameDevice(1, "late2", "late2")
	c.join(1, "watched", "late2", State{})
	eventually(t, "all are back in Redis", func() bool { return len(c.rows("r")) == 183 && len(c.rows("watched")) == 121 })
	for i := range c.nodes {
		c.ready(i)
	}
	c.consistent("r", 0, 1, 2)
	c.consistent("watched", 0, 1, 2)
	for i := range c.nodes {
		if leaves := count(c.seen[i].log("watched"), "leave"); len(leaves) != 0 {
			t.Errorf("store %d was told %v", i, leaves)
		}
		if log := c.seen[i].log("r"); !slices.Equal(log, []string{"join late online {}"}) {
			t.Errorf("store %d was told %q", i, log)
		}
	}
	if status, _, err := c.nodes[2].Connect(t.Context(), Conn{ID: "a3", User: "ann"}); err != nil || status != "busy" {
		t.Errorf("the explicit status is %q, %v", status, err)
	}
	if n, err := c.nodes[0].OnlineCount(t.Context()); err != nil || n != 303 {
		t.Errorf("%d online, %v", n, err)
	}
}

func TestRedisDown(t *testing.T) {
	server := redistest.Start(t)
	c := startCluster(t, server, 2, Options{Timeout: time.Second})
	c.openAll("r")
	c.view("r")
	c.fill(0, "r", 3)
	c.fill(1, "r", 3)
	c.consistent("r", 0, 1)
	server.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, degraded, err := c.nodes[0].Connect(ctx, Conn{ID: "d1", User: "dora"}); err != nil || !degraded {
		t.Fatalf("Connect: %t, %v", degraded, err)
	}
	if err := c.nodes[0].Join(ctx, "r", "d1", State{}, func(v View, degraded bool) {
		if m, in := v.Member("dora"); !in || !degraded || m.Conns != 1 || v.Page("", 0).Count != 7 || !v.Page("", 0).Degraded {
			t.Errorf("admitted with %+v, degraded %t", m, degraded)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if degraded, err := c.nodes[0].Update(ctx, "r", "d1", State{State: `{"x":1}`}); err != nil || !degraded {
		t.Fatalf("Update: %t, %v", degraded, err)
	}
	if degraded, err := c.nodes[0].SetStatus(ctx, "dora", "busy"); err != nil || !degraded {
		t.Fatalf("SetStatus: %t, %v", degraded, err)
	}
	if err := c.nodes[0].Leave(ctx, "r", "r-s0-000", ReasonLeft, nil); err != nil {
		t.Fatal(err)
	}
	c.nodes[1].Disconnect("r-s1-000", 0, ReasonTimeout)
	if degraded, err := c.tryOpen(0, "new"); err != nil || !degraded {
		t.Fatalf("Open: %t, %v", degraded, err)
	}
	if err := c.nodes[0].Join(ctx, "new", "d1", State{}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.nodes[0].OnlineCount(ctx); err == nil {
		t.Error("nobody can know who is online")
	}
	if _, _, err := c.nodes[0].User(ctx, "dora"); err == nil {
		t.Error("nobody can know who is online elsewhere")
	}
	eventually(t, "own changes are told at once", func() bool {
		return slices.Equal(c.seen[0].log("r")[6:], []string{
			"join dora online {}", `update dora online {"x":1}`, `update dora busy {"x":1}`, "leave r-s0-000 left",
		})
	})
	server.Run()
	for i := range c.nodes {
		c.ready(i)
	}
	c.open(1, "new")
	eventually(t, "Redis has all", func() bool { return len(c.rows("r")) == 5 && len(c.rows("new")) == 1 })
	c.consistent("r", 0, 1)
	c.consistent("new", 0)
	for i := range c.nodes {
		if leaves := count(c.seen[i].log("r"), "leave"); len(leaves) != 2 {
			t.Errorf("store %d was told %v", i, leaves)
		}
		for e, n := range count(c.seen[i].log("r"), "") {
			if n != 1 {
				t.Errorf("store %d was told %d times %q", i, n, e)
			}
		}
	}
	if status, degraded, err := c.nodes[1].Connect(ctx, Conn{ID: "d2", User: "dora"}); err != nil || degraded || status != "busy" {
		t.Errorf("the status that was set meanwhile is %q, %t, %v", status, degraded, err)
	}
}

// TestRedisStalled has Redis answer late: what timed out was made nevertheless.
func TestRedisStalled(t *testing.T) {
	server := redistest.Start(t)
	c := startCluster(t, server, 2, Options{Timeout: 200 * time.Millisecond, TTL: time.Minute})
	c.openAll("r")
	c.view("r")
	c.fill(0, "r", 3)
	c.fill(1, "r", 3)
	c.consistent("r", 0, 1)
	server.Stall()
	c.nodes[0].Disconnect("r-s0-000", 0, ReasonLeft)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, degraded, err := c.nodes[0].Connect(ctx, Conn{ID: "d1", User: "dora"}); err != nil || !degraded {
		t.Fatalf("Connect: %t, %v", degraded, err)
	}
	if err := c.nodes[0].Join(ctx, "r", "d1", State{}, nil); err != nil {
		t.Fatal(err)
	}
	server.Resume()
	for i := range c.nodes {
		c.ready(i)
	}
	eventually(t, "Redis has all", func() bool { return len(c.rows("r")) == 6 })
	c.consistent("r", 0, 1)
	for i := range c.nodes {
		for e, n := range count(c.seen[i].log("r"), "") {
			if n != 1 {
				t.Errorf("store %d was told %d times %q", i, n, e)
			}
		}
		if leaves := count(c.seen[i].log("r"), "leave"); len(leaves) != 1 {
			t.Errorf("store %d was told %v", i, leaves)
		}
	}
}

func TestRedisScriptsVanish(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 2, Options{})
	c.openAll("r")
	c.view("r")
	for n := range 5 {
		if err := c.redis.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprint("c", n)
		c.sameDevice(n, id, id)
		if snap := c.join(n, "r", id, State{}); snap.Count != n+1 || snap.Degraded {
			t.Errorf("joined: %+v", snap)
		}
	}
	c.consistent("r", 0, 1)
	for i, s := range c.nodes {
		if s.generation != 1 {
			t.Errorf("store %d started over", i)
		}
	}
}

// reapAlive ends the lease of instance i, as if it had stood still, and has another one remove it.
func (c *cluster) reapAlive(i, by int) {
	c.t.Helper()
	s := c.nodes[i]
	s.mu.Lock()
	iid := s.iid
	s.mu.Unlock()
	if err := c.redis.ZAdd(c.t.Context(), s.keys.leases(), redis.Z{Member: iid, Score: 1}).Err(); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.nodes[by].reap(c.t.Context(), iid); err != nil {
		c.t.Fatal(err)
	}
}

// TestRedisReapedAlive takes a living instance for dead, as happens to one that was paused.
func TestRedisReapedAlive(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 2, Options{})
	c.openAll("r")
	c.view("r")
	c.fill(0, "r", 60)
	c.fill(1, "r", 2)
	c.consistent("r", 0, 1)
	c.reapAlive(0, 1)
	eventually(t, "all are back", func() bool {
		return len(c.rows("r")) == 62 && len(c.toldUsers(1, "r")) == 62
	})
	c.ready(0)
	c.consistent("r", 0, 1)
	if leaves := count(c.seen[0].log("r"), "leave"); len(leaves) != 0 {
		t.Errorf("its own members were told as gone where they are: %v", leaves)
	}
	if leaves := count(c.seen[1].log("r"), "leave"); len(leaves) != 60 {
		t.Errorf("the other was told %d leaves", len(leaves))
	}
}

// TestRedisLosesWrites takes back the last write of an instance, as a failover can.
func TestRedisLosesWrites(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 2, Options{TTL: time.Minute})
	c.openAll("r")
	c.view("r")
	c.fill(0, "r", 3)
	c.consistent("r", 0, 1)
	s := c.nodes[0]
	s.mu.Lock()
	iid := s.iid
	s.mu.Unlock()
	pipe := c.redis.TxPipeline()
	pipe.HDel(t.Context(), s.keys.members("r"), iid+".r-s0-002")
	pipe.HDel(t.Context(), s.keys.counts("r"), "r-s0-002")
	pipe.HIncrBy(t.Context(), s.keys.counters(), iid, -1)
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Deliver(s.UsersChannel(), []byte{kindReset}) // a heartbeat ahead of its time
	eventually(t, "the write is made again", func() bool { return len(c.rows("r")) == 3 })
	c.ready(0)
	c.nodes[1].Lost([]string{s.RoomChannel("r")}) // a failover cuts its subscription
	c.consistent("r", 0, 1)
	for i := range c.nodes {
		if log := c.seen[i].log("r"); len(log) != 3 {
			t.Errorf("store %d was told %q", i, log)
		}
	}
}

// TestRedisLosesMessages drops what is published for a while.
func TestRedisLosesMessages(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 2, Options{})
	c.openAll("gap")
	c.openAll("lost")
	c.view("gap")
	c.view("lost")
	for _, room := range []string{"gap", "lost"} {
		c.fill(0, room, 3)
		c.consistent(room, 0, 1)
	}
	c.pumps[1].setMute(true)
	for _, room := range []string{"gap", "lost"} {
		c.leave(0, room, room+"-s0-000")
		c.sameDevice(0, room, room)
		c.join(0, room, room, State{})
	}
	c.fence0("gap")
	c.pumps[1].setMute(false)
	c.leave(0, "gap", "gap-s0-001") // a gap before it
	c.nodes[1].Lost([]string{c.nodes[1].RoomChannel("lost"), c.nodes[1].UsersChannel(), "other"})
	for _, room := range []string{"gap", "lost"} {
		c.consistent(room, 0, 1)
	}
}

// fence0 makes a change that store 0 alone waits for.
func (c *cluster) fence0(room string) {
	c.sameDevice(0, "fence", "fence")
	c.join(0, room, "fence", State{})
	c.leave(0, room, "fence")
	c.nodes[0].Disconnect("fence", 0, ReasonLeft)
}

func TestRedisClose(t *testing.T) {
	server := redistest.Start(t)
	c := startCluster(t, server, 2, Options{TTL: 2 * time.Second})
	c.openAll("r")
	c.view("r")
	c.fill(0, "r", 60)
	c.fill(1, "r", 2)
	c.consistent("r", 0, 1)
	// With a hold, who comes back meanwhile causes no event.
	if err := c.nodes[0].Close(t.Context(), 1500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	for k := range 60 {
		if k == 7 {
			continue
		}
		id := fmt.Sprintf("r-s0-%03d", k)
		c.sameDevice(1, "back-"+id, id)
		c.join(1, "r", "back-"+id, State{})
	}
	eventually(t, "who stayed away is told as gone", func() bool { return len(count(c.seen[1].log("r"), "leave")) > 0 })
	eventually(t, "the closed one holds nothing", func() bool { return len(c.rows("r")) == 61 })
	c.consistent("r", 1)
	if leaves := count(c.seen[1].log("r"), "leave"); !maps.Equal(leaves, map[string]int{"leave r-s0-007 timeout": 1}) {
		t.Errorf("told %v", leaves)
	}
	if err := c.nodes[1].Close(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is left", func() bool {
		keys, err := c.redis.Keys(t.Context(), "*").Result()
		slices.Sort(keys)
		return err == nil && slices.Equal(keys, []string{c.nodes[1].keys.departed("r"), c.nodes[1].keys.seq("r")})
	})
	for _, key := range []string{c.nodes[1].keys.seq("r"), c.nodes[1].keys.departed("r")} {
		if ttl, err := c.redis.TTL(t.Context(), key).Result(); err != nil || ttl <= 0 || ttl > time.Hour {
			t.Errorf("%s stays for %v, %v", key, ttl, err)
		}
	}
}

func TestRedisNeverStarted(t *testing.T) {
	rec := newRecorder(t)
	server := redistest.Start(t)
	s := NewRedis(server.Client(), Options{}, rec)
	if degraded, err := s.Open(t.Context(), "r"); err != nil || !degraded {
		t.Fatalf("Open: %t, %v", degraded, err)
	}
	if _, degraded, err := s.Connect(t.Context(), Conn{ID: "c", User: "u"}); err != nil || !degraded {
		t.Fatalf("Connect: %t, %v", degraded, err)
	}
	if err := s.Join(t.Context(), "r", "c", State{}, nil); err != nil {
		t.Fatal(err)
	}
	if log := rec.log("r"); !slices.Equal(log, []string{"join u online {}"}) {
		t.Errorf("told %q", log)
	}
	if err := s.Close(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
}

// TestRedisChurn has three stores change the same rooms at random, while connections are lost and data vanish.
func TestRedisChurn(t *testing.T) {
	for name, fault := range map[string]func(c *cluster){
		"calm":       func(*cluster) {},
		"flush":      func(c *cluster) { c.redis.FlushAll(c.t.Context()) },
		"reconnects": func(c *cluster) { c.redis.ClientKillByFilter(c.t.Context(), "TYPE", "pubsub") },
		"cuts":       func(c *cluster) { c.redis.ClientKillByFilter(c.t.Context(), "TYPE", "normal", "SKIPME", "yes") },
		"scripts":    func(c *cluster) { c.redis.ScriptFlush(c.t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCluster(t, redistest.Start(t), 3, Options{TTL: 4 * time.Second})
			rooms := []string{"r1", "r2", "r3"}
			for _, room := range rooms {
				c.openAll(room)
				c.view(room)
			}
			var wg sync.WaitGroup
			for w := range 9 {
				wg.Go(func() { c.churn(w, rooms) })
			}
			for range 3 {
				time.Sleep(150 * time.Millisecond)
				fault(c)
			}
			wg.Wait()
			for i := range c.nodes {
				c.ready(i)
			}
			for _, room := range rooms {
				c.consistent(room, 0, 1, 2)
			}
		})
	}
}

// churn is one client after another on store w, some of which stay.
func (c *cluster) churn(w int, rooms []string) {
	rng := rand.New(rand.NewPCG(uint64(w), 7))
	s := c.store(w)
	for n := range 60 {
		id := fmt.Sprintf("w%d-%d", w, n)
		user := fmt.Sprint("user", rng.IntN(8))
		ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
		if _, _, err := s.Connect(ctx, Conn{ID: id, User: user}); err != nil {
			c.t.Error(err)
		}
		for range 1 + rng.IntN(6) {
			room := rooms[rng.IntN(len(rooms))]
			switch rng.IntN(5) {
			case 0, 1:
				if err := s.Join(ctx, room, id, State{State: fmt.Sprintf(`{"n":%d}`, rng.IntN(3))}, nil); err != nil {
					c.t.Error(err)
				}
			case 2:
				_, _ = s.Update(ctx, room, id, State{Status: fmt.Sprint("s", rng.IntN(3))}) // it may not be in
			case 3:
				if err := s.Leave(ctx, room, id, ReasonLeft, nil); err != nil {
					c.t.Error(err)
				}
			case 4:
				if _, err := s.SetStatus(ctx, user, fmt.Sprint("e", rng.IntN(3))); err != nil {
					c.t.Error(err)
				}
			}
		}
		switch rng.IntN(3) {
		case 0:
			s.Disconnect(id, 0, ReasonLeft)
		case 1:
			s.Disconnect(id, time.Duration(rng.IntN(50))*time.Millisecond, ReasonTimeout)
		}
		cancel()
	}
}

// TestRedisOverflow has more wait for a Redis that stalls than is worth keeping.
func TestRedisOverflow(t *testing.T) {
	server := redistest.Start(t)
	c := startCluster(t, server, 2, Options{Timeout: 10 * time.Second})
	c.openAll("r")
	c.view("r")
	c.fill(0, "r", 3)
	c.consistent("r", 0, 1)
	server.Stall()
	done, cancel := context.WithCancel(t.Context())
	cancel()
	s := c.nodes[0]
	for n := range maxQueue + 2*maxPipeline + 2 {
		if _, err := s.SetStatus(done, "r-s0-000", fmt.Sprint("s", n)); err != nil {
			t.Fatal(err)
		}
	}
	if !s.Degraded() {
		t.Error("nothing was given up")
	}
	s.mu.Lock()
	if len(s.queue) > maxQueue+1 {
		t.Errorf("%d operations wait", len(s.queue))
	}
	s.mu.Unlock()
	s.Disconnect("r-s0-001", 0, ReasonLeft)
	server.Resume()
	for i := range c.nodes {
		c.ready(i)
	}
	eventually(t, "the last status is everywhere", func() bool {
		want := fmt.Sprint("s", maxQueue+2*maxPipeline+1)
		return c.members(0, "r")["r-s0-000"].Status == want && c.members(1, "r")["r-s0-000"].Status == want
	})
	c.consistent("r", 0, 1)
	if n := len(c.rows("r")); n != 2 {
		t.Errorf("%d are in", n)
	}
}
