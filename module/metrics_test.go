package module

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// metricsConfig has two handlers of one hub, one of a hub whose metrics nobody wants, and EXTRA in the first.
const metricsConfig = `{
	admin ADMIN
}
:PORT {
	rooms /ws {
		user {http.request.uri.query.user}
		redis REDIS
		presence {
			grace -1
			ttl 3s
			database sqlite:DATABASE
		}
		limit once {
			on publish
			events 1
			window 1h
		}
		EXTRA
	}
	rooms /guests {
		redis REDIS
		anonymous
		presence {
			grace -1
			ttl 3s
		}
	}
	rooms /silent silent {
		anonymous
		metrics off
	}
}`

// scrape returns the values of our metrics, by name and labels as they are written.
func scrape(t *testing.T, c *caddytest.Caddy) map[string]float64 {
	t.Helper()
	values := make(map[string]float64)
	for line := range strings.Lines(get(t, c, "/metrics")) {
		if !strings.HasPrefix(line, "caddy_rooms_") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		v, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64)
		if err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		if _, twice := values[line[:at]]; twice {
			t.Errorf("%s comes twice", line[:at])
		}
		values[line[:at]] = v
	}
	return values
}

// expectMetrics waits until all of these have these values.
func expectMetrics(t *testing.T, c *caddytest.Caddy, want map[string]float64) {
	t.Helper()
	wrong := ""
	defer func() {
		if t.Failed() {
			t.Log(wrong)
		}
	}()
	c.Wait("the metrics to be right", func() bool {
		got := scrape(t, c)
		wrong = ""
		for name, v := range want {
			if g, ok := got[name]; !ok || g != v {
				wrong += fmt.Sprintf("%s is %v (there: %t), want %v\n", name, g, ok, v)
			}
		}
		return wrong == ""
	})
}

