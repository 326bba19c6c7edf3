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

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder is an Observer that keeps every event and what the events add up to.
type recorder struct {
	t testing.TB

	mu     sync.Mutex
	events map[string][]Event
	state  map[string]map[string]Member
	pseq   map[string]uint64
	taps   map[string][]func(Change)
}

func newRecorder(t testing.TB) *recorder {
	return &recorder{
		t: t, events: map[string][]Event{}, state: map[string]map[string]Member{},
		pseq: map[string]uint64{}, taps: map[string][]func(Change){},
	}
}

// replay makes the changes in members; an error tells that they don't follow from it.
func replay(members map[string]Member, c Change) error {
	for _, e := range c.Events {
		_, in := members[e.Member.User]
		switch e.Op {
		case Join:
			if in {
				return fmt.Errorf("join of %q, who is in", e.Member.User)
			}
			members[e.Member.User] = e.Member
		case Update:
			if !in {
				return fmt.Errorf("update of %q, who is not in", e.Member.User)
			}
			members[e.Member.User] = e.Member
		case Leave:
			if !in || e.Member.Conns != 0 {
				return fmt.Errorf("leave of %q, in: %t, conns: %d", e.Member.User, in, e.Member.Conns)
			}
			delete(members, e.Member.User)
		}
	}
	if len(members) != c.Count {
		return fmt.Errorf("count is %d with %d members", c.Count, len(members))
	}
	return nil
}

func (r *recorder) PresenceChanged(room string, c Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.PSeq <= r.pseq[room] {
		r.t.Errorf("pseq of %q went from %d to %d", room, r.pseq[room], c.PSeq)
	}
	r.pseq[room] = c.PSeq
	if r.state[room] == nil {
		r.state[room] = map[string]Member{}
	}
	// A room's first load is not told, so the state is that of the events alone and counts differ there.
	for _, e := range c.Events {
		if e.Op == Leave {
			delete(r.state[room], e.Member.User)
		} else {
			r.state[room][e.Member.User] = e.Member
		}
	}
	r.events[room] = append(r.events[room], c.Events...)
	for _, tap := range r.taps[room] {
		tap(c)
	}
}

func (r *recorder) tap(room string, f func(Change)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taps[room] = append(r.taps[room], f)
}

// log returns the events of room in short, e.g. "join ann online {}" or "leave ann left".
func (r *recorder) log(room string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, e := range r.events[room] {
		if e.Op == Leave {
			out = append(out, fmt.Sprintf("leave %s %s", e.Member.User, e.Reason))
		} else {
			out = append(out, fmt.Sprintf("%s %s %s %s", e.Op, e.Member.User, e.Member.Status, e.Member.State))
		}
	}
	return out
}

func (r *recorder) clear(room string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events[room] = nil
}

// eventually waits until ok returns true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// site is what the suite runs on: stores that share their presence, each with its observer.
type site struct {
	t      *testing.T
	stores []Store
	seen   []*recorder
	// open subscribes store i to room and opens it.
	open func(i int, room string)
}

// at returns the number of the i-th store; with one store it is always that one.
func (s *site) at(i int) int { return i % len(s.stores) }

func (s *site) store(i int) Store        { return s.stores[s.at(i)] }
func (s *site) recorder(i int) *recorder { return s.seen[s.at(i)] }

func (s *site) openAll(room string) {
	for i := range s.stores {
		s.open(i, room)
	}
}

func (s *site) connect(i int, id, user string) {
	s.t.Helper()
	if _, _, err := s.store(i).Connect(s.t.Context(), Conn{ID: id, User: user, Device: "dev-" + id}); err != nil {
		s.t.Fatalf("Connect(%s): %v", id, err)
	}
}

func (s *site) join(i int, room, id string, st State) Snapshot {
	s.t.Helper()
	var snap Snapshot
	if err := s.store(i).Join(s.t.Context(), room, id, st, func(v View, _ bool) { snap = v.Page("", 1000) }); err != nil {
		s.t.Fatalf("Join(%s, %s): %v", room, id, err)
	}
	return snap
}

