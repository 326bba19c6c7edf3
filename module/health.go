package module

import (
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyrooms/caddy-rooms/internal/bus"
	"github.com/caddyrooms/caddy-rooms/internal/hub"
	"github.com/caddyrooms/caddy-rooms/presence"
)

// sharing is what a hub works with besides its own memory once it has started.
type sharing struct {
	presence *presence.Redis
	bus      *bus.Redis
}

// The statuses of a hub and of the instance.
const (
	statusReady    = "ready"
	statusDegraded = "degraded" // without other instances, or with doubts
	statusDraining = "draining"
	statusStarting = "starting"
)

// shownHealth is how a hub does.
type shownHealth struct {
	Hub         string   `json:"hub"`
	Status      string   `json:"status"`
	Redis       string   `json:"redis"`
	Delivery    string   `json:"delivery"`
	Connections int      `json:"connections"`
	Problems    []string `json:"problems"`

	state hub.State
}

// health looks at the hub, without waiting for anything.
func (s *sharedHub) health() shownHealth {
	h := shownHealth{
		Hub: s.key.name, Status: statusReady, Redis: "none", Delivery: "within this process", Connections: s.Connections(), Problems: []string{},
		state: s.State(),
	}
	if s.db != nil {
		s.examine(&h)
	}
	switch h.state {
	case hub.StateStarting:
		h.Status = statusStarting
	case hub.StateDraining:
		h.Status = statusDraining
	case hub.StateOpen:
	}
	return h
}

// examine says how Redis does, and what is shared over it.
func (s *sharedHub) examine(h *shownHealth) {
	shared := s.shared.Load()
	switch {
	case shared == nil || s.db.Up() && !s.told.Load():
		h.Status, h.Redis, h.Delivery = statusStarting, "not heard from yet", "not yet"
		return
	case !s.db.Up():
		h.Status, h.Redis, h.Delivery = statusDegraded, "out of reach, going on without it", "within this instance only"
		h.Problems = append(h.Problems, fmt.Sprintf("%s is out of reach (%v): until it is back, members and messages are those of this instance alone, "+
			"and limits of the cluster do what their on_outage says; check that Redis runs, can be reached from here, and takes the login", s.key.redis, s.db.Err()))
		return
	}
	h.Redis, h.Delivery = "connected", "messages of all instances arrive"
	if err := shared.bus.Health(); err != nil {
		h.Status, h.Delivery = statusDegraded, "messages of other instances may not arrive"
		h.Problems = append(h.Problems, fmt.Sprintf("messages of other instances may not arrive: %v; it is tried again all the time; if this stays, check "+
			"that the user of Redis may subscribe and publish to all channels that begin with %s", err, s.base))
	}
	if shared.presence.Degraded() {
		h.Status = statusDegraded
		h.Problems = append(h.Problems, "presence is not shared with other instances yet: what this one knows is being written to Redis; "+
			"if this stays, the log says why")
	}
}

// readiness sums up the hubs. One that drains while the process goes on, and one that a configuration has made which is not live yet, say
// nothing about those that clients come to.
func readiness(hubs []shownHealth, exiting, live bool) string {
	worst := map[hub.State]string{}
	for _, h := range hubs {
		worst[h.state] = worseStatus(worst[h.state], h.Status)
	}
	switch {
	case exiting:
		return statusDraining
	case worst[hub.StateOpen] != "":
		return worst[hub.StateOpen]
	case !live || worst[hub.StateStarting] != "":
		return statusStarting
	}
	return statusReady // nothing is asked of it, also if a reload has removed its last hub: other sites go on
}

// worseStatus returns the one that says less of what the hub can do.
func worseStatus(a, b string) string {
	for _, s := range []string{statusStarting, statusDraining, statusDegraded, statusReady} {
		if a == s || b == s {
			return s
		}
	}
	return b
}

// showLive answers as long as the process does.
func showLive(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, struct {
		Status string `json:"status"`
	}{"live"})
}

// showReady tells whether clients should be sent here. An instance without Redis goes on for its own clients, so it stays ready unless it is
// asked to be strict: if all did otherwise, a failure of Redis would be one of everything.
func showReady(w http.ResponseWriter, r *http.Request) error {
	strict, err := readStrict(r)
	if err != nil {
		return err
	}
	health := []shownHealth{}
	for _, h := range presentHubs() {
		health = append(health, h.health())
	}
	answer := struct {
		Status string        `json:"status"`
		Hubs   []shownHealth `json:"hubs"`
	}{readiness(health, caddy.Exiting(), caddy.ActiveContext().Context != nil), health}
	return writeJSON(w, readyStatus(answer.Status, strict), answer)
}

// readyStatus is what readiness is over HTTP.
func readyStatus(status string, strict bool) int {
	if status == statusStarting || status == statusDraining || strict && status == statusDegraded {
		return http.StatusServiceUnavailable
	}
	return http.StatusOK
}
