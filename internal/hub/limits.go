package hub

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/small"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/ratelimit"
)

// errorEvery is how often a connection is told of one limit.
const errorEvery = time.Second

// floodFactor is how many times a limit's events may be refused within its window before the connection is closed.
const floodFactor = 20

// Key is what a limit counts separately: texts with the placeholders {rooms.conn}, {rooms.user} and {rooms.room} between them. Only
// what the operator has written is looked through for these, nothing that a client has sent.
type Key struct {
	Template string
	Texts    []string // one more than there are placeholders between them
	Request  bool     // the texts are templates themselves, expanded at the upgrade
	names    []string
}

// NewKey splits a template. request tells that its texts depend on the request of the upgrade.
func NewKey(template string, request bool) Key {
	k := Key{Template: template, Request: request}
	places := roomsPlaceholder.FindAllStringIndex(template, -1)
	start := 0
	for _, p := range places {
		k.Texts = append(k.Texts, template[start:p[0]])
		k.names = append(k.names, template[p[0]:p[1]])
		start = p[1]
	}
	k.Texts = append(k.Texts, template[start:])
	return k
}

var roomsPlaceholder = regexp.MustCompile(`\{rooms\.(conn|user|room)\}`)

// refusals is what one limit has refused a session.
type refusals struct {
	told       time.Time // when the last error was sent
	suppressed int       // errors not sent since
	since      time.Time // beginning of the window in which count counts
	count      int
}

// Connect decides on an upgrade by the limits that depend on the request. It returns the limit that refuses it, or nil.
func (e *Endpoint) Connect(ctx context.Context, keys *small.Map[string, []string]) (*Limit, ratelimit.Decision) {
	p := e.policy.Load()
	for i := range p.Limits {
		if l := &p.Limits[i]; l.On == OnConnect && l.Key.Request {
			texts, _ := keys.Get(l.Key.Template)
			if d := e.hub.decide(ctx, l, strings.Join(texts, "")); !d.Allowed {
				return l, d
			}
		}
	}
	return nil, ratelimit.Decision{}
}

// Pace decides on an upgrade by the limits that all clients share. It returns the limit that refuses it, or nil. What it allows counts, so
// the client should have passed everything else. RetryAfter of a refusal is a turn of the client's own: those who were refused would
// otherwise come back all at once, and most of them in vain.
func (e *Endpoint) Pace(ctx context.Context) (*Limit, ratelimit.Decision) {
	p := e.policy.Load()
	for i := range p.Limits {
		if l := &p.Limits[i]; l.On == OnConnect && !l.Key.Request {
			d := e.hub.decide(ctx, l, l.Key.Template)
			if d.Allowed {
				continue
			}
			if !l.Unavailable(d) {
				d.RetryAfter = e.hub.turn(time.Now(), l, d.RetryAfter)
			}
			return l, d
		}
	}
	return nil, ratelimit.Decision{}
}

// longestTurn bounds how long a client is told to wait for its turn: not all that were sent away come back, but their turns are taken.
const longestTurn = 30 * time.Second

// turn returns how long the next of those who wait for a limit has to, at least so long, when one may come in each interval of its pace. A
// fifth of the pace is left to those who come for the first time.
func (h *Hub) turn(now time.Time, l *Limit, least time.Duration) time.Duration {
	interval := l.Window / time.Duration(l.Events) * 5 / 4
	h.turnsMu.Lock()
	defer h.turnsMu.Unlock()
	wait := max(least, h.turns[l.Name].Sub(now))
	if wait > max(least, longestTurn) {
		return max(least, longestTurn/2+rand.N(longestTurn/2))
	}
	h.turns[l.Name] = now.Add(wait + interval)
	return wait
}

// decide asks a limit. One that only observes refuses nothing.
func (h *Hub) decide(ctx context.Context, l *Limit, key string) ratelimit.Decision {
	d, err := l.Limiter.Allow(ctx, l.Limit, key)
	if err != nil {
		// What to do without a shared store is the limiter's own affair; this is a fault in it, and no reason to stop everything.
		h.logger.Error("deciding limit", zap.String("limit", l.Name), zap.Error(err))
		return ratelimit.Decision{Allowed: true}
	}
	switch {
	case d.Allowed:
		l.Decisions.Allowed()
	case l.Observe:
		l.Decisions.Observed()
		h.observe(l)
		d.Allowed = true
	case l.Unavailable(d):
		l.Decisions.Unavailable()
	default:
		l.Decisions.Refused()
		h.exceeded(l)
	}
	return d
}

// exceededEvery is how long a limit must not have refused anything for its next refusal to be told.
const exceededEvery = time.Minute

// exceeded tells that a limit refuses, if it did not lately.
func (h *Hub) exceeded(l *Limit) {
	if h.opts.Exceeded == nil {
		return
	}
	last, _ := h.exceededAt.LoadOrStore(l.Name, new(atomic.Int64))
	now := time.Now().UnixNano()
	if was := last.(*atomic.Int64).Swap(now); now-was > int64(exceededEvery) {
		h.opts.Exceeded(l)
	}
}

