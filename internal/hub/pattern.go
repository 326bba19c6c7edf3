package hub

import (
	"errors"
	"fmt"
	"strings"

	"github.com/caddyrooms/caddy-rooms/internal/wire"
)

// Pattern matches room names. In a pattern `*` stands for any run of characters, also none; everything else stands for
// itself. The zero Pattern matches only the empty name, which no room has.
type Pattern struct {
	text   string
	pieces []string // what is between the stars; one piece: there is no star
}

// ParsePattern parses a pattern of 1 to 200 of the characters of a room's name and `*`.
func ParsePattern(s string) (Pattern, error) {
	switch {
	case s == "":
		return Pattern{}, errors.New("room pattern is empty")
	case len(s) > wire.MaxRoom:
		return Pattern{}, fmt.Errorf("room pattern has %d characters (allowed: 1 to %d)", len(s), wire.MaxRoom)
	case wire.CheckRoom(strings.ReplaceAll(s, "*", "_")) != nil:
		return Pattern{}, fmt.Errorf("room pattern %q has other characters than A-Z a-z 0-9 _ . : @ / - *", s)
	}
	return Pattern{text: s, pieces: strings.Split(s, "*")}, nil
}

// String returns the pattern as it was parsed.
func (p Pattern) String() string { return p.text }

// Match tells whether the pattern matches the whole of room, in time linear in its length.
//
// A pattern that matches the text of another one matches every room that the other one matches: no piece contains a
// star, so the other's stars can only have been matched by stars.
func (p Pattern) Match(room string) bool {
	if len(p.pieces) < 2 {
		return room == p.text
	}
	last := len(p.pieces) - 1
	rest, ok := strings.CutPrefix(room, p.pieces[0])
	if !ok {
		return false
	}
	if rest, ok = strings.CutSuffix(rest, p.pieces[last]); !ok {
		return false
	}
	// The leftmost place of each piece leaves the most room for those after it.
	for _, piece := range p.pieces[1:last] {
		if _, rest, ok = strings.Cut(rest, piece); !ok {
			return false
		}
	}
	return true
}