// TestMetrics has clients do things, reloads in between, and expects that all was counted, in values that never go back, and that what is
// there now is nothing in the end.
func TestMetrics(t *testing.T) {
	redis := redistest.Start(t)
	database := filepath.Join(t.TempDir(), "rooms.db")
	config := func(admin, port, extra string) string {
		return strings.NewReplacer(
			"ADMIN", admin, "PORT", port, "REDIS", redis.URL(), "DATABASE", database, "EXTRA", extra,
		).Replace(metricsConfig)
	}
	a := caddytest.StartText(t, config("{$CADDY_ADMIN}", "{$PORT}", ""))
	b := caddytest.StartText(t, config("{$CADDY_ADMIN}", "{$PORT}", ""))
	a.WaitLog("presence is shared")
	b.WaitLog("presence is shared")

	// Everything is there before anything happens, but for what has a label that is not known yet.
	before := scrape(t, a)
	for _, name := range []string{"connections", "rooms", "members", "outbox_bytes", "reaps_total", "messages_received_total"} {
		if v, ok := before[`caddy_rooms_`+name+`{hub="default"}`]; !ok || v != 0 {
			t.Errorf("%s is %v before anything has happened (there: %t)", name, v, ok)
		}
	}

	ann, guest, bob := dial(t, a, "ann"), roomstest.Dial(t, a.URL("/guests"), nil), dial(t, b, "bob")
	roomstest.Dial(t, a.URL("/silent"), nil)
	for _, c := range []*roomstest.Client{ann, guest, bob} {
		c.Join("lobby")
	}
	guest.Join("other")
	bob.Send(`{"type":"publish","id":1,"room":"lobby"}`)
	bob.Send(`{"type":"publish","id":2,"room":"lobby"}`)
	expectMetrics(t, a, map[string]float64{
		`caddy_rooms_connections{hub="default"}`:                                            2,
		`caddy_rooms_rooms{hub="default"}`:                                                  2,
		`caddy_rooms_members{hub="default"}`:                                                3,
		`caddy_rooms_redis_up{hub="default"}`:                                               1,
		`caddy_rooms_messages_received_total{hub="default"}`:                                3,
		`caddy_rooms_presence_events_total{hub="default",op="join"}`:                        4,
		`caddy_rooms_bus_lag_seconds_count{hub="default"}`:                                  1,
		`caddy_rooms_broadcast_duration_seconds_count{hub="default"}`:                       1,
		`caddy_rooms_limit_decisions_total{hub="default",limit="join",outcome="allowed"}`:   3,
		`caddy_rooms_limit_decisions_total{hub="default",limit="once",outcome="refused"}`:   0,
		`caddy_rooms_redis_errors_total{hub="default",operation="presence"}`:                0,
		`caddy_rooms_messages_dropped_total{hub="default",reason="slow"}`:                   0,
		`caddy_rooms_limit_decisions_total{hub="default",limit="accept",outcome="allowed"}`: 2,
	})
	expectMetrics(t, b, map[string]float64{
		`caddy_rooms_limit_decisions_total{hub="default",limit="once",outcome="allowed"}`: 1,
		`caddy_rooms_limit_decisions_total{hub="default",limit="once",outcome="refused"}`: 1,
	})
	redis.Client().Publish(t.Context(), "rooms:{default}:e:lobby", `{"nonsense`)
	expectMetrics(t, a, map[string]float64{`caddy_rooms_messages_dropped_total{hub="default",reason="outside"}`: 1})

	// Reloads: nothing starts anew, nothing comes twice.
	last := scrape(t, a)
	_, port, _ := strings.Cut(a.Addr, ":")
	for i := range 3 {
		if status, answer := a.Reload(config(a.Admin, port, fmt.Sprintf("max_rooms %d", 10+i))); status != 200 {
			t.Fatalf("reload: %d %s", status, answer)
		}
		now := scrape(t, a)
		for name, v := range last {
			switch g, ok := now[name]; {
			case !ok:
				t.Errorf("after reload %d %s is gone", i+1, name)
			case g < v && !strings.HasPrefix(name, "caddy_rooms_outbox_bytes") && !strings.HasPrefix(name, "caddy_rooms_database_rows"):
				t.Errorf("after reload %d %s went from %v to %v", i+1, name, v, g)
			}
		}
		last = now
	}
	// What is refused shows nothing, and takes nothing away, though Caddy leaves its admin endpoint in place.
	never := config(a.Admin, port, "limit never {\n on join\n events 1\n window 1s\n }")
	for name, bad := range map[string]string{
		"before its hubs are known": never + "\nhttps://localhost:1 {\n tls /not/there.crt /not/there.key\n}\n",
		"behind them":               never + "\nhttp://localhost:" + port + " {\n bind 192.0.2.1\n}\n",
	} {
		if status, answer := a.Reload(bad); status == 200 {
			t.Errorf("%s: a bad configuration was loaded: %s", name, answer)
		}
		now := scrape(t, a)
		for name := range last {
			if _, ok := now[name]; !ok {
				t.Errorf("after a refusal %s is gone", name)
			}
		}
	}

	allowed := regexp.MustCompile(`^caddy_rooms_[a-z_]+\{hub="default"(,(limit|outcome|op|reason|code|operation|le)="[^"]*")*\}$`)
	for name := range maps.Keys(scrape(t, a)) {
		if !allowed.MatchString(name) || strings.Contains(name, "lobby") || strings.Contains(name, `"ann"`) || strings.Contains(name, "never") {
			t.Errorf("%s should not be there", name)
		}
	}

	// The documentation knows each, and no others.
	doc, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := regexp.MustCompile("(?m)^\\| `(caddy_rooms_[a-z_]+)`").FindAllStringSubmatch(string(doc), -1)
	for _, name := range documented {
		if !strings.Contains(get(t, a, "/metrics"), "# TYPE "+name[1]+" ") && name[1] != "caddy_rooms_closes_total" {
			t.Errorf("%s is documented and not there", name[1])
		}
	}
	for line := range strings.Lines(get(t, a, "/metrics")) {
		if name, ok := strings.CutPrefix(line, "# TYPE caddy_rooms_"); ok {
			name, kind, _ := strings.Cut(strings.TrimSpace(name), " ")
			if !strings.Contains(string(doc), "| `caddy_rooms_"+name+"` | "+kind+" |") {
				t.Errorf("%s %s is not documented", kind, name)
			}
		}
	}

	_ = ann.WS.Close(1000, "")
	_ = guest.WS.Close(4999, "")
	b.Kill()
	expectMetrics(t, a, map[string]float64{
		`caddy_rooms_connections{hub="default"}`:                      0,
		`caddy_rooms_rooms{hub="default"}`:                            0,
		`caddy_rooms_members{hub="default"}`:                          0,
		`caddy_rooms_outbox_bytes{hub="default"}`:                     0,
		`caddy_rooms_closes_total{code="1000",hub="default"}`:         1,
		`caddy_rooms_closes_total{code="other",hub="default"}`:        1,
		`caddy_rooms_reaps_total{hub="default"}`:                      1,
		`caddy_rooms_presence_events_total{hub="default",op="leave"}`: 4,
	})
	redis.Kill()
	expectMetrics(t, a, map[string]float64{`caddy_rooms_redis_up{hub="default"}`: 0})
	redis.Run()
	expectMetrics(t, a, map[string]float64{
		`caddy_rooms_redis_up{hub="default"}`:              1,
		`caddy_rooms_reconciliations_total{hub="default"}`: 1,
	})

	if status, answer := a.Reload("{\n admin " + a.Admin + "\n}\n:" + port + " {\n}"); status != 200 {
		t.Fatalf("reload: %d %s", status, answer)
	}
	if left := scrape(t, a); len(left) > 0 {
		t.Errorf("there is no hub, but there are %d metrics", len(left))
	}
	if status, answer := a.Reload(config(a.Admin, port, "")); status != 200 {
		t.Fatalf("reload: %d %s", status, answer)
	}
	wanted := "redis " + redis.URL()
	if status, answer := a.Reload(strings.ReplaceAll(config(a.Admin, port, ""), wanted, "metrics off\n"+wanted)); status != 200 {
		t.Fatalf("reload: %d %s", status, answer)
	}
	if left := scrape(t, a); len(left) > 0 {
		t.Errorf("nobody wants them, but there are %d metrics", len(left))
	}
}
