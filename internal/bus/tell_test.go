package bus

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// TestTell has a bus that is cut off tell other programs: nobody is told of a loss but that of what was published, and the probes, which are told
// as well, go on and say how the subscriptions are.
func TestTell(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	var here, there record
	var dropped atomic.Int64
	cut, _ := start(t, proxy.Addr, &here, RedisOptions{
		LossNotice: []byte("lost"), LossChannel: "all", ProbeInterval: 50 * time.Millisecond, Dropped: func() { dropped.Add(1) },
	})
	whole, _ := start(t, server.Addr, &there, RedisOptions{})
	subscribe(t, whole, "told", "said", "all")
	subscribe(t, cut, "own")
	eventually(t, "the probes arrive", func() bool { return cut.Health() == nil })

	// What is told and what is published comes in the order of the calls.
	var want []message
	for i := range 100 {
		cut.Tell("told", fmt.Append(nil, i))
		cut.Publish("said", fmt.Append(nil, i), nil)
		want = append(want, message{"told", fmt.Sprint(i)}, message{"said", fmt.Sprint(i)})
	}
	eventually(t, "all is heard", func() bool { return len(there.received()) >= len(want) })
	if got := there.received(); !slices.Equal(got, want) {
		t.Errorf("heard %v", got)
	}

	proxy.Cut()
	cut.Tell("told", []byte("into the void"))
	cut.Tell("own", []byte("into the void"))
	eventually(t, "the probes do not arrive", func() bool { return cut.Health() != nil })
	cut.Tell("told", []byte("in vain"))
	if n := dropped.Load(); n != 0 {
		t.Errorf("%d messages were missed, of which none was one", n)
	}
	if publish(cut, "said", "missed") == nil {
		t.Error("a message was published through a cut")
	}
	proxy.Restore()
	eventually(t, "the probes arrive again", func() bool { return cut.Health() == nil })
	want = append(want, message{"said", "lost"})
	eventually(t, "the one loss", func() bool { return len(there.received()) >= len(want) })
	eventually(t, "what is told is heard again", func() bool {
		cut.Tell("told", []byte("end"))
		return slices.Contains(there.received(), message{"told", "end"})
	})
	got := slices.DeleteFunc(there.received(), func(m message) bool { return m == message{"told", "end"} })
	if !slices.Equal(got, want) {
		t.Errorf("heard %v", got[200:])
	}
	if n := dropped.Load(); n != 1 {
		t.Errorf("%d messages were missed, want 1", n)
	}
	cut.publisher.mu.Lock()
	defer cut.publisher.mu.Unlock()
	if n := len(cut.publisher.missed); n != 0 {
		t.Errorf("%d losses are still to be told", n)
	}
}
