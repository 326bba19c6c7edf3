package presence

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// listRooms returns all rooms whose names begin with prefix, after one of them, read by store i in pages of so many.
func (s *site) listRooms(i int, prefix, after string, limit int) (all []RoomCount, pages int) {
	s.t.Helper()
	for {
		rooms, next, err := s.store(i).Rooms(s.t.Context(), prefix, after, limit)
		if err != nil || len(rooms) > limit {
			s.t.Fatalf("Rooms(%q, %q, %d): %d rooms, %v", prefix, after, limit, len(rooms), err)
		}
		all = append(all, rooms...)
		pages++
		if next == "" {
			return all, pages
		}
		if next <= after {
			s.t.Fatalf("Rooms(%q, %q, %d): next is %q", prefix, after, limit, next)
		}
		after = next
	}
}

func namesOf(rooms []RoomCount) (names []string) {
	for _, r := range rooms {
		names = append(names, r.Room)
	}
	return names
}

func testRooms(t *testing.T, s *site) {
	if rooms, _ := s.listRooms(0, "", "", 10); len(rooms) != 0 {
		t.Errorf("before anybody came: %v", rooms)
	}
	// In the order of their bytes; some at the edges of prefixes.
	names := []string{"A", "a", "a b", "a:", "a:1", "a:10", "a:2", "a;", "b", "b:1", "\xc3", "ä", "\xff", "\xff\xff", "\xff\xff1"}
	if !slices.IsSorted(names) {
		t.Fatal("the names are not in order")
	}
	s.openAll("empty")
	for k, name := range names {
		s.openAll(name)
		id := fmt.Sprint("c", k)
		s.connect(k, id, fmt.Sprint("u", k))
		s.join(k, name, id, State{})
	}
	s.connect(1, "again", "u0")
	s.join(1, "A", "again", State{})
	s.connect(1, "other", "other")
	s.join(1, "A", "other", State{})

	with := func(prefix, after string) (want []string) {
		for _, name := range names {
			if strings.HasPrefix(name, prefix) && name > after {
				want = append(want, name)
			}
		}
		return want
	}
	for i := range s.stores {
		for _, prefix := range []string{"", "a", "a:", "a:1", "b", "c", "empty", "\xc3", "ä", "\xff", "\xff\xff", "\xff\xff\xff"} {
			for _, after := range []string{"", "A", "Z", "a:1", "a:11", "b", "zzz", "\xff\xff1"} {
				for _, limit := range []int{1, 3, len(names), 1000} {
					rooms, pages := s.listRooms(i, prefix, after, limit)
					want := with(prefix, after)
					if got := namesOf(rooms); !slices.Equal(got, want) || pages > max(1, (len(want)+limit-1)/limit) {
						t.Errorf("store %d: after %q with %q by %d: %q in %d pages, want %q", i, after, prefix, limit, got, pages, want)
					}
				}
			}
		}
		rooms, _ := s.listRooms(i, "", "", 2)
		for _, want := range []RoomCount{{"A", 2, 3}, {"b", 1, 1}} {
			if !slices.Contains(rooms, want) {
				t.Errorf("store %d: rooms %v are without %v", i, rooms, want)
			}
			if got, err := s.store(i).RoomCount(t.Context(), want.Room); err != nil || got != want {
				t.Errorf("store %d: %v, %v, want %v", i, got, err, want)
			}
		}
		for _, name := range []string{"empty", "never"} {
			if got, err := s.store(i).RoomCount(t.Context(), name); err != nil || got != (RoomCount{Room: name}) {
				t.Errorf("store %d: %v, %v", i, got, err)
			}
		}
		if _, err := s.store(i).RoomCount(t.Context(), ""); !errors.Is(err, ErrInvalid) {
			t.Errorf("no name: %v", err)
		}
	}

	// A room is listed until the last one has left it, and when somebody is back.
	listed := func(i int) bool {
		rooms, _ := s.listRooms(i, "A", "", 1)
		return len(rooms) == 1
	}
	s.leave(0, "A", "c0")
	s.leave(1, "A", "again")
	for i := range s.stores {
		if !listed(i) {
			t.Errorf("store %d does not list a room with a member", i)
		}
	}
	s.store(1).Disconnect("other", 0, ReasonLeft)
	for i := range s.stores {
		eventually(t, "the room is not listed", func() bool { return !listed(i) })
	}
	s.connect(1, "back", "back")
	s.join(1, "A", "back", State{})
	for i := range s.stores {
		if !listed(i) {
			t.Errorf("store %d does not list a room with a member who is back", i)
		}
	}
	if err := s.store(0).Close(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.store(0).Rooms(t.Context(), "", "", 1); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	if _, err := s.store(0).RoomCount(t.Context(), "A"); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// TestRedisRoomsTurnEmpty has rooms turn empty between the reading of their names and that of their counts: the pages go on behind them.
func TestRedisRoomsTurnEmpty(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 1, Options{})
	for k := range 10 {
		name := fmt.Sprint("r", k)
		c.openAll(name)
		c.fill(0, name, 1)
		if k < 8 { // named as having members, and without any
			c.leave(0, name, name+"-s0-000")
			if err := c.redis.ZAdd(t.Context(), c.nodes[0].keys.rooms(), redis.Z{Member: name}).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	rooms, pages := c.listRooms(0, "r", "", 3)
	if got := namesOf(rooms); !slices.Equal(got, []string{"r8", "r9"}) || pages != 4 {
		t.Errorf("%q in %d pages", got, pages)
	}
}

// TestRedisRoomsOccupiedAgain empties a room, on either of two instances, and has somebody come back on either.
func TestRedisRoomsOccupiedAgain(t *testing.T) {
	c := startCluster(t, redistest.Start(t), 2, Options{})
	c.openAll("r")
	c.view("r")
	for k := range 8 {
		id := fmt.Sprint("c", k)
		c.sameDevice(k/2, id, id)
		c.join(k/2, "r", id, State{})
		c.consistent("r", 0, 1)
		c.leave(k/2, "r", id)
		c.consistent("r", 0, 1)
	}
}

// TestRedisRoomsWithoutRedis asks for the rooms while Redis is out of reach, and after it came back without its data.
func TestRedisRoomsWithoutRedis(t *testing.T) {
	server := redistest.Start(t)
	c := startCluster(t, server, 2, Options{Timeout: time.Second})
	c.openAll("both")
	c.fill(0, "both", 2)
	c.fill(1, "both", 1)
	for i, name := range []string{"first", "second"} {
		c.open(i, name)
		c.fill(i, name, 1)
	}
	c.consistent("both", 0, 1)
	want := []RoomCount{{"both", 3, 3}, {"first", 1, 1}, {"second", 1, 1}}
	if rooms, _ := c.listRooms(0, "", "", 10); !slices.Equal(rooms, want) {
		t.Errorf("rooms %v", rooms)
	}
	server.Kill()
	for _, limit := range []int{1, 10} {
		rooms, next, err := c.nodes[0].Rooms(t.Context(), "", "", limit)
		if here := want[:min(limit, 2)]; err == nil || !slices.Equal(rooms, here) || (next == "") != (limit == 10) {
			t.Errorf("without Redis: %v, %q, %v, want %v", rooms, next, err, here)
		}
	}
	for _, want := range []RoomCount{want[0], {Room: "second"}} {
		if got, err := c.nodes[0].RoomCount(t.Context(), want.Room); err == nil || got != want {
			t.Errorf("without Redis: %v, %v", got, err)
		}
	}
	server.Run()
	// However early it is asked: all, or an error.
	eventually(t, "the rooms are known again", func() bool {
		rooms, _, err := c.nodes[0].Rooms(t.Context(), "", "", 10)
		counted, countErr := c.nodes[0].RoomCount(t.Context(), "both")
		if err == nil && !slices.Equal(rooms, want) || countErr == nil && counted != want[0] {
			t.Fatalf("rooms %v, and in one %v, without an error", rooms, counted)
		}
		return err == nil && countErr == nil
	})
	c.consistent("both", 0, 1)
	c.consistent("first", 0)
	c.consistent("second", 1)
}
