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

// tell has other programs told, on channels in Redis, what handlers of the hub ask for. It is called before the hub is bound: already the first
// thing that an instance does, which is to remove those that have died, is told.
func (s *sharedHub) tell(handlers []*Handler) {
	if s.db == nil {
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
	s.telling = presence.Events{
		Presence: channel("presence", "presence:update"),
		Users:    channel("user", "user:status"),
		Rooms:    channel("room", "room:event"),
		Head:     head,
	}
	if shared := s.shared.Load(); shared != nil {
		shared.presence.SetEvents(s.telling)
	}
	s.TellMessages(channel("message", "message:event"), head)
}
