package hub

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/presence"
)

// openCrowded opens a hub that tells names in rooms of up to n, and counts in larger ones once in every.
func openCrowded(t *testing.T, n int, every time.Duration) *house {
	t.Helper()
	h := open(t, func(p *Policy) { p.FullUpTo = n; p.Grace = 0 })
	h.countEvery = every
	return h
}

// enterUser has a user without a socket enter a room.
func (h *house) enterUser(room, user string) {
	h.t.Helper()
	store := h.backend.Store
	if _, _, err := store.Connect(h.t.Context(), presence.Conn{ID: "c-" + user, User: user}); err != nil {
		h.t.Fatal(err)
	}
	if err := store.Join(h.t.Context(), room, "c-"+user, presence.State{}, nil); err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) removeUser(user string) {
	h.backend.Store.Disconnect("c-"+user, 0, presence.ReasonLeft)
}

// joinAs joins with a mode and returns the presence of the ack.
func joinAs(c *client, room, mode string) object {
	c.Send(`{"type":"join","id":"j","room":%q,"presence":%q}`, room, mode)
	p, _ := c.Next("ack")["presence"].(object)
	return p
}

// expectLittle checks what the hub keeps of a room: the events to be told, and the members who are told anything.
func (h *house) expectLittle(pending, listeners int) {
	h.t.Helper()
	r := h.room("lobby")
	r.mu.Lock()
	defer r.mu.Unlock()
	equal(h.t, "pending events", len(r.feed.pending), pending)
	equal(h.t, "listeners", len(r.listeners.list), listeners)
}

// counted expects a frame that has nothing but that count.
func counted(t *testing.T, c *client, n int) (pseq float64) {
	t.Helper()
	f := c.Next("presence")
	pseq, _ = f["pseq"].(float64)
	equal(t, "presence", f, object{"type": "presence", "room": "lobby", "pseq": pseq, "count": float64(n), "events": []any{}})
	return pseq
}

// invited expects the gap after which the members are to be read.
func invited(t *testing.T, c *client) {
	t.Helper()
	equal(t, "gap", c.Next("gap"), object{"type": "gap", "room": "lobby", "reason": "presence"})
}

func named(t *testing.T, c *client, events ...string) {
	t.Helper()
	equal(t, "events", c.Events(), events)
}

// read reads the members and returns them.
func read(t *testing.T, c *client) []string {
	t.Helper()
	c.Send(`{"type":"members","id":"m","room":"lobby","cursor":""}`)
	p := c.Next("ack")["presence"].(object)
	if next, ok := p["next"]; !ok || next != nil {
		t.Errorf("next = %v", next)
	}
	return roomstest.Words(p["members"])
}

func TestCrowdedRoomTellsCounts(t *testing.T) {
	h := openCrowded(t, 3, time.Hour)
	ann, bob, cat, dan := h.dial("ann"), h.dial("bob"), h.dial("cat"), h.dial("dan")
	ann.Join("lobby")
	joinAs(bob, "lobby", "count")
	named(t, ann, "join bob")
	joinAs(cat, "lobby", "none")
	named(t, ann, "join cat")
	counted(t, bob, 3)

	// One more than may be named.
	pseq := dan.Join("lobby")
	equal(t, "ack", pseq, object{"pseq": pseq["pseq"], "count": 4.0, "members": []any{}, "next": ""})
	equal(t, "pseq", counted(t, ann, 4), pseq["pseq"])
	equal(t, "pseq", counted(t, bob, 4), pseq["pseq"])

	// The next count is not due for an hour.
	h.enterUser("lobby", "eve")
	dan.Send(`{"type":"status","id":1,"room":"lobby","status":"away"}`)
	dan.Next("ack")
	for _, c := range []*client{ann, bob, cat, dan} {
		c.Quiet()
	}
	// Who reads is told before, alone; pages go on working.
	dan.Send(`{"type":"members","id":"m","room":"lobby","cursor":""}`)
	counted(t, dan, 5)
	p := dan.Next("ack")["presence"].(object)
	equal(t, "members", roomstest.Words(p["members"]), []string{"ann", "bob", "cat", "dan", "eve"})
	equal(t, "count", p["count"], 5.0)
	ann.Quiet()
	// Also who joins again gets no names.
	again := ann.Join("lobby")
	equal(t, "ack", again, object{"pseq": again["pseq"], "count": 5.0, "members": []any{}, "next": ""})
	h.enterUser("lobby", "fay")
	dan.Quiet()
}

