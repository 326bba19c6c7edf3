package module

import (
	"github.com/caddyrooms/caddy-rooms/internal/hub"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
)

// rule translates a rule, which has been validated and has its defaults filled in, for the hub.
func (r RoomRule) rule() (hub.RoomRule, error) {
	pattern, err := hub.ParsePattern(r.Pattern)
	if err != nil {
		return hub.RoomRule{}, err
	}
	rule := hub.RoomRule{Pattern: pattern, MaxMembers: r.MaxMembers}
	rule.Join = map[string]hub.Who{"everyone": hub.Everyone, "users": hub.Users, "none": hub.Nobody}[r.Join]
	rule.Publish = map[string]hub.Who{"members": hub.Members, "everyone": hub.Everyone, "none": hub.Nobody}[r.Publish]
	rule.Presence, _ = wire.ParsePresence(r.Presence)
	return rule, nil
}
