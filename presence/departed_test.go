package presence

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestDeparted remembers who has left for an hour, unless they are back or too many have left since.
func TestDeparted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memorySite(t, 1)
		s.open(0, "r")
		away := func() (users []string) {
			s.store(0).View("r", func(v View, _ bool) {
				for _, d := range v.Departed() {
					users = append(users, d.User)
				}
			})
			return users
		}
		visit := func(user string) {
			s.sameDevice(0, user+"1", user)
			s.join(0, "r", user+"1", State{})
			s.store(0).Disconnect(user+"1", 0, ReasonLeft)
			synctest.Wait()
		}
		s.sameDevice(0, "stays1", "stays")
		s.join(0, "r", "stays1", State{})
		visit("ann")
		time.Sleep(20 * time.Minute)
		visit("bob")
		if got := away(); !slices.Equal(got, []string{"bob", "ann"}) {
			t.Errorf("two have left: %q", got)
		}
		time.Sleep(40*time.Minute - time.Millisecond)
		if got := away(); !slices.Equal(got, []string{"bob", "ann"}) {
			t.Errorf("within the hour: %q", got)
		}
		time.Sleep(time.Millisecond)
		if got := away(); !slices.Equal(got, []string{"bob"}) {
			t.Errorf("after an hour: %q", got)
		}
		s.sameDevice(0, "bob2", "bob")
		s.join(0, "r", "bob2", State{})
		if got := away(); len(got) != 0 {
			t.Errorf("bob is back: %q", got)
		}
		for i := range MaxDeparted + 1 {
			visit(fmt.Sprint("user", i))
		}
		if got := away(); len(got) != MaxDeparted || got[0] != "user50" || got[MaxDeparted-1] != "user1" {
			t.Errorf("many have left: %q", got)
		}
	})
}
