package hub

import (
	"context"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/wire"
)

// Access is what a client may do by its token, for as long as that is valid. It is immutable.
type Access struct {
	User    string
	Expires time.Time // zero: never
	State   string    // of the client in rooms that it enters without one; a JSON object, or ""
	// Grants narrow what the rules allow to rooms that one of them matches, and there to what these allow together. nil: they narrow nothing.
	Grants []Grant
	Signer string // who has signed the token, for Policy.Trusts
}

// Grant is what a token allows in some rooms.
type Grant struct {
	Rooms                   Pattern
	Join, Publish, Presence bool
}

// grant sums up what is allowed in a room.
func (a *Access) grant(room string) (sum Grant) {
	if a == nil || a.Grants == nil {
		return Grant{Join: true, Publish: true, Presence: true}
	}
	for _, g := range a.Grants {
		if g.Rooms.Match(room) {
			sum.Join, sum.Publish, sum.Presence = sum.Join || g.Join, sum.Publish || g.Publish, sum.Presence || g.Presence
		}
	}
	return sum
}

// mode returns the most that the client is told of who is in a room.
func (a *Access) mode(room string) wire.Presence {
	if a.grant(room).Presence {
		return wire.PresenceFull
	}
	return wire.PresenceNone
}

// rule returns the policy's rule for a room as it holds for the session; nil when the room is closed to it.
func (s *Session) rule(p *Policy, room string) *RoomRule {
	rule, a := p.rule(room), s.access.Load()
	if rule == nil || a == nil || a.Grants == nil {
		return rule
	}
	narrowed, g := *rule, a.grant(room)
	if !g.Join {
		narrowed.Join = Nobody
	}
	if !g.Publish {
		narrowed.Publish = Nobody
	}
	narrowed.Presence = min(narrowed.Presence, a.mode(room))
	return &narrowed
}

// Authenticate returns what a token allows, or why it is refused.
type Authenticate func(ctx context.Context, token string) (*Access, *wire.Error)

// auth puts a new token in the place of the one that the client has come with.
func (s *Session) auth(req *wire.Request) {
	authenticate := s.endpoint.Policy().Authenticate
	if authenticate == nil {
		s.refuse(req, &wire.Error{Code: wire.BadRequest, Message: "no tokens are taken here"})
		return
	}
	if !s.allow(OnStatus, req) {
		return
	}
	ctx, cancel := s.hub.context()
	defer cancel()
	a, refusal := authenticate(ctx, req.Token)
	switch {
	case refusal != nil:
		answer := wire.Refusal{Error: *refusal, ID: req.ID}
		if refusal.Code == wire.Unavailable {
			answer.RetryAfter = reconnectIn(wire.CloseUnavailable)
		}
		s.sendError(&answer)
		return
	case a.User != s.user:
		s.refuse(req, &wire.Error{Code: wire.Unauthorized, Message: "the token is of another user"})
		return
	}
	s.access.Store(a)
	if s.closeUntrusted() {
		return
	}
	s.startExpiry()
	s.ack(&wire.Ack{ID: req.ID, Expires: expiry(a)})
	go func() {
		defer s.hub.recovered(s.conn)
		for _, room := range s.forbidden() {
			s.expelForbidden(room)
		}
	}()
}

// closeUntrusted closes the session if its token was signed by whom the policy does not trust any more. Whoever changes one of the two looks
// afterwards.
func (s *Session) closeUntrusted() (closed bool) {
	a, trusts := s.access.Load(), s.endpoint.Policy().Trusts
	if a == nil || trusts == nil || trusts(a.Signer) {
		return false
	}
	s.close(wire.CloseUnauthorized, "revoked", false)
	return true
}

// expiry returns when the access ends, in Unix milliseconds; 0: never.
func expiry(a *Access) int64 {
	if a == nil || a.Expires.IsZero() {
		return 0
	}
	return a.Expires.UnixMilli()
}

// startExpiry starts the time after which the session is closed, as its token has expired. Called again, it starts anew.
func (s *Session) startExpiry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.expiry != nil {
		s.expiry.Stop()
		s.expiry = nil
	}
	a := s.access.Load() // with mu locked: who comes last has the newest
	if s.dropped || expiry(a) == 0 {
		return
	}
	s.expiry = time.AfterFunc(time.Until(a.Expires), func() {
		defer s.hub.recovered(s.conn)
		if s.access.Load() == a { // else there is a new one
			s.close(wire.CloseUnauthorized, "expired", false)
		}
	})
}
