package hub

import (
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/metrics"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/internal/ws"
	"github.com/caddyrooms/caddy-rooms/ratelimit"
)

// Policy is what an [Endpoint] allows. It is immutable; a new one is bound as a whole and holds for open connections too.
type Policy struct {
	Rooms  []RoomRule // the first that matches a room's name decides; none at all: every room is open
	Limits []Limit

	Transport ws.Limits
	Grace     time.Duration // how long a lost connection's memberships are held
	Coalesce  time.Duration // presence changes of a room are told together for so long
	FullUpTo  int           // members of a room up to which names are told; 0: no bound
	Ping      time.Duration // between two pings of a connection
	Drain     time.Duration // over which connections are closed when the hub closes
	MaxAge    time.Duration // of a connection, jittered by a fifth; 0: none

	MaxRooms       int // of a connection
	MaxConnections int // of the hub, on this instance; negative: no bound

	// Authenticate takes the tokens of clients; nil: there are none.
	Authenticate Authenticate
	// Trusts tells of an Access whether its signer still counts; nil: there are none.
	Trusts func(signer string) bool

	// CloseOnRebind asks the endpoint's clients to come again when the next policy is bound.
	CloseOnRebind bool
	// LogConnections logs the end of each connection at info level; otherwise it is at debug level.
	LogConnections bool
}

// Who may do something in a room.
type Who uint8

// Everyone is whoever was admitted, Users those of them with a user id, Members those in the room.
const (
	Everyone Who = iota
	Users
	Members
	Nobody
)

// RoomRule is what is allowed in the rooms whose names match Pattern.
type RoomRule struct {
	Pattern    Pattern
	Join       Who           // Everyone, Users or Nobody
	Publish    Who           // Members, Everyone or Nobody
	Presence   wire.Presence // the most that a member is told
	MaxMembers int           // 0: no bound
}

var openRule = RoomRule{Publish: Members, Presence: wire.PresenceFull}

// rule returns the rule for room; nil when the room is closed to all.
func (p *Policy) rule(room string) *RoomRule {
	if len(p.Rooms) == 0 {
		return &openRule
	}
	for i := range p.Rooms {
		if p.Rooms[i].Pattern.Match(room) {
			return &p.Rooms[i]
		}
	}
	return nil
}

// Action is what a limit counts.
type Action string

// The actions that can be limited.
const (
	OnConnect Action = "connect"
	OnJoin    Action = "join"
	OnPublish Action = "publish"
	OnStatus  Action = "status"
)

// Limit is a rate limit on an action. Limiter decides; it already knows what to do when a shared store is out of reach.
type Limit struct {
	ratelimit.Limit
	On      Action
	Key     Key
	Limiter ratelimit.Limiter
	Outage  ratelimit.Outage // what Limiter does then
	Observe bool             // count and log, refuse nothing

	Decisions metrics.Decisions

	flood time.Duration // within which refusals make a flood; 0: the window
}

// Unavailable tells whether d refuses only because the shared store is out of reach.
func (l *Limit) Unavailable(d ratelimit.Decision) bool {
	return d.Local && l.Outage == ratelimit.OutageDeny
}
