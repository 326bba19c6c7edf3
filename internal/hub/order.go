package hub

import (
	"cmp"
	"context"
	"encoding/json"
	"math"
	"sync"

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

// Done is what has become of an order, as far as instances have said.
type Done struct {
	Connections int  // with how many it was done
	Refused     int  // of Enter: how many could not go in, as the room has as many members as it may, or the connection is in as many rooms
	Degraded    bool // not all instances have said something in time, or one could not tell the shared store
}

// Do carries an order out on all instances. It returns when all have answered, but for those that are not waited for. An instance that can't be
// reached does not carry it out later; one that only stood still does when it goes on: what is about the same user in the order of its coming.
func (h *Hub) Do(ctx context.Context, o Order) Done {
	return sum(h.ask(ctx, o))
}

func sum(answers []answer, degraded bool) Done {
	d := Done{Degraded: degraded}
	for _, a := range answers {
		d.Connections += a.Connections
		d.Refused += a.Refused
	}
	return d
}

// maxOrders is how many orders of other instances wait at most. Those that come then are lost, and not answered.
const maxOrders = 10_000

// inTurn carries an order out here, behind those about the same user that came before, and hands what is to be said of it to then. It does not
// wait for that, and returns false when most orders or more wait. What only counts is done at once, by the caller: before what comes next.
func (h *Hub) inTurn(o Order, most int, then func(answer)) bool {
	if o.Do == Count || o.Do == tellAll {
		then(h.carryOut(o))
		return true
	}
	line := cmp.Or(o.User, o.Conn)
	if s := h.session(o.Conn); s != nil {
		line = s.user
	}
	return h.orders.add(line, most, func() {
		defer h.recovered(nil)
		a := answer{Node: h.opts.Node, Degraded: true} // if there is a panic
		defer func() { then(a) }()
		a = h.carryOut(o)
	})
}

// carryOutInTurn carries an order out here and waits for that. However many wait: whoever orders here waits himself.
func (h *Hub) carryOutInTurn(o Order) answer {
	done := make(chan answer, 1)
	h.inTurn(o, math.MaxInt, func(a answer) { done <- a })
	return <-done
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
		h.eachOrdered(&a, o, func(s *Session) fate { return s.expel(o.Room, reasonKicked) })
		h.release(o, presence.ReasonKicked)
	case Remove:
		h.eachOrdered(&a, o, func(s *Session) fate { return s.expel(o.Room, reasonServer) })
		h.release(o, presence.ReasonLeft)
	case Enter:
		h.eachOrdered(&a, o, func(s *Session) fate { return s.enter(o.Room) })
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

// fate is what has become of an order with one connection.
type fate struct {
	done, refused bool // at most one of them
	degraded      bool // the shared store does not know it yet
}

// eachOrdered calls do for the connections here that an order is about, for several at a time as each may wait for the shared store, and adds what
// has become of them to a.
func (h *Hub) eachOrdered(a *answer, o Order, do func(*Session) fate) {
	var wg sync.WaitGroup
	var mu sync.Mutex // guards a
	free := make(chan struct{}, expelling)
	for _, s := range h.ordered(o) {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			defer h.recovered(s.conn)
			f := do(s)
			mu.Lock()
			defer mu.Unlock()
			if f.done {
				a.Connections++
			}
			if f.refused {
				a.Refused++
			}
			a.Degraded = a.Degraded || f.degraded
		})
	}
	wg.Wait()
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
