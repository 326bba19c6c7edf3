package hub

import (
	"maps"
	"slices"

	"github.com/caddyrooms/caddy-rooms/internal/ws"
)

// siblings are the sessions of one user before and after a session, nil at the ends. Hub.sessionsMu guards it.
type siblings struct{ before, after *Session }

// register makes a session one of the hub's and welcomes its client, at once: nothing that others send comes before the welcome, and whoever
// names the connection after that finds it. s.work is held, so that what the server does with the session comes behind its beginning.
func (h *Hub) register(s *Session, welcome *ws.Frame) {
	h.sessionsMu.Lock()
	defer h.sessionsMu.Unlock()
	s.conn.Send(welcome)
	h.sessions[s.id] = s
	if s.siblings.after = h.users[s.user]; s.siblings.after != nil {
		s.siblings.after.siblings.before = s
	}
	h.users[s.user] = s
}

func (h *Hub) unregister(s *Session) {
	h.sessionsMu.Lock()
	defer h.sessionsMu.Unlock()
	if h.sessions[s.id] != s {
		return
	}
	delete(h.sessions, s.id)
	before, after := s.siblings.before, s.siblings.after
	if after != nil {
		after.siblings.before = before
	}
	switch {
	case before != nil:
		before.siblings.after = after
	case after != nil:
		h.users[s.user] = after
	default:
		delete(h.users, s.user)
	}
	s.siblings = siblings{}
}

// session returns the session of a connection, or nil.
func (h *Hub) session(conn string) *Session {
	h.sessionsMu.Lock()
	defer h.sessionsMu.Unlock()
	return h.sessions[conn]
}

// sessionsOf returns the sessions of a user that are there now.
func (h *Hub) sessionsOf(user string) (all []*Session) {
	h.sessionsMu.Lock()
	defer h.sessionsMu.Unlock()
	for s := h.users[user]; s != nil; s = s.siblings.after {
		all = append(all, s)
	}
	return all
}

// eachSession calls do for the sessions that are there now, with no lock held.
func (h *Hub) eachSession(do func(*Session)) {
	h.sessionsMu.Lock()
	all := slices.Collect(maps.Values(h.sessions))
	h.sessionsMu.Unlock()
	for _, s := range all {
		do(s)
	}
}
