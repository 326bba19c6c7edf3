package module

import (
	"github.com/caddyserver/caddy/v2"
)

// Handler serves WebSocket rooms: clients join rooms, see who else is in them, and publish messages to everyone there,
// over all instances that share a Redis. It speaks the WebSocket subprotocol `rooms.v1`; a plain browser
// `new WebSocket(url)` is enough. A request that is no WebSocket upgrade goes to the next handler, untouched.
//
// Handlers that name the same hub and the same Redis share connections, rooms and presence. A hub outlives config
// reloads: open connections, memberships and presence stay, and the new rules, limits and timeouts bind them too.
//
// Without `redis` everything is kept in memory, for this process only, with the same semantics.
//
// Templates may contain any placeholder of the HTTP request. They are expanded once, at the upgrade. There are these
// placeholders besides:
//
// Placeholder | Description
// ------------|------------
// `{rooms.conn}` | The id of the connection, unique over all instances.
// `{rooms.user}` | The user id of the connection; `anon:` and the connection's id for an anonymous one.
// `{rooms.token.<claim>}` | A claim of the client's token; empty without one. Not in the keys of limits on `connect`.
// `{rooms.room}` | The room that is joined or published to. Only in the keys of limits on `join` and `publish`.
//
// `{rooms.conn}` and `{rooms.user}` are known once the client has been identified: not in `user`, `device` and the keys of
// limits on `connect`, but in `auto_join`, in the keys of other limits, and in whatever else the server expands for the
// request from then on, like `log_append` and `handle_errors`. The access log has them as `rooms_conn` and `rooms_user`.
type Handler struct {
	// The name of the hub that this handler serves: 1 to 64 of the characters A-Z, a-z, 0-9, `_` and `-`. Handlers on
	// different routes, sites and instances with the same hub name reach the same rooms. Default: `default`.
	Hub string `json:"hub,omitempty"`

	// A template for the id of the user behind a connection. Put an authentication handler in front of this one,
	// and never take the id from anything that a client can choose. Default: `{http.auth.user.id}`.
	User string `json:"user,omitempty"`

	// The JSON Web Tokens that clients come with. `sub` is then the user, and `user` must be empty. Default: none.
	Token *TokenConfig `json:"token,omitempty"`

	// Admit clients for whom the user template is empty, or who have no token. Each of their connections is a user of its own.
	// Default: false, which refuses them with status 401.
	Anonymous bool `json:"anonymous,omitempty"`

	// A template for the name of the client's device, shown in presence, like `{http.request.header.User-Agent}`.
	// Default: empty, no device is recorded.
	Device string `json:"device,omitempty"`

	// The browser origins that may connect besides the host of the request itself. A pattern is a host, with its port if
	// that isn't the scheme's own, or a scheme, `://` and a host; `*` stands for any run of characters and `?` for one.
	// A single `*` admits every origin. Default: empty, only pages of the same host may connect.
	Origins []string `json:"origins,omitempty"`

	// Templates for rooms that every connection is put into right after it was welcomed, like `user:{rooms.user}`. One that
	// expands to nothing is skipped; one that expands to what can't be the name of a room is told to the client as
	// `bad_request`. Default: empty, clients join by themselves.
	AutoJoin []string `json:"auto_join,omitempty"`

	// What clients may do in which rooms. The first rule whose pattern matches a room decides; a room that no rule
	// matches is forbidden. Default: empty, every room is open to every admitted client.
	Rooms []RoomRule `json:"rooms,omitempty"`

	// The Redis that the instances of the hub share. All handlers of one hub must name the same one.
	// Default: none, the hub is kept in memory, for this process only.
	Redis *RedisConfig `json:"redis,omitempty"`

	// What other programs are told of as JSON on Redis channels, each change once: `presence`, users who come online and go offline, on
	// `<key_prefix>:presence:update`; `user`, their status, on `:user:status`; `room`, who joins and leaves which room, on
	// `:room:event`; `message`, every message that clients send, on `:message:event`. Needs `redis`. What one handler of a hub asks for is told
	// of the whole hub. Default: empty, nothing.
	Events []string `json:"events,omitempty"`

	// When presence changes are told, and how. Default: the defaults of its fields.
	Presence *PresenceConfig `json:"presence,omitempty"`

	// Rate limits, in the order in which they are checked, after the default ones. A limit named like a default one
	// (`publish`, `status`, `join`, `connect`) replaces it. Default: empty, only the default limits hold.
	Limits []LimitConfig `json:"limits,omitempty"`

	// Turn off the default limits: `publish` and `status`, 50 events in 1 second, and `join`, 100 in 1 second, each for
	// each connection; and `connect`, 200 in 10 seconds for each client IP address (for each /64 network with IPv6), counted over all
	// instances. Default: false.
	NoDefaultLimits bool `json:"no_default_limits,omitempty"`

	// The longest frame that a client may send, in bytes, from 256 to 16777216 (16 MiB). A longer one is answered
	// `too_large`; one of more than twice this size closes the connection. Default: 65536 (64 KiB).
	MaxFrame int `json:"max_frame,omitempty"`

	// How many bytes may wait to be sent to one connection, up to 1073741824 (1 GiB) and no fewer than `max_frame`. A
	// connection with more is a slow consumer and is closed with code 4201. Default: 1048576 (1 MiB).
	SendQueue int `json:"send_queue,omitempty"`

	// How long a connection may take nothing of what is sent to it before it is closed as a slow consumer, from 100ms
	// to 5m. Default: 10s.
	WriteTimeout caddy.Duration `json:"write_timeout,omitempty"`

	// How often a connection is pinged, from 1s to 1h. A connection from which nothing was read for 15 seconds longer
	// than this is closed with code 4202. Default: 25s.
	PingInterval caddy.Duration `json:"ping_interval,omitempty"`

	// How many rooms one connection may be in, from 1 to 10000. Default: 64.
	MaxRooms int `json:"max_rooms,omitempty"`

	// How many connections the hub may have on one instance, up to 10000000; -1 for no limit. Further ones are refused
	// until others have closed. Default: 100000.
	MaxConnections int `json:"max_connections,omitempty"`

	// How long a connection may live, from 1s to 365d, before it is closed and the client asked to reconnect at once, so
	// that long-lived connections spread over new instances. Each connection's age is varied by up to 20 %.
	// Default: 0, no limit.
	MaxConnectionAge caddy.Duration `json:"max_connection_age,omitempty"`

	// How long the connections of a hub that goes away are spread over when they are asked to reconnect elsewhere, up to
	// 10m; -1 to close them at once. At exit, Caddy must be left this long to stop: the unit file of its packages
	// kills it after 5 seconds. Default: 4s.
	Drain caddy.Duration `json:"drain,omitempty"`

	// Close all connections of this handler when the config is reloaded and ask the clients to reconnect.
	// Default: false, connections outlive the reload.
	CloseOnReload bool `json:"close_on_reload,omitempty"`

	// Compression lets clients negotiate permessage-deflate (RFC 7692) without context takeover. Each message to a room is compressed
	// once, if it is of 512 bytes or more. The length of a compressed message tells something of what is in it: leave this off where
	// secrets and what others have written stand in the same message. Default: off.
	Compression bool `json:"compression,omitempty"`

	// Log the end of each connection as one entry of the logger `http.handlers.rooms.conn`, at level INFO: how long it was open, messages and
	// bytes in and out, rooms, user, close code and reason, and who closed. Default: false, which logs it at level DEBUG.
	LogConnections bool `json:"log_connections,omitempty"`

	// Whether the metrics of the hub are among those of Caddy: `on` or `off`. They are when one of the hub's handlers says so.
	// Default: `on`.
	Metrics string `json:"metrics,omitempty"`

	handlerState
}

