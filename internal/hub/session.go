package hub

import (
	"cmp"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/small"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/internal/ws"
	"github.com/caddyrooms/caddy-rooms/presence"
)

// Client is who has come in by an endpoint, as its server has established it.
type Client struct {
	Conn   string // from NewConnID
	User   string // empty: anonymous
	Device string
	// Rooms are joined right after the welcome.
	Rooms []string
	// Access is what the client's token allows; nil: it has none.
	Access *Access
	// Keys are the expanded texts of the limits' keys that depend on the request, by template.
	Keys small.Map[string, []string]
}

// UserID returns the id of the client's user. Each anonymous client is a user of its own.
func (c *Client) UserID() string {
	if c.User == "" {
		return anonymousPrefix + c.Conn
	}
	return c.User
}

// NewConnID returns the id of a connection, unique over all instances.
func NewConnID() string { return "c" + randomID(12) }

// anonymousPrefix begins the user id of a connection without a user. No user's own id may, lest it be taken for one.
const anonymousPrefix = "anon:"

// ValidUser tells whether user can be the id of a user.
func ValidUser(user string) bool {
	return user != "" && len(user) <= presence.MaxName && utf8.ValidString(user) &&
		!strings.HasPrefix(user, anonymousPrefix) && !strings.ContainsFunc(user, unicode.IsControl) && !wire.Dots(user)
}

// Session is a client's stay: one connection and the rooms it is in.
type Session struct {
	hub       *Hub
	endpoint  *Endpoint
	conn      *ws.Conn
	id        string
	user      string
	device    string
	anonymous bool
	opened    time.Time
	keys      small.Map[string, []string] // as Client.Keys
	tracing   *tracing                    // nil: none
	access    atomic.Pointer[Access]      // nil: no token
	siblings  siblings

	// work is held while something is done for the session: a request, by its reader, or what the server does with it. It is taken
	// before all other locks, and held across calls of the store.
	work      sync.Mutex
	rooms     small.Map[string, *membership] // by name; written under work and mu, read under one of them
	refusals  map[string]*refusals           // by the name of the limit; guarded by work
	publishes sync.WaitGroup                 // whose acks are not queued yet; guarded by work
	span      trace.Span                     // of the request that is being done; nil: it is not traced; guarded by work

	mu      sync.Mutex
	dropped bool        // out of the hub: joins no room any more; guarded by mu
	code    int         // with which the server has closed; guarded by mu
	reason  string      // why it has; guarded by mu
	age     *time.Timer // ends a connection that is too old; guarded by mu
	expiry  *time.Timer // ends one whose token has expired; nil: it has none that does; guarded by mu
}

// Accepting tells whether the endpoint takes connections now.
func (e *Endpoint) Accepting() bool {
	return e.hub.running.Load() && !e.hub.draining.Load()
}

// Admit counts a connection in, which Accept must get next, or returns false when there are too many.
func (e *Endpoint) Admit() bool {
	h, most := e.hub, e.policy.Load().MaxConnections
	h.mu.RLock() // so that a drain either sees it counted or refuses it
	defer h.mu.RUnlock()
	if h.draining.Load() {
		return false
	}
	if n := h.open.Add(1); most >= 0 && n > int64(most) {
		h.open.Add(-1)
		return false
	}
	h.ended.Add(1)
	return true
}

// dismiss counts a connection out.
func (h *Hub) dismiss() {
	h.open.Add(-1)
	h.ended.Done()
}

// Accept upgrades the request of a client that was counted in with Admit and takes it into the hub. It returns at once; the session ends by
// itself. Its requests are traced if r's context is that of a span of StartUpgrade. After an error the response is written and the client
// counted out.
func (e *Endpoint) Accept(w http.ResponseWriter, r *http.Request, c Client) error {
	s := &Session{
		hub: e.hub, endpoint: e, id: c.Conn, user: c.UserID(), device: c.Device, anonymous: c.User == "", keys: c.Keys,
		opened: time.Now(), tracing: newTracing(trace.SpanFromContext(r.Context()), &c),
	}
	s.access.Store(c.Access)
	conn, err := e.hub.pool.Accept(w, r, wire.Subprotocol, &e.limits, s)
	if err != nil {
		e.hub.dismiss()
		return err
	}
	s.conn = conn
	go s.run(c.Rooms)
	return nil
}

