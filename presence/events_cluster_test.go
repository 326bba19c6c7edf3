package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// audience is another program, which believes what it is told and nothing else. It complains when it is told what can't be.
type audience struct {
	c     *cluster
	sub   *redis.PubSub
	done  chan struct{}
	marks chan struct{} // gets one for each mark that told puts behind what was published

	mu         sync.Mutex
	online     map[string]bool
	rooms      map[string]map[string]bool // who is in it; rooms that are not occupied are not there
	pseq       map[string]int64
	statuses   map[string]int // by user and status: how often it was told
	log        []string       // events in short
	complaints []string
}

// listen makes an audience of all that the cluster tells from now on.
func (c *cluster) listen() *audience {
	c.t.Helper()
	a := &audience{
		c: c, sub: c.redis.Subscribe(c.t.Context(), presenceEvents, userEvents, roomEvents),
		done: make(chan struct{}), marks: make(chan struct{}, 1),
		pseq: map[string]int64{}, statuses: map[string]int{},
	}
	a.forget()
	for range 3 {
		if _, err := a.sub.Receive(c.t.Context()); err != nil {
			c.t.Fatal(err)
		}
	}
	go func() {
		defer close(a.done)
		for m := range a.sub.Channel(redis.WithChannelSize(1 << 20)) {
			if m.Payload == mark {
				a.marks <- struct{}{}
			} else {
				a.take(m.Payload)
			}
		}
	}()
	c.t.Cleanup(func() { _ = a.sub.Close(); <-a.done })
	for i, s := range c.nodes {
		s.SetEvents(*allEvents(fmt.Sprintf(`{"node":"n%d"`, i)))
	}
	return a
}

func (a *audience) forget() {
	a.online, a.rooms = map[string]bool{}, map[string]map[string]bool{}
}

func (a *audience) take(payload string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var e struct {
		Node, Event, User, Room, Status, Reason string
		Restored, Empty                         bool
		Count                                   int
		PSeq                                    int64
	}
	if err := json.Unmarshal([]byte(payload), &e); err != nil {
		a.complaints = append(a.complaints, fmt.Sprintf("%q: %v", payload, err))
		return
	}
	in := a.rooms[e.Room]
	right := true
	if e.Room != "" {
		right = e.PSeq >= a.pseq[e.Room] && e.PSeq > 0
		a.pseq[e.Room] = e.PSeq
	}
	switch e.Event {
	case "online":
		right = !a.online[e.User]
		a.online[e.User] = true
	case "offline":
		right = a.online[e.User]
		delete(a.online, e.User)
	case "status":
		a.statuses[e.User+" "+e.Status]++
		right = a.statuses[e.User+" "+e.Status] == 1
	case "occupied":
		right = right && in == nil
		a.rooms[e.Room] = map[string]bool{}
	case "join":
		right = right && in != nil && !in[e.User] && e.Count == len(in)+1
		if in != nil {
			in[e.User] = true
		}
	case "leave":
		right = right && in[e.User] && e.Count == len(in)-1
		delete(in, e.User)
	case "vacated":
		right = right && in != nil && len(in) == 0
		delete(a.rooms, e.Room)
	case "reset":
		if e.Empty {
			a.forget()
		}
	default:
		right = false
	}
	if !right {
		a.complaints = append(a.complaints, fmt.Sprintf("%s, with %v in the room", payload, slices.Sorted(maps.Keys(in))))
	}
	text := e.Event
	for _, word := range []string{e.Room, e.User, e.Reason} {
		if word != "" {
			text += " " + word
		}
	}
	if e.Restored {
		text += " restored"
	}
	if e.Empty {
		text += " empty"
	}
	a.log = append(a.log, text)
}

// mark is no event: who has it from a channel of Redis has all that was published before.
const mark = "mark"

// told returns what was told since the last time, in short: all that Redis has published by now.
func (a *audience) told() []string {
	a.c.t.Helper()
	if err := a.c.redis.Publish(a.c.t.Context(), presenceEvents, mark).Err(); err != nil {
		a.c.t.Fatal(err)
	}
	<-a.marks
	a.mu.Lock()
	defer a.mu.Unlock()
	log := a.log
	a.log = nil
	return log
}

