// Package monitoring_test holds what the dashboard and the alert rules ask for against what a Caddy with some traffic tells.
package monitoring_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
)

func TestMain(m *testing.M) { caddytest.Main(m) }

// family is what the samples of one name have: the values of each label.
type family map[string]map[string]bool

var (
	// names matches the metrics that an expression asks for, with their matchers. What Prometheus calculates with has other names.
	names    = regexp.MustCompile(`\b((?:caddy_rooms|process|go)_[a-z_]+)(\{[^}]*\})?`)
	matchers = regexp.MustCompile(`(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"`)
	// groupings matches lists of labels.
	groupings = regexp.MustCompile(`\b(?:by|without|on|ignoring)\s*\(([^)]*)\)`)
	templates = regexp.MustCompile(`\$labels\.(\w+)|\{\{\s*(\w+)\s*\}\}`)
	samples   = regexp.MustCompile(`(?m)^([a-z_]+)(?:\{(.*)\})? \S+$`)
)

// scraped are the labels that Prometheus adds.
var scraped = []string{"job", "instance"}

func TestMetricsAreThere(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a Caddy and starts a Redis")
	}
	redis := redistest.Start(t)
	server := caddytest.Start(t, "examples/monitoring/Caddyfile", "REDIS_URL="+redis.URL(), "ROOMS_DATABASE=sqlite:"+t.TempDir()+"/presence.db")
	server.WaitLog("presence is shared")
	traffic(t, server)
	if err := redis.Client().Publish(t.Context(), "rooms:{default}:e:lobby", "{").Err(); err != nil {
		t.Fatal(err)
	}

	told := make(map[string]family)
	server.Wait("the closed connections and the limits to be counted", func() bool {
		told = scrape(t, server)
		return len(told["caddy_rooms_closes_total"]["code"]) >= 2 && told["caddy_rooms_redis_round_trip_seconds_count"]["operation"]["limit"]
	})
	for code := range told["caddy_rooms_closes_total"]["code"] {
		if !knownCode(code) {
			t.Errorf("connections are counted with close code %q, which the check of the expressions does not know", code)
		}
	}

	dashboard := dashboardExpressions(t)
	rules := ruleExpressions(t)
	for _, e := range slices.Concat(dashboard, rules) {
		e.check(t, told)
	}

	// Whatever is told is shown.
	var shown strings.Builder
	for _, e := range dashboard {
		shown.WriteString(e.text + "\n")
	}
	for name := range told {
		base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
		if strings.HasPrefix(name, "caddy_rooms_") && !strings.Contains(shown.String(), base) {
			t.Errorf("dashboard.json shows nothing of %s", base)
		}
	}
}

// traffic joins, says, changes and refuses something, and ends connections in two ways.
func traffic(t *testing.T, server *caddytest.Caddy) {
	t.Helper()
	ann := roomstest.Dial(t, server.URL("/ws"), nil)
	bob := roomstest.Dial(t, server.URL("/ws"), nil)
	ann.Join("lobby")
	bob.Join("lobby")
	for range 30 {
		bob.Send(`{"type":"publish","room":"lobby","event":"chat","data":"hello"}`)
	}
	bob.Send(`{"type":"status","id":1,"room":"lobby","status":"away"}`)
	for {
		// In between come presence, and an error about the limit.
		if o := bob.Next("presence", "error", "ack"); o["type"] == "ack" {
			break
		}
	}
	_ = bob.WS.Close(websocket.StatusNormalClosure, "")
	_ = ann.WS.Close(websocket.StatusGoingAway, "")
}

