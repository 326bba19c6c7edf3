package module

import (
	"fmt"
	"slices"

	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/presence"
)

// The words of events, those that are told when none is written first.
var (
	eventWords    = []string{"presence", "user", "room", "message"}
	defaultEvents = eventWords[:3]
)

// validateEvents checks what is to be told.
func (h *Handler) validateEvents() error {
	for i, word := range h.Events {
		if err := checkWord("events", word, eventWords); err != nil || word == "" {
			return fmt.Errorf("events %q is unknown (allowed: presence, user, room, message)", word)
		}
		if slices.Contains(h.Events[:i], word) {
			return fmt.Errorf("events names %q twice", word)
		}
	}
	return nil
}

// tell has other programs told, on channels in Redis, what handlers of the hub ask for. The hub is bound.
func (s *sharedHub) tell(handlers []*Handler) {
	shared := s.shared.Load()
	if shared == nil {
		return // in memory
	}
	channel := func(word, name string) string {
		if slices.ContainsFunc(handlers, func(h *Handler) bool { return slices.Contains(h.Events, word) }) {
			return s.key.redis.prefix + ":" + name
		}
		return ""
	}
	head := string(append(wire.AppendString([]byte(`{"version":1,"hub":`), s.key.name), `,"node":`...))
	head = string(wire.AppendString([]byte(head), s.Node()))
	shared.presence.SetEvents(presence.Events{
		Presence: channel("presence", "presence:update"),
		Users:    channel("user", "user:status"),
		Rooms:    channel("room", "room:event"),
		Head:     head,
	})
	s.TellMessages(channel("message", "message:event"), head)
}
