package module

import (
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("rooms", parseCaddyfile)
	// After authentication, which knows the user; before anything that wraps the response or answers the request.
	httpcaddyfile.RegisterDirectiveOrder("rooms", httpcaddyfile.Before, "encode")
	// Behind rooms, which passes on what is no upgrade: rooms_api answers whatever it gets.
	httpcaddyfile.RegisterDirective("rooms_api", parseAPICaddyfile)
	httpcaddyfile.RegisterDirectiveOrder("rooms_api", httpcaddyfile.Before, "encode")
}

// parseCaddyfile sets up the handler of a rooms directive.
func parseCaddyfile(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	return handler, nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	rooms [<matcher>] [<hub>] {
//		# who may connect
//		user       <template>
//		token {
//			secret     <secrets...>
//			key        <files...>
//			jwks       <url>
//			algorithms <names...>
//			issuer     <issuer>
//			audience   <audience>
//			leeway     <duration>
//			cookie     <name>
//			query      <name>
//		}
//		anonymous
//		device     <template>
//		origins    <patterns...>
//
//		# rooms
//		auto_join  <templates...>
//		room <pattern> {
//			join        everyone|users|none
//			publish     members|everyone|none
//			presence    full|count|none
//			max_members <n>
//		}
//
//		# what instances share
//		redis [<url>] {
//			mode       single
//			username   <username>
//			password   <password>
//			db         <n>
//			key_prefix <prefix>
//			tls {
//				ca          <file>
//				cert        <file>
//				key         <file>
//				server_name <name>
//				insecure_skip_verify
//			}
//			timeout    <duration>
//			pool_size  <n>
//		}
//		presence {
//			grace      <duration>
//			ttl        <duration>
//			coalesce   <duration>
//			full_up_to <n>
//			database   <dsn>
//		}
//		events [presence] [user] [room] [message]
//
//		# rate limits
//		limit <name> {
//			on        connect|join|publish|status
//			key       <template>
//			events    <n>
//			window    <duration>
//			algorithm sliding_counter|sliding_log|gcra
//			scope     cluster|instance
//			on_outage local|allow|deny
//			observe
//		}
//		no_default_limits
//
//		# connections
//		max_frame          <size>
//		send_queue         <size>
//		write_timeout      <duration>
//		ping_interval      <duration>
//		max_rooms          <n>
//		max_connections    <n>
//		max_connection_age <duration>
//		drain              <duration>
//		close_on_reload
//		compression
//
//		# what operators see
//		log_connections
//		metrics on|off
//	}
//
// Only room and limit may be repeated. A -1 turns off what can be turned off: grace, coalesce, max_connections and
// drain; for durations 0 does so too. Placeholders are kept as they are.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive
	return checked(h.parseDirective, h.validateConfig)(d)
}

// parseHub parses the one argument that a directive may have, the name of its hub.
func parseHub(d *caddyfile.Dispenser, name *string) error {
	if d.NextArg() {
		*name = d.Val()
		if err := checkName("hub", *name); err != nil {
			return d.WrapErr(err)
		}
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// parseDirective parses what comes after the directive.
func (h *Handler) parseDirective(d *caddyfile.Dispenser) error {
	if err := parseHub(d, &h.Hub); err != nil {
		return err
	}
	return parseBlock(d, "rooms", []subdirective{
		{word: "user", parse: checked(text(&h.User), h.validateUser)},
		{word: "token", parse: checked(h.parseToken, h.validateToken)},
		{word: "anonymous", parse: flag(&h.Anonymous)},
		{word: "device", parse: checked(text(&h.Device), h.validateUser)},
		{word: "origins", parse: checked(texts(&h.Origins), h.validateOrigins)},
		{word: "auto_join", parse: checked(texts(&h.AutoJoin), h.validateAutoJoin)},
		{word: "room", parse: checked(h.parseRoom, h.validateRooms), repeatable: true},
		{word: "redis", parse: checked(h.parseRedis, func() error { return h.Redis.validate() })},
		{word: "presence", parse: h.parsePresence},
		{word: "events", parse: checked(h.parseEvents, h.validateEvents)},
		{word: "limit", parse: checked(h.parseLimit, h.validateLimits), repeatable: true},
		{word: "no_default_limits", parse: flag(&h.NoDefaultLimits)},
		{word: "max_frame", parse: size(&h.MaxFrame, maxFrame)},
		{word: "send_queue", parse: size(&h.SendQueue, sendQueue)},
		{word: "write_timeout", parse: duration(&h.WriteTimeout, writeTimeout)},
		{word: "ping_interval", parse: duration(&h.PingInterval, pingInterval)},
		{word: "max_rooms", parse: number(&h.MaxRooms, maxRooms)},
		{word: "max_connections", parse: number(&h.MaxConnections, maxConnections)},
		{word: "max_connection_age", parse: duration(&h.MaxConnectionAge, maxConnectionAge)},
		{word: "drain", parse: duration(&h.Drain, drain)},
		{word: "close_on_reload", parse: flag(&h.CloseOnReload)},
		{word: "compression", parse: flag(&h.Compression)},
		{word: "log_connections", parse: flag(&h.LogConnections)},
		{word: "metrics", parse: word(&h.Metrics, metricsWords)},
	})
}

// parseRoom parses one room rule and appends it.
func (h *Handler) parseRoom(d *caddyfile.Dispenser) error {
	var r RoomRule
	if !d.AllArgs(&r.Pattern) {
		return d.ArgErr()
	}
	err := parseBlock(d, "room", []subdirective{
		{word: "join", parse: word(&r.Join, joinWords)},
		{word: "publish", parse: word(&r.Publish, publishWords)},
		{word: "presence", parse: word(&r.Presence, presenceWords)},
		{word: "max_members", parse: number(&r.MaxMembers, maxMembers)},
	})
	h.Rooms = append(h.Rooms, r)
	return err
}

// parsePresence parses the presence block of a hub.
func (h *Handler) parsePresence(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': presence takes a block; full, count and none belong into a room block", d.Val())
	}
	p := new(PresenceConfig)
	h.Presence = p
	return parseBlock(d, "presence", []subdirective{
		{word: "grace", parse: duration(&p.Grace, presenceGrace)},
		{word: "ttl", parse: duration(&p.TTL, presenceTTL)},
		{word: "coalesce", parse: duration(&p.Coalesce, presenceCoalesce)},
		{word: "full_up_to", parse: number(&p.FullUpTo, presenceFullUpTo)},
		{word: "database", parse: checked(text(&p.Database), p.validateDatabase)},
	})
}

// parseEvents parses what is told on Redis channels: all but messages, if nothing is named.
func (h *Handler) parseEvents(d *caddyfile.Dispenser) error {
	h.Events = d.RemainingArgs()
	if len(h.Events) == 0 {
		h.Events = slices.Clone(defaultEvents)
	}
	return nil
}

// parseLimit parses one rate limit and appends it.
func (h *Handler) parseLimit(d *caddyfile.Dispenser) error {
	var l LimitConfig
	if !d.AllArgs(&l.Name) {
		return d.ArgErr()
	}
	err := parseBlock(d, "limit", []subdirective{
		{word: "on", parse: word(&l.On, onWords)},
		{word: "key", parse: text(&l.Key)},
		{word: "events", parse: number(&l.Events, limitEvents)},
		{word: "window", parse: duration(&l.Window, limitWindow)},
		{word: "algorithm", parse: word(&l.Algorithm, algorithmWords)},
		{word: "scope", parse: word(&l.Scope, scopeWords)},
		{word: "on_outage", parse: word(&l.OnOutage, onOutageWords)},
		{word: "observe", parse: flag(&l.Observe)},
	})
	h.Limits = append(h.Limits, l)
	return err
}

// subdirective is a word that a block may contain.
type subdirective struct {
	word       string
	parse      parser
	repeatable bool
}

// parser parses what comes after a word: d stands on the word before, and on the last token that belongs to it after.
type parser func(d *caddyfile.Dispenser) error

// parseBlock parses the block that may open after the current token of d. It refuses words that are not in the list, and
// those that come twice.
func parseBlock(d *caddyfile.Dispenser, block string, subdirectives []subdirective) error {
	seen := make(map[string]bool)
	name := ""
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if d.Val() == "{" {
			return d.Errf("unexpected block: '%s' of %s has none", name, block)
		}
		name = d.Val()
		var known *subdirective
		for i := range subdirectives {
			if subdirectives[i].word == name {
				known = &subdirectives[i]
			}
		}
		if known == nil {
			words := make([]string, len(subdirectives))
			for i, s := range subdirectives {
				words[i] = s.word
			}
			return d.Errf("unrecognized subdirective '%s' of %s (allowed: %s)", name, block, strings.Join(words, ", "))
		}
		if seen[name] && !known.repeatable {
			return d.Errf("subdirective '%s' of %s is repeated", name, block)
		}
		seen[name] = true
		if err := known.parse(d); err != nil {
			return err
		}
	}
	return nil
}

// checked parses, then checks what was parsed so far. An error of the check is at the line of the word.
func checked(parse parser, check func() error) parser {
	return func(d *caddyfile.Dispenser) error {
		start := *d
		if err := parse(d); err != nil {
			return err
		}
		if err := check(); err != nil {
			return start.WrapErr(err)
		}
		return nil
	}
}

// flag parses a word that stands alone.
func flag(to *bool) parser {
	return func(d *caddyfile.Dispenser) error {
		name := d.Val()
		if d.NextArg() {
			return d.Errf("unexpected argument '%s': %s stands alone", d.Val(), name)
		}
		*to = true
		return nil
	}
}

// text parses one argument, which must not be empty.
func text(to *string) parser {
	return func(d *caddyfile.Dispenser) error {
		start := *d
		if !d.AllArgs(to) {
			return start.ArgErr() // not d's, which would show the argument: it may be a password
		}
		if *to == "" {
			return start.Errf("%s is empty", start.Val())
		}
		return nil
	}
}

// texts parses one or more arguments, none of which may be empty.
func texts(to *[]string) parser {
	return func(d *caddyfile.Dispenser) error {
		name := d.Val()
		*to = d.RemainingArgs()
		if len(*to) == 0 {
			return d.Errf("%s has no value; if it is written as {$NAME}, that variable is empty", name)
		}
		if slices.Contains(*to, "") {
			return d.Errf("%s has an empty argument", name)
		}
		return nil
	}
}

// word parses one of the allowed words.
func word(to *string, allowed []string) parser {
	return value(strings.Join(allowed, ", "), func(s string) error {
		if *to = s; !slices.Contains(allowed, s) {
			return errors.New("unknown word")
		}
		return nil
	})
}

// number parses a whole number.
func number(to *int, allowed bounds[int]) parser {
	return value(allowed.String(), func(s string) (err error) {
		if *to, err = strconv.Atoi(s); err != nil {
			return errors.New("not a whole number")
		}
		return allowed.checkGiven(*to)
	})
}

// size parses a number of bytes with an optional unit.
func size(to *int, allowed bounds[int]) parser {
	return value(allowed.String(), func(s string) error {
		n, err := humanize.ParseBytes(s)
		if err != nil {
			return errors.New("not a size like 64KiB")
		}
		*to = int(min(n, math.MaxInt)) // which no bounds contain
		return allowed.checkGiven(*to)
	})
}

// duration parses a duration. What can be turned off is turned off by 0 too.
func duration(to *caddy.Duration, allowed bounds[caddy.Duration]) parser {
	return value(allowed.String(), func(s string) error {
		if s == "-1" {
			*to = -1
			return allowed.checkGiven(*to)
		}
		n, err := caddy.ParseDuration(s)
		if err != nil {
			return errors.New("not a duration like 10s")
		}
		if n == 0 && allowed.off {
			n = -1
		}
		*to = caddy.Duration(n)
		return allowed.checkGiven(*to)
	})
}

// value parses one argument by set, whose errors are completed by what is allowed.
func value(allowed string, set func(string) error) parser {
	return func(d *caddyfile.Dispenser) error {
		name := d.Val()
		var s string
		if !d.AllArgs(&s) {
			return d.Errf("wrong argument count or unexpected line ending after '%s' (allowed: %s)", name, allowed)
		}
		if err := set(s); err != nil {
			return d.Errf("bad %s '%s': %v (allowed: %s)", name, s, err, allowed)
		}
		return nil
	}
}
