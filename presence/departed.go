package presence

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MaxDeparted is how many of those who have left a room are remembered.
const MaxDeparted = 50

// Departed is a user who has left a room.
type Departed struct {
	User  string
	State string // as it was; a JSON object
	At    int64  // Unix milliseconds
}

// departed is who has left a room, each once, in the order of leaving. Some may be back.
type departed []Departed

// add notes that a user has left.
func (d *departed) add(who Departed) {
	if i := slices.IndexFunc(*d, func(o Departed) bool { return o.User == who.User }); i >= 0 {
		if (*d)[i].At > who.At {
			return
		}
		*d = slices.Delete(*d, i, i+1)
	}
	i, _ := slices.BinarySearchFunc(*d, who.At+1, func(o Departed, at int64) int { return cmp.Compare(o.At, at) })
	*d = slices.Insert(*d, i, who)
	if extra := len(*d) - MaxDeparted; extra > 0 {
		*d = slices.Delete(*d, 0, extra)
	}
}

// addAll notes what the scripts have written: time, space, user, tab and state, the latest first.
func (d *departed) addAll(texts []string) {
	// The earliest first, as of those who left in the same millisecond the one that is added last is the latest.
	for _, text := range slices.Backward(texts) {
		at, who, _ := strings.Cut(text, " ")
		user, state, ok := strings.Cut(who, "\t")
		if n, err := strconv.ParseInt(at, 10, 64); ok && err == nil {
			d.add(Departed{user, state, n})
		}
	}
}

// departedFor is how long who has left is remembered. Redis keeps them as long after the last one has left.
const departedFor = time.Hour

// away returns those who are not back and left since a time in Unix milliseconds, the latest first.
func (r *roster) away(since int64) []Departed {
	away := make([]Departed, 0, len(r.departed))
	for _, d := range slices.Backward(r.departed) {
		if d.At < since {
			break
		}
		if r.users[d.User] == nil {
			away = append(away, d)
		}
	}
	return away
}
