package hub

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/ws"
)

// Endpoint is one place where clients enter a hub. Its policy may differ from that of other endpoints of the hub.
type Endpoint struct {
	hub     *Hub
	binding Binding                // the latest; guarded by Hub.mu
	removed atomic.Bool            // no configuration has it any more; set once
	policy  atomic.Pointer[Policy] // never nil
	limits  atomic.Pointer[ws.Limits]
}

// Policy returns the policy in force.
func (e *Endpoint) Policy() *Policy { return e.policy.Load() }

// Binding is what the running configuration says about one endpoint.
type Binding struct {
	// Admission is whom the endpoint admits and how they are named. Clients never pass to an endpoint with another one.
	Admission string
	// Checks is how it makes sure of that. Endpoints are told apart by it.
	Checks string
	// Config is all that there is to say about the endpoint, so that an unchanged one is known again.
	Config string
	Policy *Policy
}

// likeness tells whether two bindings are of the same endpoint, as far as one can tell.
type likeness func(a, b *Binding) bool

func sameAdmission(a, b *Binding) bool { return a.Admission == b.Admission }
func sameChecks(a, b *Binding) bool    { return sameAdmission(a, b) && a.Checks == b.Checks }
func unchanged(a, b *Binding) bool     { return sameChecks(a, b) && a.Config == b.Config }

// Bind makes bindings the hub's endpoints, and returns these in the same order. Clients stay where their endpoint has not changed, or
// where the one that it has become can't be mistaken for another; their new policy holds at once, and who is in a room that it closes
// to him is taken out of it. The clients of endpoints that are no more are asked to come again. The first call starts the hub. Calls must
// not overlap.
func (h *Hub) Bind(bindings []Binding) []*Endpoint {
	h.mu.Lock()
	orphans := h.endpoints
	heirs := make([]*Endpoint, len(bindings))
	inherit := func(i int, like likeness) {
		of := func(e *Endpoint) bool { return like(&e.binding, &bindings[i]) }
		if at := slices.IndexFunc(orphans, of); at >= 0 {
			heirs[i] = orphans[at]
			orphans = slices.Delete(slices.Clone(orphans), at, at+1)
		}
	}
	for i := range bindings {
		inherit(i, unchanged)
	}
	for _, like := range []likeness{sameChecks, sameAdmission} {
		for i, b := range bindings {
			rivals := 0
			for j := range bindings {
				if heirs[j] == nil && like(&bindings[j], &b) {
					rivals++
				}
			}
			if heirs[i] == nil && rivals == 1 && count(orphans, func(e *Endpoint) bool { return like(&e.binding, &b) }) == 1 {
				inherit(i, like)
			}
		}
	}
	var closing, aged []*Endpoint
	changed := false
	for i, b := range bindings {
		e := heirs[i]
		if e == nil {
			e = &Endpoint{hub: h}
			heirs[i] = e
		}
		changed = changed || e.binding.Config != b.Config
		e.binding = b
		e.limits.Store(&b.Policy.Transport)
		old := e.policy.Swap(b.Policy)
		if old != nil && old.CloseOnRebind {
			closing = append(closing, e)
		}
		if old != nil && old.MaxAge != b.Policy.MaxAge {
			aged = append(aged, e)
		}
	}
	for _, e := range orphans {
		e.removed.Store(true)
	}
	h.endpoints = slices.Clone(heirs)
	h.mu.Unlock()

	h.start()
	if changed {
		go h.enforce(aged)
	}
	if closing = append(closing, orphans...); len(closing) > 0 {
		go h.closeSpread(h.life, h.DrainWindow(), func(s *Session) bool { return slices.Contains(closing, s.endpoint) })
	}
	return heirs
}

func (h *Hub) allEndpoints() []*Endpoint {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.endpoints // never changed, only replaced
}

func count(endpoints []*Endpoint, of func(*Endpoint) bool) (n int) {
	for _, e := range endpoints {
		if of(e) {
			n++
		}
	}
	return n
}

// DrainWindow returns the longest drain of the endpoints.
func (h *Hub) DrainWindow() time.Duration {
	return most(h, func(p *Policy) time.Duration { return p.Drain })
}

// most returns the largest of what the endpoints' policies say.
func most[T int | time.Duration](h *Hub, of func(*Policy) T) (largest T) {
	for _, e := range h.allEndpoints() {
		largest = max(largest, of(e.policy.Load()))
	}
	return largest
}
