package presence

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestGraceIsExact goes by a clock that stands still between events.
func TestGraceIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memorySite(t, 1)
		s.open(0, "r")
		s.sameDevice(0, "a1", "ann")
		s.join(0, "r", "a1", State{})
		s.store(0).Disconnect("a1", 15*time.Second, ReasonTimeout)
		time.Sleep(15*time.Second - time.Millisecond)
		synctest.Wait()
		if log := s.recorder(0).log("r"); len(log) != 1 {
			t.Errorf("before its end: %q", log)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if log := s.recorder(0).log("r"); !slices.Equal(log, []string{"join ann online {}", "leave ann timeout"}) {
			t.Errorf("at its end: %q", log)
		}
		if n, _ := s.store(0).OnlineCount(t.Context()); n != 0 {
			t.Errorf("%d online", n)
		}
	})
}

// TestGraceIsRenewed holds a connection again, for less and for more.
func TestGraceIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memorySite(t, 1)
		s.open(0, "r")
		s.sameDevice(0, "a1", "ann")
		s.join(0, "r", "a1", State{})
		s.store(0).Disconnect("a1", 10*time.Second, ReasonTimeout)
		time.Sleep(5 * time.Second)
		s.store(0).Disconnect("a1", 10*time.Second, ReasonKicked)
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if log := s.recorder(0).log("r"); len(log) != 1 {
			t.Errorf("the first hold counted: %q", log)
		}
		s.store(0).Disconnect("a1", time.Second/2, ReasonLeft)
		time.Sleep(time.Second / 2)
		synctest.Wait()
		if log := s.recorder(0).log("r"); !slices.Equal(log, []string{"join ann online {}", "leave ann left"}) {
			t.Errorf("told %q", log)
		}
	})
}

// TestGraceWithAnotherConnection ends the grace of one of two connections: nothing to tell.
func TestGraceWithAnotherConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memorySite(t, 1)
		s.open(0, "r")
		for _, id := range []string{"a1", "a2"} {
			s.sameDevice(0, id, "ann")
			s.join(0, "r", id, State{})
		}
		s.store(0).Disconnect("a1", time.Second, ReasonTimeout)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if m := s.members(0, "r")["ann"]; m.Conns != 1 {
			t.Errorf("left is %+v", m)
		}
		if log := s.recorder(0).log("r"); len(log) != 1 {
			t.Errorf("told %q", log)
		}
	})
}

// TestSince is the time of the earliest connection that is still there.
func TestSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memorySite(t, 1)
		s.open(0, "r")
		start := time.Now().UnixMilli()
		for _, id := range []string{"a1", "a2"} {
			s.sameDevice(0, id, "ann")
			s.join(0, "r", id, State{})
			time.Sleep(time.Second)
		}
		if m := s.members(0, "r")["ann"]; m.Since != start {
			t.Errorf("since %d, want %d", m.Since, start)
		}
		if _, err := s.store(0).Update(t.Context(), "r", "a1", State{Status: "busy"}); err != nil {
			t.Fatal(err)
		}
		if m := s.members(0, "r")["ann"]; m.Since != start {
			t.Errorf("an update made it %d, want %d", m.Since, start)
		}
		s.leave(0, "r", "a1")
		if m := s.members(0, "r")["ann"]; m.Since != start+1000 {
			t.Errorf("since %d, want %d", m.Since, start+1000)
		}
	})
}

func TestObserverPanics(t *testing.T) {
	m := NewMemory(Options{}, panics{})
	if _, err := m.Open(t.Context(), "r"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Connect(t.Context(), Conn{ID: "c", User: "u"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := m.Join(t.Context(), "r", "c", State{}, nil); err != nil {
			t.Fatal(err)
		}
		if err := m.Leave(t.Context(), "r", "c", ReasonLeft, nil); err != nil {
			t.Fatal(err)
		}
	}
}

type panics struct{}

func (panics) PresenceChanged(string, Change) { panic("observer") }
