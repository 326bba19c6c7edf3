package hub

import (
	"cmp"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/internal/ws"
	"github.com/caddyrooms/caddy-rooms/presence"
)

// Receive implements ws.Owner: it answers one message of the client. It runs in the reader's goroutine, so that requests of a client are
// done one after the other; what waits for a shared store holds up nobody else.
func (s *Session) Receive(m ws.Message) {
	s.work.Lock()
	defer s.work.Unlock()
	limit := s.endpoint.Policy().Transport.MaxFrame
	switch {
	case s.gone():
		return // closed by the server, the peer's answer not yet here
	case m.TooLarge:
		s.close(wire.CloseTooLarge, "too_large", false)
		return
	case m.Binary:
		s.refuse(&wire.Request{}, &wire.Error{Code: wire.BadRequest, Message: "frames must be text"})
		return
	}
	req, err := wire.Decode(m.Data)
	if len(m.Data) > limit {
		err = &wire.Error{Code: wire.TooLarge, Message: "frame is too large"}
	}
	if err != nil {
		s.refuse(&req, err)
		return
	}
	switch req.Type {
	case wire.Join:
		s.join(&req, false)
	case wire.Leave:
		s.leave(&req)
	case wire.Publish:
		s.publish(&req)
	case wire.Status:
		s.status(&req)
	case wire.Members:
		s.members(&req)
	case wire.Heartbeat:
		s.hub.backend.Store.Touch(s.id)
		s.ack(&wire.Ack{ID: req.ID})
	case wire.Auth:
		s.auth(&req)
	case wire.Ping:
		s.conn.Send(ws.Text(wire.AppendPong(ws.Buffer(64), req.ID)))
	}
}

// join enters a room, or tells why not.
func (s *Session) join(req *wire.Request, byServer bool) {
	s.startSpan("rooms join", req.Room)
	defer s.endSpan()
	if _, refusal := s.tryJoin(req, byServer); refusal != nil {
		s.refuse(req, refusal)
	}
}

// tryJoin enters a room, or returns why not, unless it is for a limit, which has told it. The server puts a client also where it may not go by
// itself. Degraded tells that the shared store does not know it yet.
func (s *Session) tryJoin(req *wire.Request, byServer bool) (degraded bool, refusal *wire.Error) {
	p := s.endpoint.Policy()
	rule := s.rule(p, req.Room)
	if rule == nil && byServer {
		rule = &RoomRule{Presence: s.access.Load().mode(req.Room)}
	}
	m, in := s.rooms.Get(req.Room)
	switch {
	case !byServer && !s.mayJoin(rule):
		return false, &wire.Error{Code: wire.Forbidden, Message: "this room may not be joined"}
	case !in && s.rooms.Len() >= p.MaxRooms:
		return false, &wire.Error{Code: wire.TooManyRooms, Message: "in as many rooms as are allowed"}
	case !byServer && !s.allow(OnJoin, req):
		return false, nil
	case in && (req.Status != "" || req.State != nil) && !s.allow(OnStatus, req):
		return false, nil // it is a change of status by another name
	}
	mode := min(req.Presence, rule.Presence)
	ctx, cancel := s.hub.context()
	defer cancel()
	if !in {
		m = newMembership(s.hub.enter(ctx, req.Room), s, byServer)
	}
	r := m.room
	if !s.hub.hears(ctx, req.Room) {
		cancel()
	}
	if rule.MaxMembers > 0 {
		// One at a time, so that two can't take the last place.
		r.joining.Lock()
		defer r.joining.Unlock()
		if !in && s.full(req.Room, rule.MaxMembers) {
			r.exit()
			return false, &wire.Error{Code: wire.RoomFull, Message: "the room is full"}
		}
	}
	state := presence.State{Status: req.Status, State: string(req.State)}
	if a := s.access.Load(); a != nil && !in {
		state.State = cmp.Or(state.State, a.State)
	}
	err := s.hub.backend.Store.Join(ctx, req.Room, s.id, state, func(v presence.View, late bool) {
		degraded = late
		s.spanDegraded(degraded)
		a := wire.Ack{ID: req.ID, Room: req.Room, Mode: mode, Degraded: degraded}
		size := v.Page("", 0)
		named := mode == wire.PresenceFull && r.named(size.Count)
		switch {
		case named:
			page := v.Page("", wire.MaxPage)
			a.Snapshot = &page
		case mode != wire.PresenceNone:
			a.Snapshot, a.Unlisted = &size, mode == wire.PresenceFull
		}
		r.add(m, mode, named, s.frame(&a))
	})
	if err != nil {
		refusal = s.failure("joining room", err)
	}
	if _, placed := s.rooms.Get(req.Room); !in && !placed {
		r.exit() // refused, or the session ended meanwhile
	}
	if s.endpoint.Policy() != p && !m.byServer && !s.mayJoin(s.rule(s.endpoint.Policy(), req.Room)) {
		// The policy has changed behind the check above, and whoever enforces it may have been here before the session was in.
		go func() {
			defer s.hub.recovered(s.conn)
			s.expelForbidden(req.Room)
		}()
	}
	return degraded, refusal
}

// full tells whether a room has no place for the session's user.
func (s *Session) full(room string, most int) (full bool) {
	s.hub.backend.Store.View(room, func(v presence.View, _ bool) {
		if v.Page("", 0).Count < most {
			return
		}
		// A user who is in is counted once, whatever the number of connections.
		_, in := v.Member(s.user)
		full = !in
	})
	return full
}

func (s *Session) leave(req *wire.Request) {
	m, in := s.rooms.Get(req.Room)
	if !in {
		s.refuseNotJoined(req)
		return
	}
	err := s.depart(m, presence.ReasonLeft, func(degraded bool) {
		s.ack(&wire.Ack{ID: req.ID, Room: req.Room, Degraded: degraded})
	})
	if err != nil {
		s.fail(req, "leaving room", err)
	}
}

