package presence

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// visits numbers connections.
var visits atomic.Int64

// departed returns who has left a room, as store i knows it.
func (s *site) departed(i int, room string) (all []Departed) {
	s.t.Helper()
	if !s.store(i).View(room, func(v View, _ bool) { all = v.Departed() }) {
		s.t.Fatalf("room %q is not open", room)
	}
	return all
}

// expectDeparted waits until every store knows that these have left, the latest first, each written as user and state.
func (s *site) expectDeparted(room string, want ...string) {
	s.t.Helper()
	for i := range s.stores {
		var got []string
		deadline := time.Now().Add(20 * time.Second)
		for {
			got = nil
			all := s.departed(i, room)
			for _, d := range all {
				got = append(got, d.User+" "+d.State)
			}
			if slices.Equal(got, want) {
				if !slices.IsSortedFunc(all, func(a, b Departed) int { return int(b.At - a.At) }) {
					s.t.Errorf("store %d: times of %v", i, all)
				}
				break
			}
			if time.Now().After(deadline) {
				s.t.Fatalf("store %d knows that these have left:\n  %.2000q\nwant\n  %.2000q", i, got, want)
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
}

// visit has a user come into a room and leave it.
func (s *site) visit(i int, room, user, state string) {
	s.t.Helper()
	id := fmt.Sprintf("visit-%d", visits.Add(1))
	s.connect(i, id, user)
	s.join(i, room, id, State{State: state})
	s.leave(i, room, id)
	s.store(i).Disconnect(id, 0, ReasonLeft)
}

func testDeparted(t *testing.T, s *site) {
	s.openAll("r")
	if got := s.departed(0, "r"); got == nil || len(got) > 0 {
		t.Errorf("at first have left %v", got)
	}
	before := time.Now().UnixMilli()
	const state = "{\n \"a\" :\n\t\"\\\"\\n\"}\n"
	s.visit(0, "r", "ann", state)
	const ann = "ann " + state
	s.expectDeparted("r", ann)
	for _, d := range s.departed(0, "r") {
		if d.At < before-1000 || d.At > time.Now().UnixMilli()+1000 {
			t.Errorf("left at %d, it is %d", d.At, time.Now().UnixMilli())
		}
	}
	s.visit(1, "r", "bob", `{"n":1}`)
	s.expectDeparted("r", `bob {"n":1}`, ann)

	// Who leaves again is told once, as of the last time.
	s.visit(1, "r", "ann", `{"n":2}`)
	s.expectDeparted("r", `ann {"n":2}`, `bob {"n":1}`)

	// Who is back has not left, and who has another connection has not either.
	s.connect(0, "b1", "bob")
	s.connect(1, "b2", "bob")
	s.join(0, "r", "b1", State{State: `{"n":3}`})
	s.join(1, "r", "b2", State{State: `{"n":4}`})
	s.expectDeparted("r", `ann {"n":2}`)
	s.leave(0, "r", "b1")
	s.fence("r")
	for i := range s.stores {
		if all := s.departed(i, "r"); slices.ContainsFunc(all, func(d Departed) bool { return d.User == "bob" }) {
			t.Errorf("store %d has bob, who is in: %v", i, all)
		}
	}
	s.leave(1, "r", "b2")
	for i := range s.stores {
		eventually(t, "bob has left last", func() bool {
			all := s.departed(i, "r")
			return all[0].User == "bob" && all[0].State == `{"n":4}` && len(all) == 3 // with who made the fence
		})
	}

	s.openAll("names")
	var want []string
	for _, name := range hostile {
		s.visit(0, "names", name, `{"percent":"%s%1","tab":"\\t"}`)
		want = slices.Insert(want, 0, name+` {"percent":"%s%1","tab":"\\t"}`)
		s.expectDeparted("names", want...)
	}
}

func testDepartedBound(t *testing.T, s *site) {
	s.openAll("r")
	var want []string
	for i := range MaxDeparted + 20 {
		user := fmt.Sprint("u", i)
		s.visit(i, "r", user, "")
		want = slices.Insert(want, 0, user+" {}")
		want = want[:min(len(want), MaxDeparted)]
		if i%10 == 9 {
			s.expectDeparted("r", want...)
		}
	}
}

// TestDepartedForAnHour has someone leave a room that stays occupied: after an hour nobody is told of it.
func TestDepartedForAnHour(t *testing.T) {
	for name, start := range map[string]func(t *testing.T, clock func() time.Time) *site{
		"memory": func(t *testing.T, clock func() time.Time) *site {
			return startMemory(t, Options{clock: clock})
		},
		"Redis": func(t *testing.T, clock func() time.Time) *site {
			return startCluster(t, redistest.Start(t), 1, Options{clock: clock}).site
		},
	} {
		t.Run(name, func(t *testing.T) {
			ahead := make(chan time.Duration, 1)
			ahead <- 0
			s := start(t, func() time.Time {
				d := <-ahead
				ahead <- d
				return time.Now().Add(d)
			})
			s.openAll("r")
			s.connect(0, "stays", "stays")
			s.join(0, "r", "stays", State{})
			s.visit(0, "r", "ann", "")
			<-ahead
			ahead <- 50 * time.Minute
			s.expectDeparted("r", "ann {}")
			s.visit(0, "r", "bob", "")
			s.expectDeparted("r", "bob {}", "ann {}")
			<-ahead
			ahead <- 61 * time.Minute
			s.expectDeparted("r", "bob {}")
		})
	}
}

// TestDepartedBeforeTheRoomWasOpen opens a room where others have left: with what Redis remembers of them.
func TestDepartedBeforeTheRoomWasOpen(t *testing.T) {
	server := redistest.Start(t)
	c := startCluster(t, server, 2, Options{})
	c.open(0, "r")
	one := &site{t: t, stores: c.stores[:1], seen: c.seen[:1], open: c.site.open}
	later := &site{t: t, stores: c.stores[1:], seen: c.seen[1:]}
	state := func(n int) string { return fmt.Sprintf(`{"x":"%s"}`, strings.Repeat("x", n-8)) }
	one.visit(0, "r", "first", "{\n\t}")
	one.visit(0, "r", "twice", "{}")
	one.visit(0, "r", `"%s\`, state(2048))
	one.visit(0, "r", "twice", state(2048))
	one.visit(0, "r", "last", state(2048))
	c.open(1, "r")
	later.expectDeparted("r", "last "+state(2048), "twice "+state(2048), `"%s\ `+state(2048), "first {\n\t}")

	// Redis remembers as many as are told.
	c.open(0, "full")
	var want []string
	for i := range MaxDeparted + 5 {
		user := fmt.Sprint("u", i)
		one.visit(0, "full", user, "{}")
		want = slices.Insert(want, 0, user+" {}")
	}
	c.open(1, "full")
	later.expectDeparted("full", want[:MaxDeparted]...)
	if n := c.redis.LLen(t.Context(), c.nodes[0].keys.departed("full")).Val(); n != MaxDeparted {
		t.Errorf("Redis has %d who have left", n)
	}
}

// TestDepartedByDeath kills an instance with many members of one room who say much: the others and who comes later know of the last of them.
func TestDepartedByDeath(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 2, Options{TTL: time.Second})
	c.open(0, "r")
	for i := range 600 {
		id := fmt.Sprintf("u%03d", i)
		c.sameDevice(0, id, id)
		c.join(0, "r", id, State{State: fmt.Sprintf(`{"x":"%s"}`, strings.Repeat("x", 2000))})
	}
	c.kill(0)
	eventually(t, "they are removed", func() bool { return len(c.rows("r")) == 0 })
	c.open(1, "r")
	one := &site{t: t, stores: c.stores[1:], seen: c.seen[1:]}
	if all := one.departed(0, "r"); len(all) != MaxDeparted {
		t.Errorf("%d are known, want %d", len(all), MaxDeparted)
	}
}

// TestDepartedAfterAFlush empties Redis: the instances that were there still know who has left.
func TestDepartedAfterAFlush(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 2, Options{})
	c.openAll("r")
	c.connect(0, "stays", "stays")
	c.join(0, "r", "stays", State{})
	c.visit(0, "r", "ann", `{"n":1}`)
	c.visit(1, "r", "bob", `{"n":2}`)
	c.expectDeparted("r", `bob {"n":2}`, `ann {"n":1}`)
	if err := c.redis.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it was noticed", func() bool { return len(c.rows("r")) == 1 })
	for i := range c.nodes {
		eventually(t, "it has a new name", func() bool {
			c.nodes[i].mu.Lock()
			defer c.nodes[i].mu.Unlock()
			return c.nodes[i].iid == c.nodes[i].name(2)
		})
		c.ready(i)
	}
	c.expectDeparted("r", `bob {"n":2}`, `ann {"n":1}`)
	c.visit(1, "r", "ann", `{"n":3}`)
	c.expectDeparted("r", `ann {"n":3}`, `bob {"n":2}`)
}

// TestDepartedText reads what no script writes.
func TestDepartedText(t *testing.T) {
	var d departed
	d.addAll([]string{"", " ", "x ann\t{}", "12", "12 ", "12 ann", "99999999999999999999 ann\t{}", "13 bob\t{\"tab\":\t1}"})
	if want := (departed{{"bob", "{\"tab\":\t1}", 13}}); !slices.Equal(d, want) {
		t.Errorf("read %v, want %v", d, want)
	}
	// Whatever the order, each is there once, at the latest time.
	d.addAll([]string{"11 eve\t{}", "15 bob\t{}", "14 bob\t{}", "14 ann\t{}"})
	if want := (departed{{"eve", "{}", 11}, {"ann", "{}", 14}, {"bob", "{}", 15}}); !slices.Equal(d, want) {
		t.Errorf("read %v, want %v", d, want)
	}
}
