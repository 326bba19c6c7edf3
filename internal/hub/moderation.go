package hub

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/moderation"
	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/presence"
	"github.com/caddyrooms/caddy-rooms/ratelimit"
)

// SlowMode is how often each user may publish in a room.
type SlowMode = moderation.SlowMode

// SlowModeLimit is the name of the limit that a slow mode is. No other limit has it.
const SlowModeLimit = "slow_mode"

// reasonBanned is why a connection is closed whose user is banned.
const reasonBanned = "banned"

// Errors of decisions that can't be made. The table's are moderation.ErrTooMany and moderation.ErrClosed.
var (
	ErrBadBan      = errors.New("bad ban")
	ErrBadSlowMode = errors.New("bad slow mode")
)

// Ban keeps a user out for d, from 1s to moderation.MaxBan, on all instances: his connections are closed with 4005, upgrades refused. Another ban
// that he has is replaced. Anonymous clients can't be banned: each connection is a user of its own. Degraded tells that it only holds here for
// now, where the other instances get it when Redis is back, or that not all have said how many connections they close.
func (h *Hub) Ban(ctx context.Context, user string, d time.Duration) (until time.Time, done Done, err error) {
	switch {
	case !h.running.Load():
		return time.Time{}, done, moderation.ErrClosed
	case !ValidUser(user):
		return time.Time{}, done, fmt.Errorf("%w: user %.300q is not the id of a user", ErrBadBan, user)
	case d < time.Second || d > moderation.MaxBan:
		return time.Time{}, done, fmt.Errorf("%w: duration %s out of range (allowed: 1s to %s)", ErrBadBan, d, moderation.MaxBan)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	count, alone := Order{Do: Count, User: user}, false
	done = sum(h.askWhile(ctx, count, func(lost func() bool) answer {
		a := h.carryOut(count)
		// Both go by one channel, on which others count before they hear of the ban: behind that there is nothing to count.
		until, alone, err = h.backend.Moderation.Ban(ctx, user, d, func() { lost() })
		if err != nil {
			cancel() // nobody wants to know how many there are
		}
		return a
	}))
	done.Degraded = done.Degraded || alone
	return until, done, err
}

// Unban lets a user in again. It is no error that he is not banned. Degraded as in Ban.
func (h *Hub) Unban(ctx context.Context, user string) (degraded bool, err error) {
	switch {
	case !h.running.Load():
		return false, moderation.ErrClosed
	case !ValidUser(user):
		return false, fmt.Errorf("%w: user %.300q is not the id of a user", ErrBadBan, user)
	}
	return h.backend.Moderation.Unban(ctx, user)
}

// Banned tells whether a user is banned, and until when. It waits for nobody.
func (h *Hub) Banned(user string) (until time.Time, banned bool) {
	if !h.running.Load() {
		return time.Time{}, false
	}
	return h.backend.Moderation.Banned(user)
}

// SetSlowMode allows each user so many messages in a room, over all instances, until it is lifted, which nil does. It holds at once, besides the
// limits of the endpoints. Degraded as in Ban.
func (h *Hub) SetSlowMode(ctx context.Context, room string, l *SlowMode) (degraded bool, err error) {
	if !h.running.Load() {
		return false, moderation.ErrClosed
	}
	if err := wire.CheckRoom(room); err != nil {
		return false, fmt.Errorf("%w: room %.300q: %w", ErrBadSlowMode, room, err)
	}
	if l == nil {
		l = new(SlowMode)
	} else if err := slowLimit(*l).Validate(); err != nil {
		return false, fmt.Errorf("%w: %w", ErrBadSlowMode, err)
	}
	return h.backend.Moderation.SetSlowMode(ctx, room, *l)
}

// SlowMode returns the slow mode of a room; nil when it has none. It waits for nobody.
func (h *Hub) SlowMode(room string) *SlowMode {
	if !h.running.Load() {
		return nil
	}
	if m, ok := h.backend.Moderation.SlowMode(room); ok {
		return &m
	}
	return nil
}

// mostExact is up to how many events a slow mode is counted exactly. With as few as are usual, the twentieth of a window that sliding_counter
// may keep somebody waiting too long is what people see: "one in ten seconds" takes ten seconds. Remembering each of many is not worth it.
const mostExact = 10

func slowLimit(m SlowMode) ratelimit.Limit {
	l := ratelimit.Limit{Name: SlowModeLimit, Events: m.Events, Window: m.Window, Algorithm: ratelimit.SlidingCounter}
	if m.Events <= mostExact {
		l.Algorithm = ratelimit.SlidingLog
	}
	return l
}

// slowFlood bounds the time within which refusals of a slow mode make a flood. Its window may be hours, in which somebody may well try again
// twenty times.
const slowFlood = 10 * time.Second

// slowModeOf returns the limit that a room's slow mode is; nil without one.
func (h *Hub) slowModeOf(room string) *Limit {
	m, ok := h.backend.Moderation.SlowMode(room)
	if !ok {
		return nil
	}
	return &Limit{
		Limit: slowLimit(m), On: OnPublish, Limiter: h.opts.Limiter, Outage: ratelimit.OutageLocal, Decisions: h.slowDecisions(),
		flood: min(m.Window, slowFlood),
	}
}

// slowKey is what a slow mode counts separately. The names of rooms have no spaces.
func slowKey(room, user string) string { return room + " " + user }

// closeBanned closes the connections of users who are banned now, and gives up the places of those whose connections were lost. It does not wait.
func (h *Hub) closeBanned(users []string) {
	for _, user := range users {
		for _, s := range h.sessionsOf(user) {
			s.close(wire.CloseKicked, reasonBanned, false)
		}
	}
	go func() {
		defer h.recovered(nil)
		for _, user := range users {
			h.backend.Store.Release(user, "", presence.ReasonKicked)
		}
	}()
}

// ResetLimit forgets what the limits of that name have counted for a key, on all instances, so that all of each is free. Known tells that there
// is such a limit in an endpoint. Degraded tells that it is not forgotten everywhere.
//
// The key is what the limit counts separately, with its placeholders filled in: by default the id of a user, on connect the address of a client,
// which is its /64 for IPv6 ("2001:db8:1:2::/64"); for a key of the operator's own, such as {rooms.room}:{rooms.user}, the text with what stands
// for them ("lobby:ann"); the id of the connection for one of {rooms.conn}; and "<room> <user>" for SlowModeLimit.
func (h *Hub) ResetLimit(ctx context.Context, name, key string) (known, degraded bool) {
	if !h.running.Load() {
		return false, false
	}
	limits := h.limitsOf(name, key)
	for _, l := range limits {
		if err := l.Limiter.Reset(ctx, l.Limit, key); err != nil {
			h.logger.Debug("resetting limit", zap.String("limit", name), zap.Error(err))
			degraded = true
		}
	}
	known = name == SlowModeLimit || len(limits) > 0
	if !known || !h.backend.Shared {
		return known, degraded
	}
	// Also without limits: the policies and slow modes of others may be ahead.
	payload := slices.Concat([]byte{limitReset}, []byte(h.id), []byte{'\n'}, []byte(name), []byte{'\n'}, []byte(key))
	missed := h.outcome(func(done func(error)) { h.backend.Bus.Publish(redisdb.UsersChannel(h.opts.Base), payload, done) })
	return known, degraded || missed
}

// receiveReset forgets what this instance knows of a limit that another one has reset.
func (h *Hub) receiveReset(payload []byte) {
	parts := bytes.SplitN(payload, []byte{'\n'}, 3)
	if len(parts) != 3 {
		h.logger.Warn("reset of another instance is malformed")
		return
	}
	if string(parts[0]) == h.id {
		return
	}
	key := string(parts[2])
	for _, l := range h.limitsOf(string(parts[1]), key) {
		l.Limiter.Forget(l.Limit, key)
	}
}

// limitsOf returns the limits of that name that may have counted for a key, each once.
func (h *Hub) limitsOf(name, key string) (limits []Limit) {
	if name == SlowModeLimit {
		room, _, _ := strings.Cut(key, " ")
		if m, ok := h.backend.Moderation.SlowMode(room); ok {
			limits = append(limits, Limit{Limit: slowLimit(m), Limiter: h.opts.Limiter})
		}
		return limits
	}
	for _, e := range h.allEndpoints() {
		for _, l := range e.Policy().Limits {
			same := func(o Limit) bool { return o.Limit == l.Limit && o.Limiter == l.Limiter }
			if l.Name == name && !slices.ContainsFunc(limits, same) {
				limits = append(limits, l)
			}
		}
	}
	return limits
}

// floodWindow is the time within which refusals of a limit make a flood.
func (l *Limit) floodWindow() time.Duration { return cmp.Or(l.flood, l.Window) }