// depart takes the session out of m's room and has tell send the last frame of that room. s.work is held.
func (s *Session) depart(m *membership, reason presence.Reason, tell func(degraded bool)) error {
	name := m.room.name
	// Nothing of a room comes after that frame: no message, no ack of a publish.
	s.publishes.Wait()
	m.room.remove(m)
	ctx, cancel := s.hub.context()
	defer cancel()
	if !s.hub.hears(ctx, name) {
		cancel()
	}
	err := s.hub.backend.Store.Leave(ctx, name, s.id, reason, tell)
	s.mu.Lock()
	s.rooms.Delete(name)
	s.mu.Unlock()
	m.room.exit()
	return err
}

func (s *Session) publish(req *wire.Request) {
	s.startSpan("rooms publish", req.Room)
	defer s.endSpan()
	rule := s.rule(s.endpoint.Policy(), req.Room)
	m, in := s.rooms.Get(req.Room)
	switch {
	case rule == nil || rule.Publish == Nobody:
		s.refuse(req, &wire.Error{Code: wire.Forbidden, Message: "clients may not publish in this room"})
		return
	case !in && rule.Publish != Everyone:
		s.refuseNotJoined(req)
		return
	case !s.allow(OnPublish, req):
		return
	}
	h := s.hub
	size := len(req.Data) + len(req.Room) + len(req.Event) + len(s.user) + len(s.id) + 128
	b := wire.AppendMessage(ws.Buffer(size), &wire.Message{
		Room: req.Room, Event: req.Event, Data: req.Data, From: &wire.Sender{User: s.user, Conn: s.id}, TS: time.Now().UnixMilli(),
	})
	var r *room
	if in {
		r = m.room
	} else {
		r = h.room(req.Room)
	}
	to := addressees{except: s.conn}
	if req.Echo {
		to = addressees{}
	}
	var done func(error)
	if req.ID != nil {
		a := wire.Ack{ID: slices.Clone(req.ID), Room: req.Room}
		s.publishes.Add(1)
		done = func(err error) {
			defer s.publishes.Done()
			a.Degraded = err != nil
			s.ack(&a)
		}
	}
	h.send(r, req.Room, b, to, nil, s.spanUntil(done))
}

func (s *Session) status(req *wire.Request) {
	if _, in := s.rooms.Get(req.Room); req.Room != "" && !in {
		s.refuseNotJoined(req)
		return
	}
	if !s.allow(OnStatus, req) {
		return
	}
	ctx, cancel := s.hub.context()
	defer cancel()
	var degraded bool
	var err error
	if req.Room != "" {
		if !s.hub.hears(ctx, req.Room) {
			cancel()
		}
		degraded, err = s.hub.backend.Store.Update(ctx, req.Room, s.id, presence.State{Status: req.Status, State: string(req.State)})
	} else {
		degraded, err = s.hub.backend.Store.SetStatus(ctx, s.user, req.Status)
	}
	if err != nil {
		s.fail(req, "setting status", err)
		return
	}
	s.ack(&wire.Ack{ID: req.ID, Room: req.Room, Degraded: degraded})
}

func (s *Session) members(req *wire.Request) {
	rule := s.rule(s.endpoint.Policy(), req.Room)
	m, in := s.rooms.Get(req.Room)
	switch {
	case !in:
		s.refuseNotJoined(req)
		return
	case rule == nil || rule.Presence != wire.PresenceFull:
		s.refuse(req, &wire.Error{Code: wire.Forbidden, Message: "members of this room are not told"})
		return
	}
	a := wire.Ack{ID: req.ID, Room: req.Room, Mode: wire.PresenceFull, Page: true}
	s.hub.backend.Store.View(req.Room, func(v presence.View, degraded bool) {
		page := v.Page(req.Cursor, wire.MaxPage)
		a.Snapshot, a.Degraded = &page, degraded
		if req.Recent {
			a.Recent = v.Departed()
		}
		m.room.answer(m, req.Cursor == "", s.frame(&a))
	})
}

// ack answers a request that wants an answer.
func (s *Session) ack(a *wire.Ack) {
	if a.ID != nil {
		s.conn.Send(s.frame(a))
	}
}

func (s *Session) frame(a *wire.Ack) *ws.Frame {
	size := 64 + len(a.ID) + len(a.Room)
	if a.Snapshot != nil {
		size += 128 * len(a.Snapshot.Members)
	}
	return ws.Text(wire.AppendAck(ws.Buffer(size), a))
}

func (s *Session) refuse(req *wire.Request, err *wire.Error) {
	s.spanRefused(err.Code)
	room := req.Room
	if wire.CheckRoom(room) != nil {
		room = "" // what is no name is not repeated
	}
	s.sendError(&wire.Refusal{Error: *err, ID: req.ID, Room: room})
}

func (s *Session) refuseNotJoined(req *wire.Request) {
	s.refuse(req, &wire.Error{Code: wire.NotJoined, Message: "not in this room"})
}

// fail answers a request that failed through no fault of the client.
func (s *Session) fail(req *wire.Request, doing string, err error) {
	s.refuse(req, s.failure(doing, err))
}

// failure logs what failed through no fault of the client, and returns what the client is told of it.
func (s *Session) failure(doing string, err error) *wire.Error {
	s.hub.logger.Error(doing, zap.String("conn", s.id), zap.Error(err))
	return &wire.Error{Code: wire.Internal, Message: "the server could not do this"}
}

func (s *Session) sendError(r *wire.Refusal) {
	s.conn.Send(ws.Text(wire.AppendError(ws.Buffer(256), r)))
}
