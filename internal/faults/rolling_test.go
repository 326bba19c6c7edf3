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