// believes waits until the audience believes what Redis has, which is what the stores have.
func (a *audience) believes(c *cluster, rooms []string, stores ...int) {
	c.t.Helper()
	for _, room := range rooms {
		c.consistent(room, stores...)
	}
	problem := "?"
	defer func() {
		if problem != "" {
			c.t.Error(problem)
		}
	}()
	eventually(c.t, "the audience knows", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		problem = ""
		for _, room := range rooms {
			in := c.redis.HKeys(c.t.Context(), c.nodes[0].keys.counts(room)).Val()
			slices.Sort(in)
			if got := slices.Sorted(maps.Keys(a.rooms[room])); !slices.Equal(got, in) || a.rooms[room] == nil != (len(in) == 0) {
				problem += fmt.Sprintf("in %s are %q, it believes %q; ", room, in, got)
			}
		}
		online := c.redis.ZRange(c.t.Context(), c.nodes[0].keys.online(), 0, -1).Val()
		slices.Sort(online)
		if got := slices.Sorted(maps.Keys(a.online)); !slices.Equal(got, online) {
			problem += fmt.Sprintf("online are %q, it believes %q; ", online, got)
		}
		return problem == ""
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, complaint := range a.complaints {
		if i < 10 {
			c.t.Errorf("told %s", complaint)
		}
	}
	a.complaints = nil
}

// actor is one connection after the other of some users, on one store.
type actor struct {
	c     *cluster
	node  int
	no    int
	rooms []string

	conn, user string
	conns      int
	in         map[string]bool
	statuses   *sync.Map // user and status of those that were set
}

// act does something at random.
func (a *actor) act(ctx context.Context) error {
	s := a.c.nodes[a.node]
	room := a.rooms[rand.N(len(a.rooms))]
	if a.conn == "" {
		a.conns++
		a.conn, a.user, a.in = fmt.Sprintf("a%d-%d", a.no, a.conns), fmt.Sprintf(`us"er %%%d\`, rand.N(6)), map[string]bool{}
		_, _, err := s.Connect(ctx, Conn{ID: a.conn, User: a.user, Device: `d"%`})
		return err
	}
	switch rand.N(10) {
	case 0, 1, 2, 3:
		a.in[room] = true
		return s.Join(ctx, room, a.conn, State{State: fmt.Sprintf("{\n\"n\":%d}", rand.N(3))}, nil)
	case 4, 5:
		delete(a.in, room)
		return s.Leave(ctx, room, a.conn, ReasonLeft, nil)
	case 6:
		if a.in[room] {
			_, err := s.Update(ctx, room, a.conn, State{Status: fmt.Sprint("s", rand.N(3))})
			return err
		}
	case 7:
		status := fmt.Sprintf(`"%s-%d`, a.conn, rand.Uint64())
		degraded, err := s.SetStatus(ctx, a.user, status)
		a.statuses.Store(a.user+" "+status, degraded)
		return err
	case 8:
		s.Touch(a.conn)
	case 9:
		s.Disconnect(a.conn, time.Duration(rand.N(2)*rand.N(20))*time.Millisecond, ReasonTimeout)
		a.conn = ""
	}
	return nil
}

// busy has actors on some stores act until stop is called.
func busy(c *cluster, rooms []string, statuses *sync.Map, actors map[int][]*actor, stores ...int) (stop func()) {
	ctx, cancel := context.WithCancel(c.t.Context())
	var wg sync.WaitGroup
	for _, i := range stores {
		for k := range 4 {
			if len(actors[i]) <= k {
				actors[i] = append(actors[i], &actor{c: c, node: i, no: 10*i + k, rooms: rooms, statuses: statuses})
			}
			actor := actors[i][k]
			wg.Go(func() {
				for ctx.Err() == nil {
					if err := actor.act(c.t.Context()); err != nil && !errors.Is(err, ErrClosed) {
						c.t.Errorf("store %d: %v", i, err)
						return
					}
				}
			})
		}
	}
	return func() { cancel(); wg.Wait() }
}

// TestEventsAddUp has three stores busy while one dies, Redis is emptied and one is taken for dead: who listens is told of each change once and
// knows at the end who is there.
func TestEventsAddUp(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 3, Options{TTL: 2 * time.Second, Timeout: time.Second})
	a := c.listen()
	rooms := []string{`r"1`, `r\2`, `r%s3`}
	for _, room := range rooms {
		c.openAll(room)
		c.view(room)
	}
	var statuses sync.Map
	actors := map[int][]*actor{}
	act := func(d time.Duration, during func(), stores ...int) {
		t.Helper()
		stop := busy(c, rooms, &statuses, actors, stores...)
		<-time.After(d)
		during()
		<-time.After(d)
		stop()
		eventually(t, "all are held no more", func() bool { return held(c, stores) == 0 })
	}
	act(300*time.Millisecond, func() {}, 0, 1, 2)
	a.believes(c, rooms, 0, 1, 2)
	a.told() // and so all statuses
	a.mu.Lock()
	statuses.Range(func(key, degraded any) bool {
		if n := a.statuses[key.(string)]; n != 1 && degraded == false {
			t.Errorf("status %q was told %d times", key, n)
		}
		return true
	})
	if len(a.statuses) == 0 {
		t.Error("no status was told")
	}
	a.mu.Unlock()

	c.kill(2)
	dead := func() bool {
		s := c.nodes[2]
		leases, err := c.redis.ZRange(t.Context(), s.keys.leases(), 0, -1).Result()
		return err == nil && !slices.ContainsFunc(leases, s.mine)
	}
	act(300*time.Millisecond, func() { eventually(t, "the dead one is removed", dead) }, 0, 1)
	a.believes(c, rooms, 0, 1)

	a.told()
	act(500*time.Millisecond, func() {
		if err := c.redis.FlushAll(t.Context()).Err(); err != nil {
			t.Error(err)
		}
		eventually(t, "both have a new name", func() bool { return c.generation(0) == 2 && c.generation(1) == 2 })
	}, 0, 1)
	c.ready(0)
	c.ready(1)
	a.believes(c, rooms, 0, 1)
	if log := a.told(); len(count(log, "reset empty")) != 1 || count(log, "reset empty")["reset empty"] != 2 {
		t.Errorf("that all is lost was told %v, want once on two channels", count(log, "reset"))
	}

	s := c.nodes[1]
	act(300*time.Millisecond, func() {
		s.mu.Lock()
		iid := s.iid
		s.mu.Unlock()
		if err := c.redis.ZAdd(t.Context(), s.keys.leases(), redis.Z{Member: iid, Score: 1}).Err(); err != nil {
			t.Error(err)
		}
		if _, err := c.nodes[0].reap(t.Context(), iid); err != nil {
			t.Error(err)
		}
		eventually(t, "it has a new name", func() bool { return c.generation(1) == 3 })
	}, 0, 1)
	c.ready(0)
	c.ready(1)
	a.believes(c, rooms, 0, 1)
	if log := a.told(); len(count(log, "reset empty")) != 0 {
		t.Errorf("it was told that all is lost")
	}

	for _, i := range []int{0, 1} {
		for _, actor := range actors[i] {
			c.nodes[i].Disconnect(actor.conn, 0, ReasonLeft)
		}
	}
	eventually(t, "nobody is online", func() bool {
		n, err := c.nodes[0].OnlineCount(t.Context())
		return err == nil && n == 0 && held(c, []int{0, 1}) == 0
	})
	a.believes(c, rooms, 0, 1)
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.rooms) > 0 || len(a.online) > 0 {
		t.Errorf("at the end it believes %v, %v", a.rooms, a.online)
	}
}

