package faults

import (
	"syscall"
	"testing"
	"time"
)

// TestRollingRestart restarts three instances one after the other under load. Everybody comes back elsewhere, as they were told: nobody was
// away, and nobody misses more than what was said between a bye and the ack of the next join.
func TestRollingRestart(t *testing.T) {
	alone(t)
	rollingRestart(t, returning(1500, 150), "")
}

func rollingRestart(t testing.TB, s scale, program string) {
	c := start(t, s, options{nodes: 3, program: program, lines: "drain " + s.drain().String()})
	w := c.gather(200 * time.Millisecond)
	for _, node := range c.nodes {
		node.Signal(syscall.SIGTERM)
		if code := node.Ended(); code != 0 {
			t.Errorf("the process ended with %d", code)
		}
		node.Run()
		w.back()
		w.converse()
	}
	w.moved()
	c.settled(c.check)
	w.hush()
	c.talk()
	w.disperse()
	t.Logf("figure: %d guests were on %d connections", len(w.guests), w.stays())
	w.undisturbed()
	w.verify()
	c.finish()
}

// TestFollow holds the judgement of what a guest has heard to telling a loss from an absence.
func TestFollow(t *testing.T) {
	all := []bool{true, true, true, true}
	for _, test := range []struct {
		name   string
		heard  [][]int
		acked  []bool
		missed int
		wrong  bool
	}{
		{"all", [][]int{{0, 1, 2, 3}}, all, 0, false},
		{"away", [][]int{{0}, {3}}, all, 2, false},
		{"away twice", [][]int{{0}, nil, {3}}, all, 2, false},
		{"away at the end", [][]int{{0}, nil}, all, 3, false},
		{"unanswered", [][]int{{0, 2}}, []bool{true, false, true}, 0, false},
		{"lost at the beginning", [][]int{{1, 2, 3}}, all, 0, true},
		{"lost", [][]int{{0, 2, 3}}, all, 0, true},
		{"lost after the return", [][]int{{0}, {1, 3}}, all, 0, true},
		{"lost at the end", [][]int{{0, 1}}, all, 0, true},
		{"lost at the end after the return", [][]int{{0}, {1}}, all, 0, true},
		{"nothing", [][]int{nil}, all, 0, true},
		{"twice", [][]int{{0, 1, 1, 2, 3}}, all, 0, true},
		{"twice, here and there", [][]int{{0, 1}, {1, 2, 3}}, all, 0, true},
		{"out of order", [][]int{{0, 2, 1, 3}}, all, 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			missed, err := follow(test.heard, test.acked)
			if (err != nil) != test.wrong || !test.wrong && missed != test.missed {
				t.Errorf("missed %d, %v; want %d, wrong %t", missed, err, test.missed, test.wrong)
			}
		})
	}
}
