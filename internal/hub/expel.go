package hub

import (
	"encoding/json"
	"slices"
	"sync"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/internal/ws"
	"github.com/caddyrooms/caddy-rooms/presence"
)

// Why a client was taken out of a room, as it is told.
const (
	reasonKicked    = "kicked"
	reasonForbidden = "forbidden"
)

// Order is what an operator wants done with a user, or with one of its connections, wherever it is connected. One of User and Conn is set.
type Order struct {
	User string `json:"user,omitempty"`
	Conn string `json:"conn,omitempty"`
	// Room is the room to leave. Empty: the connection is closed with 4005, and the client does not come back by itself.
	Room string `json:"room,omitempty"`
}

// Do carries an order out on all instances. It returns on how many connections of this one it is; the others are only sent the order, and it
// is lost on those that can't be reached. Degraded tells that this may be all of them.
func (h *Hub) Do(o Order) (here int, degraded bool) {
	here = h.obey(o)
	if !h.running.Load() || !h.backend.Shared {
		return here, false
	}
	body, err := json.Marshal(o)
	if err != nil {
		h.logger.Error("encoding order", zap.Error(err)) // three strings: it can't fail
		return here, true
	}
	payload := append([]byte{fromOperator}, h.id...)
	return here, h.outcome(func(done func(error)) {
		h.backend.Bus.Publish(redisdb.UsersChannel(h.opts.Base), append(append(payload, '\n'), body...), done)
	})
}

// receiveOrder carries out what an operator has told another instance.
func (h *Hub) receiveOrder(from string, body []byte) {
	var o Order
	if err := json.Unmarshal(body, &o); err != nil || (o.User == "") == (o.Conn == "") {
		h.logger.Warn("order of another instance is malformed", zap.Error(err))
		return
	}
	if from != h.id {
		h.obey(o)
	}
}

// obey carries an order out here. It does not wait.
func (h *Hub) obey(o Order) (connections int) {
	do := func(s *Session) {
		if o.Room == "" {
			connections++
			s.close(wire.CloseKicked, reasonKicked, false)
			return
		}
		if s.isIn(o.Room) {
			connections++
		}
		// Also if it isn't in: a join may be under way.
		go func() {
			defer h.recovered(s.conn)
			s.expel(o.Room, reasonKicked)
		}()
	}
	if o.Conn != "" {
		if s := h.session(o.Conn); s != nil {
			do(s)
		}
		return connections
	}
	h.eachSession(func(s *Session) {
		if s.user == o.User {
			do(s)
		}
	})
	if h.running.Load() {
		go func() {
			defer h.recovered(nil)
			h.backend.Store.Release(o.User, o.Room, presence.ReasonKicked)
		}()
	}
	return connections
}

func (s *Session) isIn(room string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, in := s.rooms.Get(room)
	return in
}

// expel takes the session out of a room and tells it why. It waits for the request that the session is at, and for the shared store.
func (s *Session) expel(name, reason string) {
	s.work.Lock()
	defer s.work.Unlock()
	m, in := s.rooms.Get(name)
	if !in || s.gone() {
		return
	}
	err := s.depart(m, presence.ReasonKicked, func(bool) {
		s.conn.Send(ws.Text(wire.AppendLeft(ws.Buffer(64+len(name)), name, reason)))
	})
	if err != nil {
		s.hub.logger.Error("taking connection out of room", zap.String("conn", s.id), zap.Error(err))
	}
}

// expelling is how many sessions are taken out of rooms at a time after a change of policy.
const expelling = 64

// enforce takes out of their rooms who may not be there any more, now that policies have changed. Who joins meanwhile looks for himself.
// The connections of the endpoints in aged may now live for another time.
func (h *Hub) enforce(aged []*Endpoint) {
	defer h.recovered(nil)
	var wg sync.WaitGroup
	connections := 0
	defer func() {
		wg.Wait()
		if connections > 0 {
			h.logger.Info("connections taken out of rooms that they may not be in any more", zap.Int("connections", connections))
		}
	}()
	free := make(chan struct{}, expelling)
	h.eachSession(func(s *Session) {
		if slices.Contains(aged, s.endpoint) {
			s.startAge()
		}
		rooms := s.forbidden()
		if len(rooms) == 0 {
			return
		}
		connections++
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			defer h.recovered(s.conn)
			for _, room := range rooms {
				s.expelForbidden(room)
			}
		})
	})
}

// expelForbidden takes the session out of a room unless the policy allows it meanwhile.
func (s *Session) expelForbidden(room string) {
	if slices.Contains(s.forbidden(), room) {
		s.expel(room, reasonForbidden)
	}
}

// forbidden returns the rooms that the session has joined by itself and may not any more.
func (s *Session) forbidden() (rooms []string) {
	p := s.endpoint.Policy()
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, m := range s.rooms.All() {
		if !m.byServer && !s.mayJoin(s.rule(p, name)) {
			rooms = append(rooms, name)
		}
	}
	return rooms
}

// mayJoin tells whether a rule lets the session join by itself.
func (s *Session) mayJoin(rule *RoomRule) bool {
	return rule != nil && rule.Join != Nobody && (rule.Join != Users || !s.anonymous)
}
