package module

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/caddyrooms/caddy-rooms/internal/hub"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
)

// defaultHub is the name of the hub when the config does not say one.
const defaultHub = "default"

// defaultUser is the template of the user when the config does not say one.
const defaultUser = "{http.auth.user.id}"

// The words that fields allow, the default first.
var (
	joinWords     = []string{"everyone", "users", "none"}
	publishWords  = []string{"members", "everyone", "none"}
	presenceWords = []string{"full", "count", "none"}
	metricsWords  = []string{"on", "off"}
)

// setDefaults fills in what was left out, so that afterwards no field that has a default is zero. Calling it again
// changes nothing. The default limits are not added: see [Handler.limits].
func (h *Handler) setDefaults() {
	h.Hub = cmp.Or(h.Hub, defaultHub)
	h.User = cmp.Or(h.User, defaultUser)
	for i := range h.Rooms {
		r := &h.Rooms[i]
		r.Join = cmp.Or(r.Join, joinWords[0])
		r.Publish = cmp.Or(r.Publish, publishWords[0])
		r.Presence = cmp.Or(r.Presence, presenceWords[0])
	}
	if h.Redis != nil {
		h.Redis.setDefaults()
	}
	if h.Presence == nil {
		h.Presence = new(PresenceConfig)
	}
	h.Presence.Grace = cmp.Or(h.Presence.Grace, presenceGrace.def)
	h.Presence.TTL = cmp.Or(h.Presence.TTL, presenceTTL.def)
	h.Presence.Coalesce = cmp.Or(h.Presence.Coalesce, presenceCoalesce.def)
	h.Presence.FullUpTo = cmp.Or(h.Presence.FullUpTo, presenceFullUpTo.def)
	for i := range h.Limits {
		h.Limits[i] = h.Limits[i].withDefaults()
	}
	h.MaxFrame = cmp.Or(h.MaxFrame, maxFrame.def)
	h.SendQueue = cmp.Or(h.SendQueue, sendQueue.def)
	h.WriteTimeout = cmp.Or(h.WriteTimeout, writeTimeout.def)
	h.PingInterval = cmp.Or(h.PingInterval, pingInterval.def)
	h.MaxRooms = cmp.Or(h.MaxRooms, maxRooms.def)
	h.MaxConnections = cmp.Or(h.MaxConnections, maxConnections.def)
	h.Drain = cmp.Or(h.Drain, drain.def)
	h.Metrics = cmp.Or(h.Metrics, metricsWords[0])
}

// validateConfig tells what is wrong with the config, with or without its defaults filled in. It resolves no
// placeholder and opens nothing.
func (h *Handler) validateConfig() error {
	if h.Hub != "" {
		if err := checkName("hub", h.Hub); err != nil {
			return err
		}
	}
	checks := []error{
		h.validateUser(),
		h.validateToken(),
		h.validateOrigins(),
		h.validateAutoJoin(),
		h.validateRooms(),
		h.Redis.validate(),
		h.validateLimits(),
		h.validateEvents(),
		maxFrame.check("max_frame", h.MaxFrame),
		sendQueue.check("send_queue", h.SendQueue),
		writeTimeout.check("write_timeout", h.WriteTimeout),
		pingInterval.check("ping_interval", h.PingInterval),
		maxRooms.check("max_rooms", h.MaxRooms),
		maxConnections.check("max_connections", h.MaxConnections),
		maxConnectionAge.check("max_connection_age", h.MaxConnectionAge),
		drain.check("drain", h.Drain),
		checkWord("metrics", h.Metrics, metricsWords),
	}
	if p := h.Presence; p != nil {
		checks = append(checks,
			presenceGrace.check("presence: grace", p.Grace),
			presenceTTL.check("presence: ttl", p.TTL),
			presenceCoalesce.check("presence: coalesce", p.Coalesce),
			presenceFullUpTo.check("presence: full_up_to", p.FullUpTo),
			p.validateDatabase())
	}
	if err := cmp.Or(checks...); err != nil {
		return err
	}
	if len(h.Events) > 0 && h.Redis == nil {
		return errors.New("events needs redis: they are told on its channels")
	}
	frame, queue := cmp.Or(h.MaxFrame, maxFrame.def), cmp.Or(h.SendQueue, sendQueue.def)
	if queue < frame {
		return fmt.Errorf("send_queue %d must be at least max_frame, which is %d", queue, frame)
	}
	if most := cmp.Or(h.MaxRooms, maxRooms.def); len(h.AutoJoin) > most {
		return fmt.Errorf("auto_join has %d rooms, more than max_rooms, which is %d", len(h.AutoJoin), most)
	}
	return nil
}