// TestCountsOfACrowdedRoomAreFew checks that counts come no faster than they may, and that the last one always does.
func TestCountsOfACrowdedRoomAreFew(t *testing.T) {
	const every = 20 * time.Millisecond
	h := openCrowded(t, 1, every)
	ann, bob := h.dial("ann"), h.dial("bob")
	began := time.Now()
	ann.Join("lobby")
	joinAs(bob, "lobby", "count")
	const n = 2000
	go func() {
		for i := range n {
			h.enterUser("lobby", fmt.Sprintf("u%d", i))
			if i%100 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	for _, c := range []*client{ann, bob} {
		frames := 0
		for count, last := 0.0, 0.0; count < n+2; frames++ {
			f := c.Next("presence")
			equal(t, "events", f["events"], []any{})
			if f["count"].(float64) <= count || f["pseq"].(float64) <= last {
				t.Errorf("count %v after %v, pseq %v after %v", f["count"], count, f["pseq"], last)
			}
			count, last = f["count"].(float64), f["pseq"].(float64)
		}
		if most := int(time.Since(began)/every) + 1; frames > most {
			t.Errorf("%d counts in a time for %d", frames, most)
		}
		c.Quiet()
	}
}

// TestCrowdedRoomGetsSmall follows a room over the bound and back: events go on only from a list that was read since.
func TestCrowdedRoomGetsSmall(t *testing.T) {
	h := openCrowded(t, 5, time.Millisecond)
	ann, bob, cat := h.dial("ann"), h.dial("bob"), h.dial("cat")
	ann.Join("lobby")
	for i := range 3 {
		h.enterUser("lobby", fmt.Sprint("u", i))
		named(t, ann, fmt.Sprint("join u", i))
	}
	joinAs(cat, "lobby", "count")
	named(t, ann, "join cat")
	bob.Join("lobby") // the sixth
	all := []*client{ann, bob, cat}
	counted(t, ann, 6)
	counted(t, cat, 6)

	h.removeUser("u0")
	for _, c := range all {
		counted(t, c, 5) // as many as may be named, but not yet smaller by a fifth
	}
	h.removeUser("u1")
	for _, c := range all {
		counted(t, c, 4)
	}
	invited(t, ann)
	invited(t, bob)
	// Who has not read is told the count, and not to read again.
	h.enterUser("lobby", "u3")
	for _, c := range all {
		counted(t, c, 5)
	}
	ann.Send(`{"type":"status","id":1,"room":"lobby","status":"away"}`)
	ann.Next("ack")
	ann.Quiet()
	bob.Quiet()
	equal(t, "members", read(t, ann), []string{"ann", "bob", "cat", "u2", "u3"})
	h.removeUser("u3")
	named(t, ann, "leave u3 left")
	counted(t, bob, 4)
	counted(t, cat, 4)
	equal(t, "members", roomstest.Words(bob.Join("lobby")["members"]), []string{"ann", "bob", "cat", "u2"})
	h.enterUser("lobby", "u4")
	named(t, ann, "join u4")
	named(t, bob, "join u4")
	counted(t, cat, 5)
	// Over the bound again.
	h.enterUser("lobby", "u5")
	for _, c := range all {
		counted(t, c, 6)
		c.Quiet()
	}
}

// TestCrowdedInBetween checks that who missed events while the room was crowded for less than it takes to tell is not told later ones as if
// it had not, and that a list that was read while the room was crowded is none to go on from.
func TestCrowdedInBetween(t *testing.T) {
	h := open(t, func(p *Policy) { p.FullUpTo = 2; p.Grace = 0; p.Coalesce = time.Hour })
	ann := h.dial("ann")
	ann.Join("lobby")
	h.enterUser("lobby", "u0")
	r := h.room("lobby")
	r.due()
	named(t, ann, "join u0")
	h.removeUser("u0")
	h.enterUser("lobby", "u1")
	h.enterUser("lobby", "u2") // crowded
	h.removeUser("u1")
	h.enterUser("lobby", "u3") // still
	h.removeUser("u2")         // no more
	r.due()
	counted(t, ann, 2)
	invited(t, ann)

	h.removeUser("u3")
	h.expectLittle(1, 1)
	h.enterUser("lobby", "u3")
	h.enterUser("lobby", "u4") // crowded again, before it reads
	h.expectLittle(0, 1)
	h.enterUser("lobby", "u7")
	h.removeUser("u7")
	h.expectLittle(0, 1)
	ann.Send(`{"type":"members","id":"m","room":"lobby","cursor":""}`)
	counted(t, ann, 3)
	ann.Next("ack")
	h.removeUser("u4")
	h.removeUser("u3")
	r.due()
	counted(t, ann, 1)
	invited(t, ann)
	// It reads of itself what it is about to be told to.
	h.enterUser("lobby", "u5")
	h.enterUser("lobby", "u6")
	r.due()
	counted(t, ann, 3)
	h.removeUser("u6")
	ann.Send(`{"type":"members","id":"m","room":"lobby","cursor":""}`)
	counted(t, ann, 2)
	equal(t, "members", roomstest.Words(ann.Next("ack")["presence"].(object)["members"]), []string{"ann", "u5"})
	h.removeUser("u5")
	r.due()
	named(t, ann, "leave u5 left")
	ann.Quiet()
}

// TestNewBoundHoldsFromTheNextChange changes full_up_to under members, in both directions.
func TestNewBoundHoldsFromTheNextChange(t *testing.T) {
	h := openCrowded(t, 10, time.Millisecond)
	bind := func(n int) {
		p := defaultPolicy()
		p.FullUpTo, p.Grace = n, 0
		h.bind(p)
	}
	ann, bob, cat := h.dial("ann"), h.dial("bob"), h.dial("cat")
	ann.Join("lobby")
	bob.Join("lobby")
	joinAs(cat, "lobby", "count")
	named(t, ann, "join bob")
	named(t, ann, "join cat")
	named(t, bob, "join cat")

	bind(2)
	for _, c := range []*client{ann, bob, cat} {
		c.Quiet()
	}
	too := h.dial("bob") // another connection of who is in changes nothing
	equal(t, "members", roomstest.Words(too.Join("lobby")["members"]), []string{"ann", "bob", "cat"})
	bob.Send(`{"type":"status","room":"lobby","status":"away"}`)
	for _, c := range []*client{ann, bob, cat, too} {
		counted(t, c, 3)
	}
	bind(10)
	bob.Send(`{"type":"status","room":"lobby","status":"busy"}`)
	for _, c := range []*client{ann, bob, cat, too} {
		counted(t, c, 3)
	}
	for _, c := range []*client{ann, bob, too} {
		invited(t, c)
	}
	read(t, ann)
	bob.Send(`{"type":"status","room":"lobby","status":"back"}`)
	named(t, ann, "update bob")
	cat.Quiet()
	bob.Quiet()
}

// TestNamesAfterAStricterRule checks that who was not told names for a while, by a rule, is not told later ones as if it had been.
func TestNamesAfterAStricterRule(t *testing.T) {
	h := openCrowded(t, 10, time.Millisecond)
	all, _ := ParsePattern("*")
	bind := func(most wire.Presence) {
		p := defaultPolicy()
		p.Grace = 0
		p.Rooms = []RoomRule{{Pattern: all, Publish: Members, Presence: most}}
		h.bind(p)
	}
	ann := h.dial("ann")
	ann.Join("lobby")
	for _, stricter := range []wire.Presence{wire.PresenceCount, wire.PresenceNone} {
		user := fmt.Sprint("u", stricter)
		bind(stricter)
		h.enterUser("lobby", user)
		if stricter == wire.PresenceCount {
			counted(t, ann, 2)
		}
		ann.Quiet()
		bind(wire.PresenceFull)
		h.removeUser(user)
		counted(t, ann, 1)
		invited(t, ann)
		equal(t, "members", read(t, ann), []string{"ann"})
		h.enterUser("lobby", user)
		named(t, ann, "join "+user)
		h.removeUser(user)
		named(t, ann, "leave "+user+" left")
	}
}

// TestListeners checks that members hear of presence or don't, as they have said last.
func TestListeners(t *testing.T) {
	h := open(t, func(p *Policy) { p.Grace = 0 })
	ann, bob := h.dial("ann"), h.dial("bob")
	bob.Join("lobby")
	for i, mode := range []string{"none", "full", "none", "count", "none", "full", "count"} {
		joinAs(ann, "lobby", mode)
		if i == 0 {
			named(t, bob, "join ann")
		}
		user := fmt.Sprint("u", i)
		h.enterUser("lobby", user)
		named(t, bob, "join "+user)
		switch mode {
		case "full":
			named(t, ann, "join "+user)
		case "count":
			counted(t, ann, i+3)
		}
		ann.Quiet()
		if mode == "none" {
			h.expectLittle(0, 1)
		} else {
			h.expectLittle(0, 2)
		}
	}
	_ = ann.WS.Close(1000, "")
	_ = bob.WS.Close(1000, "")
	h.waitFor("the room to be empty", func() bool { return h.Connections() == 0 })
	h.enterUser("lobby", "nobody hears it")
	h.expectLittle(0, 0)
}

// TestJoinsDoNotWaitForABroadcast lets members come, change and go while something is being said to the room.
func TestJoinsDoNotWaitForABroadcast(t *testing.T) {
	h := open(t, nil)
	ann, bob := h.dial("ann"), h.dial("bob")
	ann.Join("lobby")
	r := h.room("lobby")
	r.speaking.Lock()
	defer r.speaking.Unlock()
	bob.Join("lobby")
	named(t, ann, "join bob")
	bob.Send(`{"type":"status","id":1,"room":"lobby","status":"away"}`)
	bob.Next("presence")
	bob.Next("ack")
	bob.Send(`{"type":"leave","id":2,"room":"lobby"}`)
	bob.Next("ack")
}

// TestWalk has members come and go at random while a roll is walked, and expects all who are there all the time to be reached exactly once,
// and who comes not at all.
func TestWalk(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 3))
		r := &room{}
		for range random.IntN(3 * walkPart) {
			r.members.add(newMembership(r, new(Session), false))
		}
		stayed, reached := map[*membership]bool{}, map[*membership]int{}
		for _, m := range r.members.list {
			stayed[m.membership] = true
		}
		came := map[*membership]bool{}
		for start := true; r.walkSome(&r.members, start, func(m *member) { reached[m.membership]++ }); start = false {
			for range random.IntN(2 * walkPart) {
				switch n := len(r.members.list); {
				case random.IntN(3) == 0:
					m := newMembership(r, new(Session), false)
					came[m] = true
					r.members.add(m)
				case n > 0:
					m := r.members.list[random.IntN(n)].membership
					delete(stayed, m)
					r.members.remove(m)
				}
			}
		}
		for m, n := range reached {
			if n > 1 {
				t.Errorf("seed %d: %p was reached %d times", seed, m, n)
			}
			if came[m] {
				t.Errorf("seed %d: %p, who came meanwhile, was reached", seed, m)
			}
		}
		for m := range stayed {
			if reached[m] != 1 {
				t.Errorf("seed %d: %p, who stayed, was reached %d times", seed, m, reached[m])
			}
		}
		for i, m := range r.members.list {
			if m.slots[onMembers] != i {
				t.Errorf("seed %d: slot %d of %d", seed, m.slots[onMembers], i)
			}
		}
	}
}

