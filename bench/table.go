package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// inTime is the percentage of deliveries below which a server did not keep up, and what else was found of it says little. What is under way
// when the measured time begins and ends is a percent or two.
const inTime = 95

// line is a row with what was found. Its strings are for people, and empty where there is nothing to tell.
type line struct {
	Group  string  `json:"group"`
	Row    string  `json:"row"`
	Goal   string  `json:"goal,omitempty"`
	Base   string  `json:"bare,omitempty"`
	Ours   string  `json:"ours,omitempty"`
	Ratio  string  `json:"ratio,omitempty"`
	Spread string  `json:"spread,omitempty"` // of the ratio where there is one, otherwise of ours
	Result string  `json:"result,omitempty"` // pass or miss; "not measured" without figures
	Peer   string  `json:"socket_io,omitempty"`
	OursIs string  `json:"ours_is,omitempty"` // times the other server's
	Values samples `json:"values"`
}

// samples are the values of all rounds.
type samples struct {
	Ours sample `json:"ours,omitempty"`
	Base sample `json:"bare,omitempty"`
	Peer sample `json:"socket_io,omitempty"`
}

// lines reads the rows of a group from what its rounds have found.
func (g *group) lines(found rounds) []line {
	var lines []line
	for _, r := range g.rows {
		if r.ours == "" {
			r.ours = g.trials[0].name
		}
		l := line{Group: g.name, Row: r.title, Goal: r.goal.String()}
		l.Values = samples{found.of(r.ours, r.figure), found.of(r.base, r.figure), found.of(r.peer, r.figure)}
		r.tell(&l, found)
		lines = append(lines, l)
	}
	return lines
}

// tell fills in what l.Values say.
func (r *row) tell(l *line, found rounds) {
	behind := func(trial string) bool {
		delivered := found.of(trial, "delivered_percent")
		return len(delivered) > 0 && delivered.median() < inTime
	}
	show := func(s sample, trial, note string) string {
		text := fmt.Sprintf(r.format, s.median())
		if behind(trial) {
			note = strings.TrimPrefix(note+", fell behind", ", ")
		}
		if note != "" {
			text += " (" + note + ")"
		}
		return text
	}
	spread := func(s sample, format string) string {
		return fmt.Sprintf(format+"–"+format, slices.Min(s), slices.Max(s))
	}
	if len(l.Values.Base) > 0 {
		l.Base = show(l.Values.Base, r.base, r.baseNote)
	}
	if len(l.Values.Peer) > 0 {
		l.Peer = show(l.Values.Peer, r.peer, "")
	}
	if len(l.Values.Ours) == 0 {
		l.Result = "not measured"
		return
	}
	l.Ours, l.Spread = show(l.Values.Ours, r.ours, ""), spread(l.Values.Ours, r.format)
	// Ratios are taken within a round, whose trials have seen the same machine.
	divide := func(a, b float64) float64 { return a / b }
	ratios := found.pairs(r.ours, r.base, r.figure, divide)
	if len(ratios) > 0 && r.goal.above == 0 {
		l.Ratio, l.Spread = fmt.Sprintf("%.2fx", ratios.median()), spread(ratios, "%.2f")
	}
	if peers := found.pairs(r.ours, r.peer, r.figure, divide); len(peers) > 0 {
		if times := peers.median(); times < 1 {
			l.OursIs = fmt.Sprintf("1/%.1f", 1/times)
		} else {
			l.OursIs = fmt.Sprintf("%.1fx", times)
		}
	}
	if r.goal == (goal{}) {
		return
	}
	above := found.pairs(r.ours, r.base, r.figure, func(a, b float64) float64 { return a - b })
	if behind(r.base) {
		ratios = nil // it is easy to need less than what does not do its work
	}
	met, judged := r.goal.met(l.Values.Ours, ratios, above)
	switch {
	case !judged:
		l.Result = "not measured"
	case met:
		l.Result = "pass"
	default:
		l.Result = "miss"
	}
}

// met tells whether medians are within the goal, and whether all that it asks for was measured.
func (g goal) met(ours, ratios, above sample) (met, judged bool) {
	met, judged = true, len(ours) > 0
	check := func(asked float64, s sample, ok func(float64) bool) {
		if asked == 0 {
			return
		}
		if len(s) == 0 {
			judged = false
		} else if !ok(s.median()) {
			met = false
		}
	}
	check(g.ratio, ratios, func(v float64) bool { return v <= g.ratio })
	check(g.most, ours, func(v float64) bool { return v <= g.most })
	check(g.least, ours, func(v float64) bool { return v >= g.least })
	check(g.above, above, func(v float64) bool { return v <= g.above })
	return met, judged
}

// writeTable writes Markdown. The columns of the other server are there when it was measured.
func writeTable(w io.Writer, lines []line) error {
	columns := []struct {
		head string
		cell func(*line) string
	}{
		{"figure", func(l *line) string { return l.Row }},
		{"goal", func(l *line) string { return l.Goal }},
		{"bare", func(l *line) string { return l.Base }},
		{"ours", func(l *line) string { return l.Ours }},
		{"ratio", func(l *line) string { return l.Ratio }},
		{"spread", func(l *line) string { return l.Spread }},
		{"", func(l *line) string { return l.Result }},
		{"Socket.IO", func(l *line) string { return l.Peer }},
		{"ours is", func(l *line) string { return l.OursIs }},
	}
	if !slices.ContainsFunc(lines, func(l line) bool { return l.Peer != "" }) {
		columns = columns[:len(columns)-2]
	}
	var b strings.Builder
	for _, c := range columns {
		b.WriteString("| " + c.head + " ")
	}
	b.WriteString("|\n" + strings.Repeat("|---", len(columns)) + "|\n")
	for i := range lines {
		for _, c := range columns {
			b.WriteString("| " + c.cell(&lines[i]) + " ")
		}
		b.WriteString("|\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