// held returns how much of the stores is to be written still: connections in their grace, and what is queued.
func held(c *cluster, stores []int) (n int) {
	for _, i := range stores {
		s := c.nodes[i]
		s.mu.Lock()
		n += s.queued
		for _, u := range s.users {
			n += u.held
		}
		s.mu.Unlock()
	}
	return n
}

// generation returns the number of the present name of store i.
func (c *cluster) generation(i int) int {
	s := c.nodes[i]
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range 10 {
		if s.iid == s.name(n) {
			return n
		}
	}
	return -1
}

// TestEventsAfterALoss has nobody come or go while Redis is emptied, and while one store is taken for dead: those who come again are told as
// such, once.
func TestEventsAfterALoss(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 2, Options{})
	a := c.listen()
	c.openAll("r")
	c.view("r")
	c.fill(0, "r", 3)
	c.fill(1, "r", 2)
	c.sameDevice(0, "both0", "both")
	c.sameDevice(1, "both1", "both")
	c.join(0, "r", "both0", State{})
	c.join(1, "r", "both1", State{})
	if _, err := c.nodes[0].SetStatus(t.Context(), "both", "busy"); err != nil {
		t.Fatal(err)
	}
	a.believes(c, []string{"r"}, 0, 1)
	a.told()
	users := []string{"both", "r-s0-000", "r-s0-001", "r-s0-002", "r-s1-000", "r-s1-001"}

	if err := c.redis.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both have a new name", func() bool { return c.generation(0) == 2 && c.generation(1) == 2 })
	c.ready(0)
	c.ready(1)
	a.believes(c, []string{"r"}, 0, 1)
	want := map[string]int{"reset empty": 2, "reset": 2, "occupied r restored": 1}
	for _, user := range users {
		want["online "+user+" restored"] = 1
		want["join r "+user+" restored"] = 1
	}
	log := a.told()
	got := map[string]int{}
	for i, event := range log {
		got[event]++
		if i < 2 && event != "reset empty" {
			t.Errorf("first comes %q", log[:2])
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("after a flush were told %v, want %v", got, want)
	}

	c.reapAlive(0, 1)
	eventually(t, "it has a new name", func() bool { return c.generation(0) == 3 })
	c.ready(0)
	a.believes(c, []string{"r"}, 0, 1)
	want = map[string]int{"reset": 2}
	for _, user := range users[1:4] {
		want["online "+user+" restored"] = 1
		want["offline "+user] = 1
		want["join r "+user+" restored"] = 1
		want["leave r "+user+" node"] = 1
	}
	got = map[string]int{}
	for _, event := range a.told() {
		got[event]++
	}
	if !maps.Equal(got, want) {
		t.Errorf("after one was taken for dead were told %v, want %v", got, want)
	}
}