// TestLargeRoomDoesNotHoldUpTheBus brings messages and losses of a large room to which something is just being said: other rooms hear theirs at
// once, the large one hears all in order, and the bus waits when too many wait.
func TestLargeRoomDoesNotHoldUpTheBus(t *testing.T) {
	h := open(t, nil)
	ann, bob := h.dial("ann"), h.dial("bob")
	for i := range walkPart {
		silent(t, h.endpoint, fmt.Sprint("u", i)).say(`{"type":"join","room":"large","presence":"none"}`)
	}
	joinAs(ann, "large", "none")
	bob.Join("small")
	equal(t, "members", h.Occupancy().Members, walkPart+2)
	receive := func(room string, n int) {
		h.Receive(h.channel(room), fmt.Appendf(nil, "mother-1 \n"+`{"type":"message","room":%q,"event":"x","data":%d,"from":null,"ts":1}`, room, n))
	}
	r := h.room("large")
	r.speaking.Lock()
	for n := range maxBacklog - 1 {
		receive("large", n)
	}
	h.Lost([]string{h.channel("large")})
	receive("small", 1)
	equal(t, "data", bob.Next("message")["data"], 1.0)
	ann.Quiet()
	began, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		close(began)
		receive("large", maxBacklog-1)
		receive("large", maxBacklog)
	}()
	<-began
	h.waitFor("as many to wait as may", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.backlog.waiting) == maxBacklog+1
	})
	select {
	case <-done:
		t.Error("the bus did not wait")
	default:
	}
	r.speaking.Unlock()
	<-done
	for n := range maxBacklog + 1 {
		if n == maxBacklog-1 {
			ann.Next("gap")
		}
		equal(t, "data", ann.Next("message")["data"], float64(n))
	}
	h.waitFor("the work to be done", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return !r.backlog.working
	})
	receive("large", -1)
	equal(t, "data", ann.Next("message")["data"], -1.0)
}
