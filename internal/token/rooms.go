package token

import (
	"encoding/json"
	"fmt"
)

// Right is what a token allows in a room.
type Right uint8

// The rights, as bits.
const (
	Join Right = 1 << iota
	Publish
	Presence
)

var rights = map[string]Right{"join": Join, "publish": Publish, "presence": Presence}

// Rooms is what a token allows in which rooms, by pattern, in the manner of the room rules. It allows nothing in others.
type Rooms map[string]Right

// parseRooms reads {"<pattern>": ["join", "publish", "presence"]}; nil when there is none.
func parseRooms(raw json.RawMessage) (Rooms, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var words map[string][]string
	if err := json.Unmarshal(raw, &words); err != nil {
		return nil, fmt.Errorf("rooms: %w", err)
	}
	rooms := Rooms{}
	for pattern, list := range words {
		rooms[pattern] = 0
		for _, word := range list {
			right, known := rights[word]
			if !known {
				return nil, fmt.Errorf("rooms: %q is unknown (allowed: join, publish, presence)", word)
			}
			rooms[pattern] |= right
		}
	}
	return rooms, nil
}
