package hub

import (
	"slices"
	"sync"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/internal/ws"
	"github.com/caddyrooms/caddy-rooms/presence"
)

// Why a client was taken out of a room, as it is told.
const (
	reasonKicked    = "kicked"
	reasonForbidden = "forbidden"
	reasonServer    = "server" // whoever runs the server had it so
)

func (s *Session) isIn(room string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, in := s.rooms.Get(room)
	return in
}

// expel takes the session out of a room, if it is in, and tells it why. It waits for the request that the session is at, and for the shared store.
func (s *Session) expel(name, reason string) fate {
	s.work.Lock()
	defer s.work.Unlock()
	return s.takeOut(name, reason)
}

// takeOut is expel with work held.
func (s *Session) takeOut(name, reason string) (f fate) {
	m, in := s.rooms.Get(name)
	if !in || s.gone() {
		return f
	}
	told := presence.ReasonKicked
	if reason == reasonServer {
		told = presence.ReasonLeft
	}
	err := s.depart(m, told, func(degraded bool) {
		f.degraded = degraded
		s.conn.Send(ws.Text(wire.AppendLeft(ws.Buffer(64+len(name)), name, reason)))
	})
	if err != nil {
		s.hub.logger.Error("taking connection out of room", zap.String("conn", s.id), zap.Error(err))
	}
	f.done = true
	return f
}

// enter puts the session in a room, whatever the rules say about who may join, and tells it as auto_join does; but of a room that has no place for
// it, of which it knows nothing, it is told nothing. One that is in stays, whatever the rules say later.
func (s *Session) enter(name string) (f fate) {
	s.work.Lock()
	defer s.work.Unlock()
	if s.gone() {
		return f
	}
	if m, in := s.rooms.Get(name); in {
		s.mu.Lock()
		m.byServer = true
		s.mu.Unlock()
		return fate{done: true}
	}
	s.startSpan("rooms join", name)
	defer s.endSpan()
	degraded, refusal := s.tryJoin(&wire.Request{Type: wire.Join, Room: name, Presence: wire.PresenceFull}, true)
	f.degraded = degraded
	if refusal != nil {
		s.spanRefused(refusal.Code)
		f.refused = refusal.Code == wire.RoomFull || refusal.Code == wire.TooManyRooms
	}
	_, f.done = s.rooms.Get(name)
	return f
}

// expelling is how many sessions are taken out of rooms at a time after a change of policy.
const expelling = 64

// enforce takes out of their rooms who may not be there any more, now that policies have changed. Who joins meanwhile looks for himself.
// Who has come with a token that nobody trusts now is sent away. The connections of the endpoints in aged may now live for another time.
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
		if s.closeUntrusted() {
			return
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

// expelForbidden takes the session out of a room unless the policy, or the server, allows it meanwhile.
func (s *Session) expelForbidden(room string) {
	s.work.Lock()
	defer s.work.Unlock()
	if slices.Contains(s.forbidden(), room) {
		s.takeOut(room, reasonForbidden)
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