func (h *Handler) validateUser() error {
	return cmp.Or(checkTemplate("user", h.User), checkTemplate("device", h.Device))
}

// validateOrigins refuses patterns that can't be parsed, and those that no browser's Origin can match.
func (h *Handler) validateOrigins() error {
	for _, o := range h.Origins {
		host := o
		if _, after, ok := strings.Cut(o, "://"); ok {
			host = after
		}
		if _, err := path.Match(o, ""); err != nil || host == "" || strings.Contains(host, "/") {
			return fmt.Errorf("bad origin pattern %q (allowed: a host or scheme://host, without a path, with * and ?)", o)
		}
	}
	return nil
}

// validateAutoJoin checks the names of the rooms that do not depend on the request.
func (h *Handler) validateAutoJoin() error {
	for _, room := range h.AutoJoin {
		for name := range roomsPlaceholders(room) {
			if name != "rooms.conn" && name != "rooms.user" {
				return fmt.Errorf("auto_join contains {%s} (allowed: {rooms.conn}, {rooms.user} and those of the request)", name)
			}
		}
		if strings.Contains(room, "{") {
			continue
		}
		if wire.CheckRoom(room) != nil {
			return fmt.Errorf("bad room name %q in auto_join (allowed: 1 to %d of A-Z a-z 0-9 _ . : @ / -)", room, wire.MaxRoom)
		}
	}
	return nil
}

// validateRooms checks each rule, and that none comes after one that leaves nothing for it.
func (h *Handler) validateRooms() error {
	var earlier []hub.Pattern
	for _, r := range h.Rooms {
		pattern, err := hub.ParsePattern(r.Pattern)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("room %q: ", r.Pattern)
		err = cmp.Or(
			checkWord(name+"join", r.Join, joinWords),
			checkWord(name+"publish", r.Publish, publishWords),
			checkWord(name+"presence", r.Presence, presenceWords),
			maxMembers.check(name+"max_members", r.MaxMembers),
		)
		if err != nil {
			return err
		}
		for _, e := range earlier {
			if e.String() == r.Pattern {
				return fmt.Errorf("room %q is repeated", r.Pattern)
			}
			if e.Match(r.Pattern) {
				return fmt.Errorf("room %q has no effect: room %q before it matches all of its rooms", r.Pattern, e)
			}
		}
		earlier = append(earlier, pattern)
	}
	return nil
}

// checkName checks the name of a hub or a limit.
func checkName(what, name string) error {
	if isName(name, "_-") {
		return nil
	}
	return fmt.Errorf("bad %s name %q (allowed: 1 to 64 of A-Z a-z 0-9 _ -)", what, name)
}

// isName tells whether s is 1 to 64 letters, digits and characters of others.
func isName(s, others string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		return !letter && (r < '0' || r > '9') && !strings.ContainsRune(others, r)
	})
}

// checkWord checks that a field has one of the allowed words, if it has any.
func checkWord(field, word string, allowed []string) error {
	if word == "" || slices.Contains(allowed, word) {
		return nil
	}
	return fmt.Errorf("%s %q is unknown (allowed: %s)", field, word, strings.Join(allowed, ", "))
}

// checkTemplate refuses the placeholders of our own: what they stand for is not known before the template is expanded.
func checkTemplate(field, template string) error {
	for name := range roomsPlaceholders(template) {
		return fmt.Errorf("%s contains {%s} (allowed: the placeholders of the request)", field, name)
	}
	return nil
}