func (s *site) leave(i int, room, id string) {
	s.t.Helper()
	called := 0
	if err := s.store(i).Leave(s.t.Context(), room, id, ReasonLeft, func(bool) { called++ }); err != nil || called != 1 {
		s.t.Fatalf("Leave(%s, %s): %v, depart called %d times", room, id, err, called)
	}
}

func (s *site) members(i int, room string) map[string]Member {
	s.t.Helper()
	out := map[string]Member{}
	if !s.store(i).View(room, func(v View, _ bool) {
		for _, m := range v.Page("", 1_000_000).Members {
			out[m.User] = m
		}
	}) {
		s.t.Fatalf("room %q is not open", room)
	}
	return out
}

// expect waits until the events of room are want on every store, and are no more after all stores have caught up.
func (s *site) expect(room string, want ...string) {
	s.t.Helper()
	s.fence(room)
	for i, rec := range s.seen {
		if got := rec.log(room); !slices.Equal(got, want) {
			s.t.Errorf("store %d was told\n  %s\nwant\n  %s", i, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
		}
	}
}

// fence waits until every store has seen what happened in room so far: the events of one room have one order, so a
// user who comes and goes marks the spot.
func (s *site) fence(room string) {
	s.t.Helper()
	id := fmt.Sprintf("fence-%d", rand.Uint64())
	s.connect(0, id, id)
	s.join(0, room, id, State{})
	s.leave(0, room, id)
	s.store(0).Disconnect(id, 0, ReasonLeft)
	for i, rec := range s.seen {
		eventually(s.t, fmt.Sprintf("store %d hears of %s", i, id), func() bool {
			return slices.Contains(rec.log(room), "leave "+id+" left")
		})
		rec.mu.Lock()
		rec.events[room] = slices.DeleteFunc(rec.events[room], func(e Event) bool { return e.Member.User == id })
		rec.mu.Unlock()
	}
}

// runSuite runs the conformance suite; start makes n stores that share their presence, or one if it can't.
func runSuite(t *testing.T, start func(t *testing.T, n int) *site) {
	for name, test := range map[string]func(t *testing.T, s *site){
		"first join and last leave":     testFirstAndLast,
		"updates":                       testUpdates,
		"the latest connection shows":   testLatestShows,
		"rejoining is an update":        testRejoin,
		"disconnect leaves all rooms":   testDisconnect,
		"grace ends in a leave":         testGraceEnds,
		"grace and return":              testGraceReturn,
		"grace is cut short":            testGraceCut,
		"held places are given up":      testRelease,
		"status everywhere":             testStatusEverywhere,
		"status is forgotten":           testStatusForgotten,
		"online":                        testOnline,
		"user":                          testUser,
		"paging":                        testPaging,
		"rooms":                         testRooms,
		"instances":                     testInstances,
		"invalid names":                 testInvalid,
		"calls at the wrong time":       testWrongTime,
		"closing a room":                testCloseRoom,
		"closed":                        testClosed,
		"a quiet connection":            testQuiet,
		"who is back is counted once":   testBackIsCountedOnce,
		"snapshots and events add up":   testAtomic,
		"any state passes byte by byte": testBytes,
		"who has left":                  testDeparted,
		"who has left long ago":         testDepartedBound,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, start(t, 2))
		})
	}
}

func testFirstAndLast(t *testing.T, s *site) {
	s.openAll("r")
	s.connect(0, "a1", "ann")
	s.connect(0, "a2", "ann")
	s.connect(1, "a3", "ann")
	s.connect(1, "b1", "bob")
	snap := s.join(0, "r", "a1", State{})
	if snap.Count != 1 || snap.Degraded || len(snap.Members) != 1 || snap.Members[0].Conns != 1 || snap.Members[0].Device != "dev-a1" {
		t.Errorf("the first one sees %+v", snap)
	}
	s.join(0, "r", "a2", State{})
	snap = s.join(1, "r", "a3", State{})
	if snap.Members[0].Conns != 3 {
		t.Errorf("with three connections it sees %+v", snap)
	}
	if since := snap.Members[0].Since; time.Since(time.UnixMilli(since)).Abs() > time.Minute {
		t.Errorf("since is %d", since)
	}
	s.join(1, "r", "b1", State{})
	s.leave(0, "r", "a1")
	s.leave(1, "r", "a3")
	s.leave(0, "r", "a1") // not in: no error, no event
	s.leave(1, "r", "b1")
	s.leave(0, "r", "a2")
	log := slices.DeleteFunc(drain(s, "r", 0), func(e string) bool { return strings.HasPrefix(e, "update") })
	if want := []string{"join ann online {}", "join bob online {}", "leave bob left", "leave ann left"}; !slices.Equal(log, want) {
		t.Errorf("told %q, want %q", log, want)
	}
}

