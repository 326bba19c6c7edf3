package bus

import (
	"fmt"
	"slices"
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// TestLossIsTold cuts one bus off while it publishes: those who receive from the other learn on which channels.
func TestLossIsTold(t *testing.T) {
	for _, test := range []struct {
		name     string
		channels int
		told     []message
	}{
		{"some channels", 2, []message{{"c0", "lost"}, {"c1", "lost"}}},
		{"more than are remembered", maxMissed + 1, []message{{"all", "lost"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := redistest.Start(t)
			proxy := redistest.StartProxy(t, server.Addr)
			var here, there record
			cut, _ := start(t, proxy.Addr, &here, RedisOptions{LossNotice: []byte("lost"), LossChannel: "all"})
			whole, _ := start(t, server.Addr, &there, RedisOptions{})
			subscribe(t, whole, "c0", "c1", "c2", "all")
			if err := publish(cut, "c2", "heard"); err != nil {
				t.Fatal(err)
			}
			proxy.Cut()
			for i := range test.channels {
				if publish(cut, fmt.Sprint("c", i), "missed") == nil {
					t.Error("a message was published through a cut")
				}
			}
			// On this channel are no messages.
			if publish(cut, "all", "an order") == nil {
				t.Error("an order was published through a cut")
			}
			proxy.Restore()
			want := append([]message{{"c2", "heard"}}, test.told...)
			eventually(t, "the notices", func() bool {
				got := there.received()
				if len(got) != len(want) {
					return false
				}
				slices.SortFunc(got[1:], func(a, b message) int { return int(a.channel[1]) - int(b.channel[1]) })
				return slices.Equal(got, want)
			})
			// They are told once.
			if err := publish(cut, "c2", "after"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "what is said after", func() bool { return len(there.received()) == len(want)+1 })
			cut.publisher.mu.Lock()
			defer cut.publisher.mu.Unlock()
			if n := len(cut.publisher.missed); n != 0 {
				t.Errorf("%d losses are still to be told", n)
			}
		})
	}
}
