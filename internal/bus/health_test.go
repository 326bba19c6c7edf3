package bus

import (
	"strings"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

func TestHealth(t *testing.T) {
	server := redistest.Start(t)
	link := redistest.StartProxy(t, server.Addr)
	b, _ := start(t, link.Addr, &record{}, RedisOptions{ProbeInterval: 100 * time.Millisecond})
	well := func() bool { return b.Health() == nil }
	says := func(words string) func() bool {
		return func() bool { err := b.Health(); return err != nil && strings.Contains(err.Error(), words) }
	}
	eventually(t, "the subscriptions", well)
	link.Cut()
	eventually(t, "the loss to be told", says("subscriptions are down"))
	link.Restore()
	eventually(t, "the subscriptions to be back", well)

	// The link is as good as ever, only that nobody may publish.
	admin := server.Client()
	if err := admin.Do(t.Context(), "ACL", "SETUSER", "default", "-publish").Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the silence to be told", says("nothing has arrived for"))
	if err := admin.Do(t.Context(), "ACL", "SETUSER", "default", "+publish").Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "messages to arrive", well)
}

func TestHealthBeforeTheFirstContact(t *testing.T) {
	server := redistest.Start(t)
	link := redistest.StartProxy(t, server.Addr)
	link.Freeze()
	b, _ := start(t, link.Addr, &record{}, RedisOptions{})
	if err := b.Health(); err == nil {
		t.Error("nothing can arrive yet")
	}
	link.Thaw()
	eventually(t, "the subscriptions", func() bool { return b.Health() == nil })
}