func drain(s *site, room string, i int) []string {
	s.t.Helper()
	s.fence(room)
	return s.recorder(i).log(room)
}

// sameDevice connects without a device, so that which connection is shown makes no difference by that.
func (s *site) sameDevice(i int, id, user string) {
	s.t.Helper()
	if _, _, err := s.store(i).Connect(s.t.Context(), Conn{ID: id, User: user}); err != nil {
		s.t.Fatalf("Connect(%s): %v", id, err)
	}
}

func testUpdates(t *testing.T, s *site) {
	s.openAll("r")
	s.sameDevice(0, "a1", "ann")
	s.join(0, "r", "a1", State{Status: "away", State: `{"x":1}`})
	for _, st := range []State{{}, {Status: "away"}, {State: `{"x":1}`}, {Status: "busy"}, {Status: "busy", State: `{"x":2}`}, {Status: "busy"}} {
		if degraded, err := s.store(0).Update(t.Context(), "r", "a1", st); err != nil || degraded {
			t.Fatalf("Update(%v): %t, %v", st, degraded, err)
		}
	}
	s.expect("r", `join ann away {"x":1}`, `update ann busy {"x":1}`, `update ann busy {"x":2}`)
}

func testLatestShows(t *testing.T, s *site) {
	s.openAll("r")
	s.sameDevice(0, "a1", "ann")
	s.sameDevice(1, "a2", "ann")
	s.join(0, "r", "a1", State{State: `{"n":1}`})
	s.join(1, "r", "a2", State{State: `{"n":2}`})
	if _, err := s.store(0).Update(t.Context(), "r", "a1", State{State: `{"n":3}`}); err != nil {
		t.Fatal(err)
	}
	s.leave(0, "r", "a1")
	s.leave(1, "r", "a2")
	s.expect("r", `join ann online {"n":1}`, `update ann online {"n":2}`, `update ann online {"n":3}`, `update ann online {"n":2}`, "leave ann left")
}

func testQuiet(t *testing.T, s *site) {
	s.openAll("r")
	s.connect(0, "a1", "ann")
	s.connect(1, "a2", "ann")
	s.connect(1, "a3", "ann")
	s.join(0, "r", "a1", State{Status: "away", State: `{"n":1}`})
	s.join(1, "r", "a2", State{}) // says nothing, so what a1 says stays shown
	s.join(1, "r", "a3", State{})
	s.leave(1, "r", "a2")
	s.expect("r", `join ann away {"n":1}`)
	s.leave(0, "r", "a1")
	if _, err := s.store(1).Update(t.Context(), "r", "a3", State{Status: "busy"}); err != nil {
		t.Fatal(err)
	}
	s.expect("r", `join ann away {"n":1}`, `update ann online {}`, `update ann busy {}`)
}

func testBackIsCountedOnce(t *testing.T, s *site) {
	s.openAll("r")
	s.sameDevice(0, "a1", "ann")
	s.join(0, "r", "a1", State{})
	s.store(0).Disconnect("a1", time.Hour, ReasonTimeout)
	s.sameDevice(0, "a2", "ann")
	if snap := s.join(0, "r", "a2", State{}); snap.Members[0].Conns != 1 {
		t.Errorf("who came back sees %+v", snap)
	}
	s.expect("r", "join ann online {}")
}

