package hub

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"

	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/presence"
)

// Deed is what an order has done with connections.
type Deed string

// The deeds.
const (
	Disconnect Deed = "disconnect" // closed with 4005: the client does not come back by itself
	Kick       Deed = "kick"       // taken out of a room, as a sanction
	Remove     Deed = "remove"     // taken out of a room, as if it had left
	Enter      Deed = "enter"      // put in a room, where rules would not let it go by itself, too
	Count      Deed = "count"      // nothing

	tellUser Deed = "tell user" // listed
	tellAll  Deed = "tell all"  // all of them counted
)

// Order is what an operator wants done with a user's connections, or with one connection, wherever these are. One of User and Conn is set, or both: then
// it is about the connection only if it is the user's.
type Order struct {
	Do   Deed   `json:"do"`
	User string `json:"user,omitempty"`
	Conn string `json:"conn,omitempty"`
	Room string `json:"room,omitempty"` // of Kick, Remove and Enter
	// How many connections are listed, and behind which.
	Limit int    `json:"limit,omitempty"`
	After string `json:"after,omitempty"`
}

// Do carries an order out on all instances. It returns with how many connections that was done, when all have answered. Degraded tells that not
// all have: an instance that can't be reached does not carry it out later.
func (h *Hub) Do(ctx context.Context, o Order) (connections int, degraded bool) {
	answers, degraded := h.ask(ctx, o)
	for _, a := range answers {
		connections += a.Connections
	}
	return connections, degraded
}

// carryOut carries an order out here. It waits until that is done.
func (h *Hub) carryOut(o Order) answer {
	a := answer{Node: h.opts.Node}
	switch o.Do {
	case tellAll:
		a.Occupancy = h.Occupancy()
	case tellUser:
		a.Listed, a.Next = fitting(h.ConnectionsOf(o.User, "", o.After, o.Limit))
	case Count:
		a.Connections = len(h.ordered(o))
	case Disconnect:
		for _, s := range h.ordered(o) {
			s.close(wire.CloseKicked, reasonKicked, false)
			a.Connections++
		}
		h.release(o, presence.ReasonKicked)
	case Kick:
		a.Connections = h.eachOrdered(o, func(s *Session) bool { return s.expel(o.Room, reasonKicked) })
		h.release(o, presence.ReasonKicked)
	case Remove:
		a.Connections = h.eachOrdered(o, func(s *Session) bool { return s.expel(o.Room, reasonServer) })
		h.release(o, presence.ReasonLeft)
	case Enter:
		a.Connections = h.eachOrdered(o, func(s *Session) bool { return s.enter(o.Room) })
	}
	return a
}

// ordered returns the connections here that an order is about.
func (h *Hub) ordered(o Order) []*Session {
	if o.Conn == "" {
		return h.sessionsOf(o.User)
	}
	if s := h.session(o.Conn); s != nil && (o.User == "" || s.user == o.User) {
		return []*Session{s}
	}
	return nil
}

// eachOrdered calls do for the connections here that an order is about, for several at a time as each may wait for the shared store. It returns
// how often that was true.
func (h *Hub) eachOrdered(o Order, do func(*Session) bool) int {
	var wg sync.WaitGroup
	var n atomic.Int64
	free := make(chan struct{}, expelling)
	for _, s := range h.ordered(o) {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			defer h.recovered(s.conn)
			if do(s) {
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return int(n.Load())
}

// release gives up the places that are held for connections that the user of an order has lost.
func (h *Hub) release(o Order, reason presence.Reason) {
	if o.Conn == "" {
		h.backend.Store.Release(o.User, o.Room, reason)
	}
}

// valid tells whether what another instance has sent is an order.
func (o *Order) valid() bool {
	switch o.Do {
	case tellAll:
		return true
	case tellUser:
		return o.User != ""
	case Disconnect, Count:
		return o.User != "" || o.Conn != ""
	case Kick, Remove, Enter:
		return (o.User != "" || o.Conn != "") && o.Room != ""
	}
	return false
}

// decodeOrder returns the order that another instance has sent; false when it is none.
func decodeOrder(b []byte) (o Order, ok bool) {
	err := json.Unmarshal(b, &o)
	return o, err == nil && o.valid()
}