// observeEvery is how often it is logged what a limit would have refused.
const observeEvery = 10 * time.Second

// observation is what a limit would have refused since its timer was started.
type observation struct {
	on    Action
	count int
	timer *time.Timer
}

// observe counts what a limit that only observes would have refused. The first refusal starts the time after which all are logged.
func (h *Hub) observe(l *Limit) {
	h.observing.Lock()
	defer h.observing.Unlock()
	o := h.observed[l.Name]
	if o == nil {
		name := l.Name
		o = &observation{on: l.On, timer: time.AfterFunc(observeEvery, func() {
			defer h.recovered(nil)
			h.tellObserved(name)
		})}
		h.observed[name] = o
	}
	o.count++
}

// tellObserved logs what the limit of that name would have refused.
func (h *Hub) tellObserved(name string) {
	h.observing.Lock()
	defer h.observing.Unlock()
	if o := h.observed[name]; o != nil {
		o.timer.Stop()
		delete(h.observed, name)
		h.logger.Info("limit would refuse", zap.String("limit", name), zap.String("on", string(o.on)), zap.Int("count", o.count))
	}
}

// allow counts req under the limits on action. It returns false, and has answered, when one of them refuses it.
func (s *Session) allow(action Action, req *wire.Request) bool {
	p := s.endpoint.Policy()
	for i := range p.Limits {
		l := &p.Limits[i]
		if l.On != action {
			continue
		}
		if d := s.hub.decide(context.Background(), l, s.key(&l.Key, req.Room)); !d.Allowed {
			s.refuseLimit(req, l, d)
			return false
		}
	}
	if action != OnPublish {
		return true
	}
	if l := s.hub.slowModeOf(req.Room); l != nil {
		if d := s.hub.decide(context.Background(), l, slowKey(req.Room, s.user)); !d.Allowed {
			s.refuseLimit(req, l, d)
			return false
		}
	}
	return true
}

// key fills in a limit's key for this session.
func (s *Session) key(k *Key, room string) string {
	texts := k.Texts
	if k.Request {
		var known bool
		if texts, known = s.keys.Get(k.Template); !known {
			return s.id // the limit came with a reload: its key was not expanded for this client
		}
	}
	return k.fill(texts, func(name string) string { return s.value(name, room) })
}

// fill puts values between the texts, which are the key's own or what these were expanded to.
func (k *Key) fill(texts []string, value func(name string) string) string {
	if len(texts) == 2 && texts[0] == "" && texts[1] == "" { // the usual ones, at no cost
		return value(k.names[0])
	}
	var b strings.Builder
	for i, text := range texts {
		b.WriteString(text)
		if i < len(k.names) {
			b.WriteString(value(k.names[i]))
		}
	}
	return b.String()
}

// ofRoom tells whether the key has nothing of who does what is limited.
func (k *Key) ofRoom() bool {
	return !k.Request && !slices.ContainsFunc(k.names, func(name string) bool { return name != "{rooms.room}" })
}

func (s *Session) value(name, room string) string {
	switch name {
	case "{rooms.conn}":
		return s.id
	case "{rooms.user}":
		return s.user
	default:
		return room
	}
}

// refuseLimit answers a request over a limit, at most once a second; a client that goes on regardless is closed.
func (s *Session) refuseLimit(req *wire.Request, l *Limit, d ratelimit.Decision) {
	if s.span != nil {
		s.spanRefused(l.Refusal(d).Code)
	}
	if s.refusals == nil {
		s.refusals = make(map[string]*refusals)
	}
	r := s.refusals[l.Name]
	if r == nil {
		r = new(refusals)
		s.refusals[l.Name] = r
	}
	now := time.Now()
	if now.Sub(r.since) > l.floodWindow() {
		r.since, r.count = now, 0
	}
	if r.count++; r.count >= floodFactor*l.Events {
		s.close(wire.CloseFlood, "flood", true)
		return
	}
	if now.Sub(r.told) < errorEvery {
		r.suppressed++
		return
	}
	refusal := l.Refusal(d)
	refusal.ID, refusal.Room, refusal.Suppressed = req.ID, req.Room, r.suppressed
	s.sendError(refusal)
	r.told, r.suppressed = now, 0
}

// Refusal is what a client is told of a decision that refuses.
func (l *Limit) Refusal(d ratelimit.Decision) *wire.Refusal {
	if l.Unavailable(d) {
		return &wire.Refusal{
			Error:      wire.Error{Code: wire.Unavailable, Message: `limit "` + l.Name + `" can't be decided now`},
			RetryAfter: d.RetryAfter,
		}
	}
	return &wire.Refusal{
		Error:      wire.Error{Code: wire.RateLimited, Message: fmt.Sprintf("limit %q of %d per %s reached", l.Name, l.Events, l.Window)},
		RetryAfter: d.RetryAfter,
		Limit:      &wire.LimitState{Name: l.Name, Events: l.Events, Window: l.Window, Remaining: d.Remaining, Reset: d.Reset},
	}
}