func testRejoin(t *testing.T, s *site) {
	s.openAll("r")
	s.sameDevice(0, "a1", "ann")
	s.join(0, "r", "a1", State{State: `{"n":1}`})
	s.join(0, "r", "a1", State{})
	s.join(0, "r", "a1", State{Status: "busy"})
	s.expect("r", `join ann online {"n":1}`, `update ann busy {"n":1}`)
	s.leave(0, "r", "a1")
	s.join(0, "r", "a1", State{})
	s.expect("r", `join ann online {"n":1}`, `update ann busy {"n":1}`, "leave ann left", "join ann online {}")
}

func testDisconnect(t *testing.T, s *site) {
	s.openAll("r1")
	s.openAll("r2")
	s.sameDevice(0, "a1", "ann")
	s.join(0, "r1", "a1", State{})
	s.join(0, "r2", "a1", State{})
	s.store(0).Disconnect("a1", 0, ReasonKicked)
	s.store(0).Disconnect("a1", 0, ReasonKicked)
	s.store(0).Disconnect("nobody", 0, ReasonKicked)
	s.expect("r1", "join ann online {}", "leave ann kicked")
	s.expect("r2", "join ann online {}", "leave ann kicked")
}

func testGraceEnds(t *testing.T, s *site) {
	s.openAll("r")
	s.sameDevice(0, "a1", "ann")
	s.join(0, "r", "a1", State{})
	s.store(0).Disconnect("a1", 50*time.Millisecond, ReasonTimeout)
	if m := s.members(0, "r")["ann"]; m.Conns != 1 {
		t.Errorf("while held: %+v", m)
	}
	for i := range s.stores {
		eventually(t, "the leave", func() bool { return slices.Contains(s.recorder(i).log("r"), "leave ann timeout") })
	}
	s.expect("r", "join ann online {}", "leave ann timeout")
	eventually(t, "ann is offline", func() bool { n, err := s.store(1).OnlineCount(t.Context()); return err == nil && n == 0 })
}

func testGraceReturn(t *testing.T, s *site) {
	for i := range 2 { // to the same store, to another
		room := fmt.Sprintf("r%d", i)
		user := fmt.Sprintf("ann%d", i)
		s.openAll(room)
		s.sameDevice(0, "old"+room, user)
		s.join(0, room, "old"+room, State{})
		s.store(0).Disconnect("old"+room, time.Hour, ReasonTimeout)
		s.sameDevice(i, "new"+room, user)
		s.join(i, room, "new"+room, State{})
		for j := range s.stores {
			eventually(t, "the held connection is dropped", func() bool { return s.members(j, room)[user].Conns == 1 })
		}
		s.expect(room, "join "+user+" online {}")
		s.leave(i, room, "new"+room)
		s.expect(room, "join "+user+" online {}", "leave "+user+" left")
	}
}

func testGraceCut(t *testing.T, s *site) {
	s.openAll("r")
	s.sameDevice(0, "a1", "ann")
	s.join(0, "r", "a1", State{})
	s.store(0).Disconnect("a1", time.Hour, ReasonTimeout)
	if err := s.store(0).Join(t.Context(), "r", "a1", State{}, nil); !errors.Is(err, ErrNotConnected) {
		t.Errorf("a held connection joined: %v", err)
	}
	s.store(0).Disconnect("a1", 0, ReasonKicked)
	s.expect("r", "join ann online {}", "leave ann kicked")
}

func testRelease(t *testing.T, s *site) {
	s.openAll("r")
	s.openAll("q")
	s.sameDevice(0, "a1", "ann")
	s.sameDevice(0, "b1", "bob")
	for _, room := range []string{"r", "q"} {
		s.join(0, room, "a1", State{})
		s.join(0, room, "b1", State{})
	}
	s.store(0).Disconnect("a1", time.Hour, ReasonTimeout)
	for _, user := range []string{"bob", "nobody"} { // who is not held stays
		s.store(0).Release(user, "", ReasonKicked)
	}
	s.store(0).Release("ann", "elsewhere", ReasonKicked)
	s.store(0).Release("ann", "r", ReasonKicked)
	s.expect("r", "join ann online {}", "join bob online {}", "leave ann kicked")
	s.expect("q", "join ann online {}", "join bob online {}")
	s.store(0).Release("ann", "", ReasonKicked)
	s.expect("q", "join ann online {}", "join bob online {}", "leave ann kicked")
	eventually(t, "ann is offline", func() bool { n, err := s.store(1).OnlineCount(t.Context()); return err == nil && n == 1 })
}