// Refuse upgrades the request only to tell the client why it is not admitted, since a browser can't read the status of a
// refused upgrade. It returns at once.
func (e *Endpoint) Refuse(w http.ResponseWriter, r *http.Request, code int, refusal *wire.Refusal) error {
	conn, err := e.hub.pool.Accept(w, r, wire.Subprotocol, &e.limits, refused{})
	if err != nil {
		return err
	}
	in := cmp.Or(refusal.RetryAfter, reconnectIn(code))
	refusal.RetryAfter = in
	conn.Send(ws.Text(wire.AppendError(ws.Buffer(256), refusal)))
	conn.Close(code, wire.CloseReason(code, in), ws.Text(wire.AppendBye(ws.Buffer(128), code, string(refusal.Code), in)), false)
	conn.Start() // until the peer has answered
	return nil
}

// refused owns a connection that is closed already.
type refused struct{}

func (refused) Receive(ws.Message) {}
func (refused) Ended(int, error)   {}
func (refused) Silent()            {}
func (refused) Slow()              {}

// run begins the session and hands it to its connection's reader, which ends it.
func (s *Session) run(autoJoin []string) {
	defer s.conn.Start()
	defer s.hub.recovered(s.conn)
	s.begin(autoJoin)
	s.startAge()
	s.startExpiry()
}

// begin welcomes the client, records it, and puts it where the server wants it.
func (s *Session) begin(autoJoin []string) {
	s.work.Lock()
	defer s.work.Unlock()
	s.hub.register(s, s.welcome())
	if s.hub.draining.Load() || s.endpoint.removed.Load() {
		s.close(wire.CloseRestart, "restart", false) // it came in too late to be closed with the others
	}
	s.closeUntrusted() // the same
	if _, banned := s.hub.backend.Moderation.Banned(s.user); banned {
		s.close(wire.CloseKicked, reasonBanned, false) // the ban came behind the upgrade, and perhaps before the session was one of the hub's
	}
	ctx, cancel := s.hub.context()
	_, _, err := s.hub.backend.Store.Connect(ctx, presence.Conn{
		ID: s.id, User: s.user, Device: s.device, Anonymous: s.anonymous,
	})
	cancel()
	if err != nil {
		s.hub.logger.Error("recording connection", zap.String("conn", s.id), zap.Error(err))
		s.close(wire.CloseUnavailable, "presence", false)
	}
	for _, room := range autoJoin {
		req := wire.Request{Type: wire.Join, Room: room, Presence: wire.PresenceFull}
		if err := wire.CheckRoom(room); err != nil {
			s.refuse(&req, err)
			continue
		}
		s.join(&req, true)
	}
}

func (s *Session) welcome() *ws.Frame {
	p := s.endpoint.Policy()
	w := wire.Welcome{
		Conn: s.id, User: s.user, Node: s.hub.opts.Node, Ping: p.Ping, MaxRooms: p.MaxRooms, MaxFrame: p.Transport.MaxFrame,
		Expires: expiry(s.access.Load()),
	}
	for i := range p.Limits {
		if l := &p.Limits[i]; l.On != OnConnect && !l.Observe {
			w.Limits = append(w.Limits, wire.Limit{Name: l.Name, On: string(l.On), Events: l.Events, Window: l.Window})
		}
	}
	return ws.Text(wire.AppendWelcome(ws.Buffer(512), &w))
}

// startAge starts the time after which the connection is asked to come again, jittered so that not all come at once. Called again, it
// starts anew with what is left of a new policy's age.
func (s *Session) startAge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	most := s.endpoint.Policy().MaxAge // with mu locked: who comes last has the newest
	if s.age != nil {
		s.age.Stop()
		s.age = nil
	}
	if most <= 0 || s.dropped {
		return
	}
	jitter := rand.N(most/5 + 1)
	left := most - jitter - time.Since(s.opened)
	if left <= 0 {
		left = jitter // nor do those all come at once that are too old when the policy comes
	}
	s.age = time.AfterFunc(left, func() {
		defer s.hub.recovered(s.conn)
		s.close(wire.CloseRestart, "max_connection_age", false)
	})
}

