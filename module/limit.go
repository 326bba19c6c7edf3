package module

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyrooms/caddy-rooms/internal/hub"
	"github.com/caddyrooms/caddy-rooms/ratelimit"
)

// The words that the fields of a limit allow; of those with a default, it comes first.
var (
	onWords        = []string{"connect", "join", "publish", "status"}
	algorithmWords = []string{string(ratelimit.SlidingCounter), string(ratelimit.SlidingLog), string(ratelimit.GCRA)}
	scopeWords     = []string{"cluster", "instance"}
	onOutageWords  = []string{"local", "allow", "deny"}
)

// clientIPKey is the default key on connect. An IPv6 address counts as its /64 there.
const clientIPKey = "{http.vars.client_ip}"

// defaultLimits hold unless no_default_limits is set or a limit of the same name replaces them. Those for each connection stop a client
// that floods, without a round trip to Redis; connect stops one address that opens connections faster than an office does. A client may
// join as many rooms as it may be in at once. With accept an instance takes over the clients of one that died at a pace that it can bear.
var defaultLimits = []LimitConfig{
	{Name: "publish", On: "publish", Key: "{rooms.conn}", Events: 50, Window: caddy.Duration(time.Second), Scope: "instance"},
	{Name: "status", On: "status", Key: "{rooms.conn}", Events: 50, Window: caddy.Duration(time.Second), Scope: "instance"},
	{Name: "join", On: "join", Key: "{rooms.conn}", Events: 100, Window: caddy.Duration(time.Second), Scope: "instance"},
	{Name: "connect", On: "connect", Events: 200, Window: caddy.Duration(10 * time.Second)},
	{Name: "accept", On: "connect", Key: "all", Events: 2000, Window: caddy.Duration(time.Second), Scope: "instance"},
}

// limits returns the limits that hold, in the order in which they are checked, with their defaults filled in.
func (h *Handler) limits() []LimitConfig {
	var all []LimitConfig
	if !h.NoDefaultLimits {
		for _, l := range defaultLimits {
			if !slices.ContainsFunc(h.Limits, func(own LimitConfig) bool { return own.Name == l.Name }) {
				all = append(all, l.withDefaults())
			}
		}
	}
	for _, l := range h.Limits {
		all = append(all, l.withDefaults())
	}
	return all
}

// withDefaults returns the limit with what was left out filled in. OnOutage stays empty where it has no meaning.
func (l LimitConfig) withDefaults() LimitConfig {
	if l.Key == "" {
		l.Key = "{rooms.user}"
		if l.On == "connect" {
			l.Key = clientIPKey
		}
	}
	l.Algorithm = cmp.Or(l.Algorithm, algorithmWords[0])
	l.Scope = cmp.Or(l.Scope, scopeWords[0])
	if l.Scope == "cluster" {
		l.OnOutage = cmp.Or(l.OnOutage, onOutageWords[0])
	}
	return l
}

// limit returns what the rate limiter needs to know of l, which must have its defaults filled in.
func (l LimitConfig) limit() ratelimit.Limit {
	return ratelimit.Limit{
		Name:      l.Name,
		Events:    l.Events,
		Window:    time.Duration(l.Window),
		Algorithm: ratelimit.Algorithm(l.Algorithm),
	}
}

// hasRequestKey tells whether the key depends on the request of the upgrade.
func (l LimitConfig) hasRequestKey() bool {
	own := 0
	for range roomsPlaceholders(l.Key) {
		own++
	}
	return strings.Count(l.Key, "{") > own
}

// validateLimits checks each limit, and that no name comes twice.
func (h *Handler) validateLimits() error {
	names := make(map[string]bool)
	for _, l := range h.Limits {
		if err := checkName("limit", l.Name); err != nil {
			return err
		}
		if l.Name == hub.SlowModeLimit {
			return fmt.Errorf("limit %q: the name is that of slow modes, which moderators set; take another one", l.Name)
		}
		if names[l.Name] {
			return fmt.Errorf("limit %q is repeated", l.Name)
		}
		names[l.Name] = true
		if err := l.validate(); err != nil {
			return fmt.Errorf("limit %q: %w", l.Name, err)
		}
	}
	return nil
}

// validate tells what is wrong with a limit apart from its name.
func (l LimitConfig) validate() error {
	l = l.withDefaults()
	switch {
	case l.On == "":
		return fmt.Errorf("on is missing (allowed: %s)", strings.Join(onWords, ", "))
	case l.Events == 0:
		return fmt.Errorf("events is missing (allowed: %s)", limitEvents)
	case l.Window == 0:
		return fmt.Errorf("window is missing (allowed: %s)", limitWindow)
	}
	err := cmp.Or(
		checkWord("on", l.On, onWords),
		checkWord("algorithm", l.Algorithm, algorithmWords),
		checkWord("scope", l.Scope, scopeWords),
		checkWord("on_outage", l.OnOutage, onOutageWords),
		l.limit().Validate(),
		l.validateKey(),
	)
	if err != nil {
		return err
	}
	if l.Scope == "instance" && l.OnOutage != "" {
		return fmt.Errorf("on_outage %s contradicts scope instance, which never asks Redis", l.OnOutage)
	}
	return nil
}

// validateKey refuses placeholders that have no value when the limit is checked.
func (l LimitConfig) validateKey() error {
	if l.On == "connect" && strings.Contains(l.Key, tokenPlaceholder) {
		return fmt.Errorf("key %q is of the token, which is not known on connect", l.Key)
	}
	for name := range roomsPlaceholders(l.Key) {
		switch {
		case name != "rooms.conn" && name != "rooms.user" && name != "rooms.room":
			return fmt.Errorf("key contains {%s} (allowed: {rooms.conn}, {rooms.user}, {rooms.room} and those of the request)", name)
		case l.On == "connect":
			return fmt.Errorf("key contains {%s}, which is not known on connect", name)
		case name == "rooms.room" && l.On == "status":
			return fmt.Errorf("key contains {%s}, which not every request has on status (allowed on: join, publish)", name)
		}
	}
	return nil
}

// roomsPlaceholders yields the names of the placeholders of our own in a template, but for those of tokens: they are known with the request.
func roomsPlaceholders(template string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for {
			var ok bool
			if _, template, ok = strings.Cut(template, "{rooms."); !ok {
				return
			}
			name, _, _ := strings.Cut(template, "}")
			if strings.HasPrefix(name, "token.") {
				continue
			}
			if !yield("rooms." + name) {
				return
			}
		}
	}
}