func testStatusEverywhere(t *testing.T, s *site) {
	s.openAll("r1")
	s.openAll("r2")
	s.sameDevice(0, "a1", "ann")
	s.sameDevice(1, "a2", "ann")
	s.join(0, "r1", "a1", State{})
	s.join(1, "r2", "a2", State{})
	if degraded, err := s.store(1).SetStatus(t.Context(), "ann", "busy"); err != nil || degraded {
		t.Fatalf("SetStatus: %t, %v", degraded, err)
	}
	for _, room := range []string{"r1", "r2"} {
		for i := range s.stores {
			eventually(t, "ann is busy", func() bool { return s.members(i, room)["ann"].Status == "busy" })
		}
		s.expect(room, "join ann online {}", "update ann busy {}")
	}
	status, degraded, err := s.store(0).Connect(t.Context(), Conn{ID: "a3", User: "ann"})
	if err != nil || degraded || status != "busy" {
		t.Fatalf("Connect: %q, %t, %v", status, degraded, err)
	}
	s.openAll("r3")
	s.join(0, "r3", "a3", State{})
	s.join(0, "r2", "a3", State{Status: "away"})
	s.expect("r3", "join ann busy {}")
	s.expect("r2", "join ann online {}", "update ann busy {}", "update ann away {}")
	eventually(t, "only ann is online, and busy", func() bool {
		users, _, err := s.store(0).Online(t.Context(), "", 10)
		return err == nil && len(users) == 1 && users[0].Status == "busy"
	})
}