// place records m unless the session has left the hub. room.mu is held.
func (s *Session) place(m *membership) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dropped {
		return false
	}
	s.rooms.Set(m.room.name, m)
	return true
}

// gone tells whether the session has left the hub.
func (s *Session) gone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// drop takes the session out of the hub and its rooms, so that nothing more is sent to it. Only the first call does anything. What the
// store knows of it ends with the reader.
func (s *Session) drop() {
	s.mu.Lock()
	if s.dropped {
		s.mu.Unlock()
		return
	}
	s.dropped = true
	if s.age != nil {
		s.age.Stop()
	}
	if s.expiry != nil {
		s.expiry.Stop()
	}
	left := make([]*membership, 0, s.rooms.Len())
	for m := range s.rooms.Values() {
		left = append(left, m)
	}
	s.mu.Unlock()
	s.hub.unregister(s)
	for _, m := range left {
		m.room.remove(m)
	}
}

// close says bye and closes with code. It never blocks and may be called from any goroutine; only the first call counts.
func (s *Session) close(code int, reason string, discard bool) {
	s.closeIn(code, reason, reconnectIn(code), discard)
}

func (s *Session) closeIn(code int, reason string, in time.Duration, discard bool) {
	s.mu.Lock()
	if s.code != 0 {
		s.mu.Unlock()
		return
	}
	s.code, s.reason = code, reason
	s.mu.Unlock()
	s.drop()
	bye := ws.Text(wire.AppendBye(ws.Buffer(128), code, reason, in))
	s.conn.Close(code, wire.CloseReason(code, in), bye, discard)
}

// goingAwayHold is how long the memberships of a client are held that has closed with 1001: a page that is loaded again is back sooner.
const goingAwayHold = 3 * time.Second

// Ended implements ws.Owner. It is the last thing of a session: out of the hub, transport closed, then the store. peerCode and err are how the
// peer has ended it.
func (s *Session) Ended(peerCode int, err error) {
	defer s.hub.dismiss()
	s.drop()
	s.work.Lock()
	defer s.work.Unlock()
	s.mu.Lock()
	code := s.code
	s.mu.Unlock()
	hold, reason := s.endpoint.Policy().Grace, presence.ReasonTimeout
	switch {
	case code != 0 && !wire.MayReconnect(code):
		hold, reason = 0, presence.ReasonKicked
	case code == 0 && (peerCode == wire.CloseNormal || peerCode == wire.CloseNoStatus):
		hold, reason = 0, presence.ReasonLeft
	case code == 0 && peerCode == wire.CloseGoingAway:
		hold = min(hold, goingAwayHold)
	}
	if s.anonymous {
		hold = 0 // its id is of this connection: it can't come back
	}
	s.hub.backend.Store.Disconnect(s.id, hold, reason)
	for m := range s.rooms.Values() {
		m.room.exit()
	}
	s.record(peerCode, err)
}

// Silent implements ws.Owner.
func (s *Session) Silent() { s.close(wire.ClosePingTimeout, "ping timeout", true) }

// Slow implements ws.Owner. It comes from whoever sends, with a room locked that closing needs.
func (s *Session) Slow() {
	go func() {
		defer s.hub.recovered(s.conn)
		s.close(wire.CloseSlow, "slow consumer", true)
	}()
}

// recovered logs a panic with its stack and cuts the connection, if there is one: one session's trouble must not end the server.
func (h *Hub) recovered(conn *ws.Conn) {
	if r := recover(); r != nil {
		h.logger.Error("panic in session", zap.Any("error", r), zap.ByteString("stack", debug.Stack()))
		if conn != nil {
			conn.Abort()
		}
	}
}

// reconnectIn is when a client that was closed with code should come back: not all at the same moment.
func reconnectIn(code int) time.Duration {
	switch {
	case code >= 4100 && code < 4200:
		return 5*time.Second + rand.N(5*time.Second)
	case code >= 4200 && code < 4300:
		return rand.N(2 * time.Second)
	}
	return 0
}
