package ws

import (
	"testing"
	"time"
)

// silent counts how often it was given up.
type silent int

func (s *silent) Silent()        { *s++ }
func (*silent) Slow()            {}
func (*silent) Receive(Message)  {}
func (*silent) Ended(int, error) {}

// TestStandstillClosesNobody has the process stand still for longer than a peer may be silent, as when its machine is suspended: nobody is
// given up for that, but who goes on being silent is.
func TestStandstillClosesNobody(t *testing.T) {
	var given silent
	p := &pinger{wait: 15 * time.Second, ending: map[*Conn]time.Time{}}
	p.interval.Store(int64(25 * time.Second))
	c := &Conn{owner: &given}
	p.add(c)
	now := time.Now()
	c.lastRead.Store(now.UnixNano())
	check := func(after time.Duration) {
		now = now.Add(after)
		p.check(&Pool{}, c.bucket, now)
	}
	for range 30 {
		check(time.Second)
	}
	check(time.Minute)
	for range 39 {
		check(time.Second)
	}
	if given != 0 {
		t.Fatal("given up after a standstill")
	}
	for n := 0; given == 0 && n < 5; n++ {
		check(time.Second)
	}
	if given != 1 {
		t.Errorf("given up %d times, want once", given)
	}
}