// RoomRule says what clients may do in the rooms that a pattern matches.
type RoomRule struct {
	// The rooms: a room's name, in which `*` stands for any run of characters, also none. Room names consist of the
	// characters A-Z, a-z, 0-9 and `_ . : @ / -`, up to 200 of them.
	Pattern string `json:"pattern,omitempty"`

	// Who may join: `everyone`; `users`, all but anonymous clients; or `none`, only whom `auto_join` puts in.
	// Default: `everyone`.
	Join string `json:"join,omitempty"`

	// Who may publish: `members` of the room; `everyone` who is connected; or `none`, no client. Default: `members`.
	Publish string `json:"publish,omitempty"`

	// The most that clients may be told about who is in the room: `full`, names and states; `count`, only how many
	// there are; or `none`. Default: `full`.
	Presence string `json:"presence,omitempty"`

	// How many users may be in the room at once, over all instances, up to 1000000. Default: 0, no limit.
	MaxMembers int `json:"max_members,omitempty"`
}

// RedisConfig is the Redis that the instances of a hub share.
type RedisConfig struct {
	// Where the server is: `redis://host:port/db`, `rediss://…` for TLS, or `unix:///path/to/socket`. Username and
	// password may be part of it, but are better given as placeholders in their own fields. `mode` `single` takes one
	// URL. Placeholders are resolved when the config is loaded.
	// Default: `{env.REDIS_URL}`, or `redis://localhost:6379` if that is empty.
	URLs []string `json:"urls,omitempty"`

	// How the servers work together: `single`, one server. Default: `single`.
	Mode string `json:"mode,omitempty"`

	// The user to log in as, if Redis has an ACL. Placeholders are resolved when the config is loaded. Default: empty.
	Username string `json:"username,omitempty"`

	// The password. Write it as `{env.NAME}` or `{file./absolute/path}`: those are resolved when the config is loaded,
	// and only the placeholder is ever shown. Anything else, also what a Caddyfile has as `{$NAME}`, is part of the
	// config in plain text: the admin endpoint `/config/` shows it and it is saved to disk. Default: empty.
	Password string `json:"password,omitempty"`

	// The number of the database, from 0 to 65535. Default: the one in the URL, else 0.
	DB int `json:"db,omitempty"`

	// What the names of all keys and channels begin with: 1 to 64 of the characters A-Z, a-z, 0-9, `_`, `-`, `.` and `:`.
	// Hubs with different prefixes share nothing. Default: `rooms`.
	KeyPrefix string `json:"key_prefix,omitempty"`

	// How to encrypt the connection. An empty object turns TLS on with the system's certificate authorities.
	// Default: none, TLS is used only for `rediss://` URLs.
	TLS *RedisTLS `json:"tls,omitempty"`

	// How long one operation, connecting included, may take before the server counts as unreachable, from 10ms to 1m.
	// Rate limits wait for 50ms at most. Default: 2s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// The most connections for commands that are open at once, from 1 to 10000; subscriptions have one of their own.
	// Default: 10 for each CPU.
	PoolSize int `json:"pool_size,omitempty"`
}