// scrape returns what the admin endpoint tells, by name.
func scrape(t *testing.T, server *caddytest.Caddy) map[string]family {
	t.Helper()
	resp, err := http.Get("http://" + server.Admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	told := make(map[string]family)
	for _, sample := range samples.FindAllSubmatch(body, -1) {
		name := string(sample[1])
		if told[name] == nil {
			told[name] = make(family)
		}
		for _, label := range matchers.FindAllStringSubmatch(string(sample[2]), -1) {
			if told[name][label[1]] == nil {
				told[name][label[1]] = make(map[string]bool)
			}
			told[name][label[1]][label[3]] = true
		}
	}
	return told
}

// expression is one question to Prometheus, with the texts that are filled from its answers.
type expression struct {
	where, text string
	legends     []string
}

// dashboardExpressions returns the questions of all panels and variables.
func dashboardExpressions(t *testing.T) []expression {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
		Templating struct {
			List []struct {
				Name  string
				Query any // of a variable that is asked for an object, of others a text
			}
		}
	}
	if err := json.Unmarshal(read(t, "dashboard.json"), &dashboard); err != nil {
		t.Fatal(err)
	}
	var found []expression
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			found = append(found, expression{fmt.Sprintf("panel %q", p.Title), target.Expr, []string{target.LegendFormat}})
		}
	}
	if len(found) < 20 {
		t.Fatalf("only %d expressions found in dashboard.json", len(found))
	}
	for _, v := range dashboard.Templating.List {
		if query, ok := v.Query.(map[string]any); ok {
			found = append(found, expression{fmt.Sprintf("variable %q", v.Name), query["query"].(string), nil})
		}
	}
	return found
}

// ruleExpressions returns the questions of all alerts. They are written so that no parser of YAML is needed: each alert begins with its
// name, and its expression is on the line of expr or on those below until the next field.
func ruleExpressions(t *testing.T) []expression {
	t.Helper()
	alert := regexp.MustCompile(`(?s)^(\w+)\n\s+expr:(?: >-)?\s+(.*?)\n\s+(?:for|labels):(.*)`)
	var found []expression
	for _, text := range strings.Split(string(read(t, "rules.yml")), "- alert: ")[1:] {
		m := alert.FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("rules.yml: no expression found in alert %s", text)
		}
		for _, field := range []string{"severity: ", "summary: ", "description: >-"} {
			if !strings.Contains(m[3], field) {
				t.Errorf("alert %s has no %s", m[1], strings.Trim(field, ": >-"))
			}
		}
		found = append(found, expression{"alert " + m[1], m[2], []string{m[3]}})
	}
	if len(found) < 10 {
		t.Fatalf("only %d alerts found in rules.yml", len(found))
	}
	return found
}

// check tells which names, labels and values of e are not in what was told.
func (e expression) check(t *testing.T, told map[string]family) {
	t.Helper()
	labels := append([]string{"le"}, scraped...)
	for _, m := range names.FindAllStringSubmatch(e.text, -1) {
		f, ok := told[m[1]]
		if !ok {
			t.Errorf("%s: there is no metric %s", e.where, m[1])
			continue
		}
		labels = slices.AppendSeq(labels, maps.Keys(f))
		for _, matcher := range matchers.FindAllStringSubmatch(m[2], -1) {
			label, value := matcher[1], matcher[3]
			switch {
			case slices.Contains(scraped, label):
			case f[label] == nil:
				t.Errorf("%s: %s has no label %s", e.where, m[1], label)
			case strings.HasPrefix(value, "$"): // a variable
			default:
				for v := range strings.SplitSeq(value, "|") {
					if !f[label][v] && (label != "code" || !knownCode(v)) {
						t.Errorf("%s: no %s has %s=%q", e.where, m[1], label, v)
					}
				}
			}
		}
	}
	var used []string
	for _, g := range groupings.FindAllStringSubmatch(e.text, -1) {
		for label := range strings.SplitSeq(g[1], ",") {
			used = append(used, strings.TrimSpace(label))
		}
	}
	for _, legend := range e.legends {
		for _, m := range templates.FindAllStringSubmatch(legend, -1) {
			used = append(used, m[1]+m[2])
		}
	}
	for _, label := range used {
		if !slices.Contains(labels, label) {
			t.Errorf("%s: nothing that it asks for has a label %s", e.where, label)
		}
	}
}

// knownCode tells whether code is one that a connection may be counted with: not all of them can be had in a short test.
func knownCode(code string) bool {
	n, err := strconv.Atoi(code)
	return code == "other" || err == nil && slices.Contains([]int{
		wire.CloseNormal, wire.CloseGoingAway, wire.CloseNoStatus, int(websocket.StatusAbnormalClosure), int(websocket.StatusProtocolError),
		wire.CloseProtocolError, wire.CloseUnauthorized, wire.CloseForbidden, wire.CloseTooLarge, wire.CloseKicked,
		wire.CloseFlood, wire.CloseTooManyConnections, wire.CloseUnavailable, wire.CloseRestart, wire.CloseSlow, wire.ClosePingTimeout,
	}, n)
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
