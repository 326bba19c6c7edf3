package main

import (
	"slices"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		s    sample
		want float64
	}{{sample{3}, 3}, {sample{9, 1}, 5}, {sample{9, 1, 2}, 2}, {sample{4, 1, 3, 2}, 2.5}} {
		if got := tt.s.median(); got != tt.want {
			t.Errorf("median of %v is %v, want %v", tt.s, got, tt.want)
		}
	}
}

func TestGoal(t *testing.T) {
	for _, tt := range []struct {
		goal                string
		g                   goal
		ours, ratios, above sample
		met, judged         bool
	}{
		{"≤ 1.15x", goal{ratio: 1.15}, sample{5}, sample{1, 1.15, 2}, nil, true, true},
		{"≤ 1.15x", goal{ratio: 1.15}, sample{5}, sample{1, 1.16, 2}, nil, false, true},
		{"≤ 1.15x", goal{ratio: 1.15}, sample{5}, nil, nil, true, false},
		{"≤ 20", goal{most: 20}, sample{20}, nil, nil, true, true},
		{"≤ 20", goal{most: 20}, sample{20.1}, nil, nil, false, true},
		{"≤ 20", goal{most: 20}, nil, nil, nil, true, false},
		{"≥ 5000", goal{least: 5000}, sample{5000}, nil, nil, true, true},
		{"≥ 5000", goal{least: 5000}, sample{4999}, nil, nil, false, true},
		{"≤ 5 more", goal{above: 5}, sample{90}, nil, sample{5}, true, true},
		{"≤ 5 more", goal{above: 5}, sample{90}, nil, sample{6}, false, true},
		{"≤ 1.5x, ≤ 20", goal{ratio: 1.5, most: 20}, sample{21}, sample{1}, nil, false, true},
	} {
		if got := tt.g.String(); got != tt.goal {
			t.Errorf("goal %+v reads %q, want %q", tt.g, got, tt.goal)
		}
		if met, judged := tt.g.met(tt.ours, tt.ratios, tt.above); met != tt.met && judged || judged != tt.judged {
			t.Errorf("goal %s with %v, %v, %v: met %t, judged %t, want %t, %t", tt.goal, tt.ours, tt.ratios, tt.above, met, judged, tt.met, tt.judged)
		}
	}
}

func TestTable(t *testing.T) {
	g := group{
		name:   "g",
		trials: []trial{{name: "ours"}, {name: "bare"}, {name: "peer"}},
		rows: []row{
			{title: "cost", figure: "us_per_delivery", format: "%.1f", base: "bare", peer: "peer", goal: goal{ratio: 1.15}},
			{title: "overload", figure: "p50_ms", format: "%.0f", base: "slow", baseNote: "merged", goal: goal{ratio: 2}},
			{title: "joins", figure: "joins_per_s", format: "%.0f", peer: "peer", goal: goal{least: 5000}},
			{title: "more than nothing", figure: "redis_cpu_ms", format: "%.0f", base: "bare", baseNote: "nobody", goal: goal{above: 5}},
			{title: "unknown", figure: "p99_ms", format: "%.1f", goal: goal{most: 20}},
		},
	}
	// The machine was half as fast in the second round: ratios don't mind. The third has lost its peer.
	found := rounds{
		{"ours": {"us_per_delivery": 5.5, "delivered_percent": 95, "joins_per_s": 6000, "redis_cpu_ms": 30, "p50_ms": 9}, "slow": {"p50_ms": 900, "delivered_percent": 50}, "bare": {"us_per_delivery": 5, "redis_cpu_ms": 26},
			"peer": {"us_per_delivery": 11, "joins_per_s": 1000, "delivered_percent": 94}},
		{"ours": {"us_per_delivery": 11, "joins_per_s": 3000, "redis_cpu_ms": 30}, "bare": {"us_per_delivery": 10, "redis_cpu_ms": 26},
			"peer": {"us_per_delivery": 22, "joins_per_s": 500}},
		{"ours": {"us_per_delivery": 6, "joins_per_s": 4500, "redis_cpu_ms": 30}, "bare": {"us_per_delivery": 5, "redis_cpu_ms": 24}},
	}
	var b strings.Builder
	if err := writeTable(&b, g.lines(found)); err != nil {
		t.Fatal(err)
	}
	const want = `| figure | goal | bare | ours | ratio | spread |  | Socket.IO | ours is |
|---|---|---|---|---|---|---|---|---|
| cost | ≤ 1.15x | 5.0 | 6.0 | 1.10x | 1.10–1.20 | pass | 16.5 (fell behind) | 1/2.0 |
| overload | ≤ 2x | 900 (merged, fell behind) | 9 | 0.01x | 0.01–0.01 | not measured |  |  |
| joins | ≥ 5000 |  | 4500 |  | 3000–6000 | miss | 750 (fell behind) | 6.0x |
| more than nothing | ≤ 5 more | 26 (nobody) | 30 |  | 30–30 | pass |  |  |
| unknown | ≤ 20 |  |  |  |  | not measured |  |  |
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	if err := writeTable(&b, g.lines(rounds{{"ours": {"joins_per_s": 1}}})); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "Socket.IO") {
		t.Errorf("there are columns for what was not measured:\n%s", b.String())
	}
}

func TestFiguresLine(t *testing.T) {
	f := figures{"p99_ms": 7.5, "clients": 3, "refused": 0, "ended": 2, "deflated": 1}
	if got, want := f.String(), "3 clients, p99 7.50 ms, deflated, 2 connections ENDED by the server"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestPlan checks what only a run of many minutes would show: names that lead nowhere, and loads that are refused.
func TestPlan(t *testing.T) {
	seen := make(map[string]bool)
	for _, g := range plan(1) {
		if seen[g.name] {
			t.Errorf("two groups are named %s", g.name)
		}
		seen[g.name] = true
		var trials []string
		for _, tr := range g.trials {
			trials = append(trials, tr.name)
			o := tr.load
			o.URL, o.API, o.Speech = "ws://localhost", "http://localhost/api", "rooms"
			if err := o.validate(); err != nil {
				t.Errorf("group %s, trial %s: %v", g.name, tr.name, err)
			}
		}
		for _, r := range g.rows {
			for _, name := range []string{r.ours, r.base, r.peer} {
				if name != "" && !slices.Contains(trials, name) {
					t.Errorf("group %s, row %q: there is no trial %s", g.name, r.title, name)
				}
			}
			isKnown := slices.ContainsFunc(known, func(k knownFigure) bool { return k.name == r.figure })
			if !isKnown {
				t.Errorf("group %s, row %q: there is no figure %s", g.name, r.title, r.figure)
			}
		}
	}
}