func testStatusForgotten(t *testing.T, s *site) {
	s.connect(0, "a1", "ann")
	if _, err := s.store(0).SetStatus(t.Context(), "ann", "busy"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.store(0).SetStatus(t.Context(), "nobody", "busy"); err != nil {
		t.Fatal(err)
	}
	s.store(0).Disconnect("a1", 0, ReasonLeft)
	eventually(t, "ann is offline", func() bool { n, err := s.store(1).OnlineCount(t.Context()); return err == nil && n == 0 })
	for _, user := range []string{"ann", "nobody"} {
		if status, _, err := s.store(1).Connect(t.Context(), Conn{ID: user + "-later", User: user}); err != nil || status != "" {
			t.Errorf("Connect of %s: %q, %v", user, status, err)
		}
	}
}

func testOnline(t *testing.T, s *site) {
	var want []string
	for n := range 25 {
		user := fmt.Sprintf("u%02d", n)
		want = append(want, user)
		s.connect(n, fmt.Sprintf("c%d", n), user)
	}
	s.connect(1, "second", "u03")
	s.store(0).Touch("c4")
	var got []string
	for cursor, pages := "", 0; ; pages++ {
		users, next, err := s.store(0).Online(t.Context(), cursor, 10)
		if err != nil || len(users) > 10 || pages > 3 {
			t.Fatalf("Online(%q): %d users, %v", cursor, len(users), err)
		}
		for _, u := range users {
			got = append(got, u.User)
			if u.Status != DefaultStatus || time.Since(time.UnixMilli(u.Since)).Abs() > time.Minute || u.LastSeen < u.Since {
				t.Errorf("%+v", u)
			}
			if u.User == "u03" && (u.Conns != 2 || !slices.Equal(u.Devices, []string{"dev-c3", "dev-second"})) {
				t.Errorf("two connections: %+v", u)
			}
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("online are %q", got)
	}
	s.store(1).Disconnect("second", 0, ReasonLeft)
	s.store(0).Disconnect("c0", 0, ReasonLeft)
	eventually(t, "u00 is offline", func() bool { n, err := s.store(1).OnlineCount(t.Context()); return err == nil && n == 24 })
}

func testUser(t *testing.T, s *site) {
	user := func(i int, id string) (OnlineUser, bool) {
		t.Helper()
		u, online, err := s.store(i).User(t.Context(), id)
		if err != nil {
			t.Fatalf("User(%q): %v", id, err)
		}
		return u, online
	}
	if u, online := user(0, "ann"); online || u.Conns != 0 {
		t.Errorf("before she came: %+v", u)
	}
	s.connect(0, "a1", "ann")
	s.connect(1, "a2", "ann")
	s.connect(1, "b1", "bob")
	if _, err := s.store(1).SetStatus(t.Context(), "ann", "busy"); err != nil {
		t.Fatal(err)
	}
	all, _, err := s.store(0).Online(t.Context(), "", 1)
	if err != nil || len(all) != 1 {
		t.Fatalf("Online: %v, %v", all, err)
	}
	for i := range s.stores {
		u, online := user(i, "ann")
		if !online || u.User != "ann" || u.Status != "busy" || u.Conns != 2 || !slices.Equal(u.Devices, []string{"dev-a1", "dev-a2"}) {
			t.Errorf("store %d: %t, %+v", i, online, u)
		}
		if u.Since != all[0].Since || u.LastSeen != all[0].LastSeen || u.LastSeen < u.Since || u.Since == 0 {
			t.Errorf("store %d has %+v, the list of who is online %+v", i, u, all[0])
		}
	}
	if u, _ := user(0, "bob"); u.Status != DefaultStatus || u.Conns != 1 {
		t.Errorf("%+v", u)
	}
	s.store(0).Disconnect("a1", 0, ReasonLeft)
	eventually(t, "one connection is gone", func() bool { u, online := user(1, "ann"); return online && u.Conns == 1 })
	s.store(1).Disconnect("a2", 0, ReasonLeft)
	eventually(t, "ann is offline", func() bool { _, online := user(0, "ann"); return !online })
	for _, id := range []string{"", strings.Repeat("x", MaxName+1), "a\nb"} {
		if _, _, err := s.store(0).User(t.Context(), id); !errors.Is(err, ErrInvalid) {
			t.Errorf("User(%q): %v", id, err)
		}
	}
}

func testPaging(t *testing.T, s *site) {
	s.openAll("r")
	const n = 57
	for k := range n {
		id := fmt.Sprintf("c%d", k)
		s.connect(k, id, fmt.Sprintf("user-%03d", (k*31)%n))
		s.join(k, "r", id, State{})
	}
	s.fence("r")
	for i := range s.stores {
		var got []string
		pages := 0
		s.store(i).View("r", func(v View, degraded bool) {
			if none := v.Page("", 0); len(none.Members) != 0 || none.Count != n || none.Next != "" || none.PSeq == 0 || degraded {
				t.Errorf("Page of 0: %+v, degraded %t", none, degraded)
			}
			for cursor := ""; ; pages++ {
				p := v.Page(cursor, 19)
				for _, m := range p.Members {
					got = append(got, m.User)
				}
				if cursor = p.Next; cursor == "" {
					break
				}
			}
		})
		if len(got) != n || !slices.IsSorted(got) || pages != 2 {
			t.Errorf("store %d: %d members in %d full pages: %q", i, len(got), pages, got)
		}
	}
	s.store(0).View("r", func(v View, _ bool) {
		if _, in := v.Member("nobody"); in {
			t.Error("nobody is a member")
		}
	})
	if s.store(0).View("unknown", func(View, bool) { t.Error("called") }) {
		t.Error("a room that isn't open was viewed")
	}
}

func testInvalid(t *testing.T, s *site) {
	s.openAll("r")
	s.connect(0, "c", "u")
	s.join(0, "r", "c", State{})
	long := strings.Repeat("x", MaxName+1)
	for name, call := range map[string]func() error{
		"room/empty":   func() error { _, err := s.store(0).Open(t.Context(), ""); return err },
		"room/long":    func() error { _, err := s.store(0).Open(t.Context(), long); return err },
		"user/empty":   func() error { _, _, err := s.store(0).Connect(t.Context(), Conn{ID: "x"}); return err },
		"user/control": func() error { _, _, err := s.store(0).Connect(t.Context(), Conn{ID: "x", User: "a\nb"}); return err },
		"conn/empty":   func() error { _, _, err := s.store(0).Connect(t.Context(), Conn{User: "x"}); return err },
		"device/control": func() error {
			_, _, err := s.store(0).Connect(t.Context(), Conn{ID: "x", User: "x", Device: "\x00"})
			return err
		},
		"join status":     func() error { return s.store(0).Join(t.Context(), "r", "c", State{Status: "a\tb"}, nil) },
		"update status":   func() error { _, err := s.store(0).Update(t.Context(), "r", "c", State{Status: long}); return err },
		"status/empty":    func() error { _, err := s.store(0).SetStatus(t.Context(), "u", ""); return err },
		"status user":     func() error { _, err := s.store(0).SetStatus(t.Context(), "", "busy"); return err },
		"status/control":  func() error { _, err := s.store(0).SetStatus(t.Context(), "u", "\n"); return err },
		"connection/long": func() error { _, _, err := s.store(0).Connect(t.Context(), Conn{ID: long, User: "x"}); return err },
	} {
		if err := call(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, user := range []string{"*", "[a-z]", "{x}", "a b", `"`, "ümläut", strings.Repeat("x", MaxName)} {
		s.connect(0, "c-"+user[:1], user)
		s.join(0, "r", "c-"+user[:1], State{})
		s.leave(0, "r", "c-"+user[:1])
		s.store(0).Disconnect("c-"+user[:1], 0, ReasonLeft)
	}
}

func testWrongTime(t *testing.T, s *site) {
	s.openAll("r")
	s.connect(0, "c", "u")
	admit := func(View, bool) { t.Error("admitted") }
	for name, tt := range map[string]struct {
		err  error
		want error
	}{
		"room not open":  {s.store(0).Join(t.Context(), "other", "c", State{}, admit), ErrNotOpen},
		"not connected":  {s.store(0).Join(t.Context(), "r", "x", State{}, admit), ErrNotConnected},
		"update, no one": {second(s.store(0).Update(t.Context(), "r", "c", State{Status: "busy"})), ErrNotMember},
		"update, closed": {second(s.store(0).Update(t.Context(), "other", "c", State{})), ErrNotOpen},
	} {
		if !errors.Is(tt.err, tt.want) {
			t.Errorf("%s: %v", name, tt.err)
		}
	}
	if _, _, err := s.store(0).Connect(t.Context(), Conn{ID: "c", User: "u"}); !errors.Is(err, ErrConnected) {
		t.Errorf("connected twice: %v", err)
	}
	s.leave(0, "other", "c")
	s.store(0).CloseRoom("other")
	s.store(0).Touch("x")
}

func second(_ bool, err error) error { return err }

func testCloseRoom(t *testing.T, s *site) {
	s.open(0, "r")
	s.connect(0, "c", "u")
	s.join(0, "r", "c", State{})
	s.store(0).CloseRoom("r")
	if len(s.members(0, "r")) != 1 {
		t.Fatal("a room with a member was closed")
	}
	s.store(0).Disconnect("c", time.Hour, ReasonTimeout)
	s.store(0).CloseRoom("r")
	if len(s.members(0, "r")) != 1 {
		t.Fatal("a room with a held member was closed")
	}
	s.store(0).Disconnect("c", 0, ReasonTimeout)
	if s.store(0).View("r", func(View, bool) {}) {
		t.Fatal("the room was to be closed when the held member had left")
	}
	s.open(0, "r")
	s.connect(0, "d", "u")
	s.recorder(0).mu.Lock()
	before := s.recorder(0).pseq["r"]
	s.recorder(0).mu.Unlock()
	if snap := s.join(0, "r", "d", State{}); snap.Count != 1 || snap.PSeq <= before {
		t.Errorf("open again, pseq was %d: %+v", before, snap)
	}
}

func testClosed(t *testing.T, s *site) {
	s.openAll("r")
	s.connect(0, "c", "u")
	s.join(0, "r", "c", State{})
	st := s.store(0)
	if err := st.Close(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"Join":      st.Join(t.Context(), "r", "c", State{}, nil),
		"Leave":     st.Leave(t.Context(), "r", "c", ReasonLeft, nil),
		"Update":    second(st.Update(t.Context(), "r", "c", State{})),
		"SetStatus": second(st.SetStatus(t.Context(), "u", "busy")),
		"Open":      second(st.Open(t.Context(), "r")),
		"Close":     st.Close(t.Context(), 0),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := st.Connect(t.Context(), Conn{ID: "d", User: "u"}); !errors.Is(err, ErrClosed) {
		t.Errorf("Connect: %v", err)
	}
	if _, _, err := st.Online(t.Context(), "", 1); !errors.Is(err, ErrClosed) {
		t.Errorf("Online: %v", err)
	}
	if _, _, err := st.User(t.Context(), "u"); !errors.Is(err, ErrClosed) {
		t.Errorf("User: %v", err)
	}
	if _, err := st.OnlineCount(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("OnlineCount: %v", err)
	}
	st.Disconnect("c", 0, ReasonLeft)
	st.Touch("c")
	st.CloseRoom("r")
}

// testAtomic churns a room from many connections; what each was admitted with, plus every later change until it
// departs, must always be a state of the room, and at the end the state.
func testAtomic(t *testing.T, s *site) {
	s.openAll("r")
	const workers, rounds = 6, 40
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for n := range rounds {
				id := fmt.Sprintf("w%d-%d", w, n)
				st, rec := s.store(w), s.recorder(w)
				user := fmt.Sprintf("user%d", (w+n)%4)
				if _, _, err := st.Connect(t.Context(), Conn{ID: id, User: user}); err != nil {
					t.Error(err)
					return
				}
				mirror := map[string]Member{}
				admitted, failed := false, false
				rec.tap("r", func(c Change) {
					if !admitted || failed {
						return
					}
					if err := replay(mirror, c); err != nil {
						failed = true
						t.Errorf("%s: %v", id, err)
					}
				})
				err := st.Join(t.Context(), "r", id, State{State: fmt.Sprintf(`{"n":%d}`, n)}, func(v View, degraded bool) {
					if degraded {
						t.Errorf("%s: degraded", id)
					}
					for _, m := range v.Page("", 1000).Members {
						mirror[m.User] = m
					}
					if m, in := v.Member(user); !in || m != mirror[user] {
						t.Errorf("%s is not in its own view", id)
					}
					admitted = true
				})
				if err != nil {
					t.Error(err)
				}
				if n%3 == 0 {
					if _, err := st.Update(t.Context(), "r", id, State{Status: "busy"}); err != nil {
						t.Error(err)
					}
				}
				if err := st.Leave(t.Context(), "r", id, ReasonLeft, func(bool) { admitted = false }); err != nil {
					t.Error(err)
				}
				st.Disconnect(id, 0, ReasonLeft)
			}
		})
	}
	wg.Wait()
	s.fence("r")
	for i, rec := range s.seen {
		if left := s.members(i, "r"); len(left) != 0 {
			t.Errorf("store %d: still in: %v", i, left)
		}
		rec.mu.Lock()
		if len(rec.state["r"]) != 0 {
			t.Errorf("store %d: by its events still in: %v", i, slices.Collect(maps.Keys(rec.state["r"])))
		}
		rec.mu.Unlock()
	}
}

func testBytes(t *testing.T, s *site) {
	s.openAll("r")
	s.sameDevice(0, "a1", "ann")
	state := "{\n\t\"a\": \"\x00\xff 1 2\\n\" }\r\n"
	s.join(0, "r", "a1", State{State: state, Status: "läuft"})
	s.fence("r")
	for i := range s.stores {
		if m := s.members(i, "r")["ann"]; m.State != state || m.Status != "läuft" {
			t.Errorf("store %d: %+v", i, m)
		}
	}
}

func memorySite(t *testing.T, _ int) *site { return startMemory(t, Options{}) }

func startMemory(t *testing.T, opts Options) *site {
	rec := newRecorder(t)
	m := NewMemory(opts, rec)
	t.Cleanup(func() { _ = m.Close(context.Background(), 0) })
	return &site{t: t, stores: []Store{m}, seen: []*recorder{rec}, open: func(_ int, room string) {
		if degraded, err := m.Open(t.Context(), room); err != nil || degraded {
			t.Fatalf("Open(%s): %t, %v", room, degraded, err)
		}
	}}
}

func TestMemory(t *testing.T) { runSuite(t, memorySite) }
