package module

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyrooms/caddy-rooms/internal/freeport"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"

	// The HTTP server and what it needs.
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

func init() { caddy.RegisterModule(eventRecorder{}) }

// eventRecorder is an event handler that remembers what it was told.
type eventRecorder struct {
	// Name tells the handlers of one configuration from those of another.
	Name string `json:"name"`
}

var recorded struct {
	sync.Mutex
	events []string
}

func (eventRecorder) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.recorder", New: func() caddy.Module { return new(eventRecorder) }}
}

// Handle implements caddyevents.Handler.
func (r eventRecorder) Handle(_ context.Context, e caddy.Event) error {
	recorded.Lock()
	defer recorded.Unlock()
	recorded.events = append(recorded.events, fmt.Sprint(r.Name, " ", strings.TrimPrefix(e.Name(), "rooms_"), " ", e.Data["hub"], " ", e.Data["limit"]))
	return nil
}

// TestEvents runs Caddy in the test's own process, which has an event handler of its own.
func TestEvents(t *testing.T) {
	redis := redistest.Start(t)
	addr := freeport.Addr(t)
	load := func(name string, handlers ...map[string]any) {
		t.Helper()
		var routes []map[string]any
		for i, h := range handlers {
			h["handler"], h["anonymous"] = "rooms", true
			routes = append(routes, map[string]any{
				"match": []any{map[string]any{"path": []string{fmt.Sprint("/", i)}}}, "handle": []any{h},
			})
		}
		config, err := json.Marshal(map[string]any{
			"admin": map[string]any{"disabled": true, "config": map[string]any{"persist": false}},
			"apps": map[string]any{
				"http": map[string]any{"servers": map[string]any{"srv": map[string]any{"listen": []string{addr}, "routes": routes}}},
				"events": map[string]any{"subscriptions": []any{map[string]any{
					"modules": []string{"rooms"}, "handlers": []any{map[string]any{"handler": "recorder", "name": name}},
				}}},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := caddy.Load(config, true); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want ...string) {
		t.Helper()
		var got []string
		for deadline := time.Now().Add(roomstest.Patience); ; {
			recorded.Lock()
			got = append([]string(nil), recorded.events...)
			recorded.Unlock()
			if len(got) >= len(want) || time.Now().After(deadline) {
				break
			}
			<-time.After(10 * time.Millisecond)
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Fatalf("events\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})

	limited := func() map[string]any {
		return map[string]any{"redis": map[string]any{"urls": []string{redis.URL()}}, "drain": "10ms", "limits": []any{
			map[string]any{"name": "once", "on": "publish", "events": 1, "window": "1h", "key": "{rooms.conn}"},
		}}
	}
	load("first", limited())
	expect("first hub_opened default <nil>")
	for range 2 { // the second client's refusal is not the first
		ann := roomstest.Dial(t, "ws://"+addr+"/0", nil)
		ann.Join("lobby")
		ann.Send(`{"type":"publish","id":1,"room":"lobby"}`)
		ann.Send(`{"type":"publish","id":2,"room":"lobby"}`)
		for o := ann.Next("ack", "error", "presence"); o["type"] != "error"; o = ann.Next("ack", "error", "presence") {
		}
	}
	expect("first hub_opened default <nil>", "first limit_exceeded default once")
	redis.Kill()
	expect("first hub_opened default <nil>", "first limit_exceeded default once", "first redis_lost default <nil>")

	// From now on the handlers of the next configuration are told.
	load("second", limited(), map[string]any{"hub": "other", "drain": "10ms"})
	redis.Run()
	so := []string{"first hub_opened default <nil>", "first limit_exceeded default once", "first redis_lost default <nil>",
		"second hub_opened other <nil>", "second redis_restored default <nil>"}
	expect(so...)
	load("third", limited())
	so = append(so, "second hub_drained other <nil>")
	expect(so...)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	expect(append(so, "third hub_drained default <nil>")...)
}