// RedisTLS is how the connection to Redis is encrypted.
type RedisTLS struct {
	// The file with the PEM certificates of the authorities that may have signed the server's certificate.
	// Default: the system's authorities.
	CA string `json:"ca,omitempty"`

	// The file with the PEM certificate, and those of its issuers, that is shown to the server. Needs `key`.
	// Default: none.
	Cert string `json:"cert,omitempty"`

	// The file with the PEM private key of `cert`. Default: none.
	Key string `json:"key,omitempty"`

	// The name that the server's certificate must have. Default: the host of the URL.
	ServerName string `json:"server_name,omitempty"`

	// Accept any certificate. Whoever can reach the connection can then read and change all that is on it: for
	// development only. Default: false.
	InsecureSkipVerify bool `json:"insecure_skip_verify,omitempty"`
}

// PresenceConfig is when presence changes are told, and how.
type PresenceConfig struct {
	// How long a user whose connection was lost is kept in its rooms, up to 5m: one who is back by then causes no event.
	// A client that leaves or closes normally leaves at once. -1 to keep nobody. Default: 15s.
	Grace caddy.Duration `json:"grace,omitempty"`

	// How long an instance that gives no sign of life in Redis counts as alive, from 3s to 10m; after that its users
	// are told as gone by the other instances. It is renewed every quarter of this time. Default: 20s.
	TTL caddy.Duration `json:"ttl,omitempty"`

	// For how long the presence events of a room are gathered and sent as one frame, up to 10s; -1 to send each at
	// once. Default: 50ms.
	Coalesce caddy.Duration `json:"coalesce,omitempty"`

	// How many users a room may have for them to be told by name, from 1 to 1000000. In a room with more, clients are told only how many
	// there are, at most once a second, and read who they are page by page if they want to; names are told again once the room is smaller by
	// a fifth. The handlers of one hub share the largest of theirs. Default: 500.
	FullUpTo int `json:"full_up_to,omitempty"`

	// A database in which it is kept who is online and when, on which device and with which status everyone else was seen last, so that it
	// outlives Redis and all instances: `postgres://user:password@host:port/database`, or, in builds that have
	// `github.com/caddyrooms/caddy-rooms/sqlite`, `sqlite:/path`. Placeholders are resolved when the config is loaded: write the name, or the
	// password in it, as `{env.NAME}` or `{file./absolute/path}`, since anything else is part of the config in plain text. All handlers of
	// one hub that have a database must have the same one. Default: none.
	Database string `json:"database,omitempty"`
}

// LimitConfig is one rate limit: so many events in a window for each key. A connection or request over it is
// refused with `rate_limited` (on `connect`: status 429) and told when to try again.
type LimitConfig struct {
	// The name of the limit, told to clients that reach it: 1 to 64 of the characters A-Z, a-z, 0-9, `_` and `-`. Required.
	Name string `json:"name,omitempty"`

	// What is counted: `connect`, WebSocket upgrades; `join`, requests to join a room; `publish`, messages; `status`,
	// changes of status or state. Required.
	On string `json:"on,omitempty"`

	// A template for what is counted separately; see the placeholders of the handler. Without a placeholder everything
	// is counted together. Default: `{http.vars.client_ip}` on `connect`, which heeds trusted proxies, else `{rooms.user}`.
	Key string `json:"key,omitempty"`

	// How many events are allowed in a window for each key, from 1 to 1000000 (with `sliding_log` to 10000). Required.
	Events int `json:"events,omitempty"`

	// The length of the window, from 20ms to 7d. Required.
	Window caddy.Duration `json:"window,omitempty"`

	// How events are counted. `sliding_counter` counts in twentieths of the window: never more than `events` in any window,
	// at least 20/21 of them under steady load. `sliding_log` remembers each event: exact, but its memory grows
	// with `events`. `gcra` spaces events evenly after a burst of `events`. Default: `sliding_counter`.
	Algorithm string `json:"algorithm,omitempty"`

	// Who counts: the `cluster`, all instances together, or each `instance` for itself, which costs no round trip to
	// Redis. Without Redis both are the same. Default: `cluster`.
	Scope string `json:"scope,omitempty"`

	// What holds while Redis is out of reach: `local`, each instance counts for itself; `allow`, everything is allowed;
	// `deny`, everything is refused as `unavailable`. Only with `scope` `cluster`. Default: `local`.
	OnOutage string `json:"on_outage,omitempty"`

	// Count and log, but refuse nothing: to try out a limit before it bites. Default: false.
	Observe bool `json:"observe,omitempty"`
}
