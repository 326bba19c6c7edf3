// Package faults holds caddy-rooms to what it promises when Redis, the network, a client or an instance fails: real processes, faults that are
// done to them, and a check of Redis and every instance against the true set of open connections. docs/guarantees.md says what is promised, and
// which test holds it.
package faults

import (
	"os"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.Main(m) }

// full tells whether the promises are tried at their full size and with the defaults of the configuration, as scripts/faults does.
// Otherwise crowds are small and times short, and how long a thing takes is measured but not judged: the machine may be slow.
var full = os.Getenv("ROOMS_FAULTS") == "full"

// The defaults of the configuration.
const (
	defaultTTL   = 20 * time.Second
	defaultGrace = 15 * time.Second
)

// scale is how large and how long a trial is.
type scale struct {
	clients, rooms int
	ttl, grace     time.Duration // of the configuration
	patience       time.Duration // how long what must happen is waited for
}

// size returns the scale of a trial that is full with so many clients in so many rooms.
func size(clients, rooms int) scale {
	if full {
		return scale{clients: clients, rooms: rooms, ttl: defaultTTL, grace: defaultGrace, patience: 2 * time.Minute}
	}
	return scale{clients: max(clients/10, 60), rooms: max(rooms/10, 3), ttl: 3 * time.Second, grace: time.Second, patience: time.Minute}
}

// within fails a trial at full scale in which a thing took longer than promised, and tells how long it took.
func within(t testing.TB, what string, took, promised time.Duration) {
	t.Helper()
	t.Logf("figure: %s: %.2f s (promised at full scale: %.1f s)", what, took.Seconds(), promised.Seconds())
	if full && took > promised {
		t.Errorf("%s took %s, promised are %s", what, took, promised)
	}
}

// alone lets a trial run with others, but not at full scale, where it needs the machine for itself.
func alone(t *testing.T) {
	if !full {
		t.Parallel()
	}
}