// TestEventsRefused takes the right to publish events from the stores: all goes on, and nothing is told twice or missing where it may be told.
func TestEventsRefused(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 2, Options{TTL: time.Second})
	c.listen()
	if err := c.redis.Do(t.Context(), "ACL", "SETUSER", "default", "resetchannels", "&"+c.prefix+"*").Err(); err != nil {
		t.Fatal(err)
	}
	if err := c.redis.Publish(t.Context(), roomEvents, "").Err(); !redis.HasErrorPrefix(err, "NOPERM") {
		t.Fatalf("publishing an event: %v", err)
	}
	c.openAll("r")
	c.sameDevice(0, "a", "ann")
	c.sameDevice(1, "b", "bob")
	c.join(0, "r", "a", State{})
	c.join(1, "r", "b", State{})
	if degraded, err := c.nodes[0].SetStatus(t.Context(), "ann", "busy"); err != nil || degraded {
		t.Errorf("SetStatus: %t, %v", degraded, err)
	}
	eventually(t, "the status is told", func() bool { return c.members(1, "r")["ann"].Status == "busy" })
	c.leave(1, "r", "b")
	c.nodes[1].Disconnect("b", 0, ReasonLeft)
	c.expect("r", "join ann online {}", "join bob online {}", "update ann busy {}", "leave bob left")
	c.kill(0)
	eventually(t, "the dead one is removed", func() bool { return len(c.rows("r")) == 0 })
	eventually(t, "its user is offline", func() bool {
		n, err := c.nodes[1].OnlineCount(t.Context())
		return err == nil && n == 0
	})
	if leaves := count(c.seen[1].log("r"), "leave ann"); !maps.Equal(leaves, map[string]int{"leave ann node": 1}) {
		t.Errorf("of the dead one's member was told %v", leaves)
	}
	for i := range c.nodes {
		if n := c.generation(i); n != 1 {
			t.Errorf("store %d has started over, as %d", i, n)
		}
	}
}
