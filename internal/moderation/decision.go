package moderation

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// SlowMode is how often each user may publish in a room: Events in any Window.
type SlowMode struct {
	Events int
	Window time.Duration
}

// kind is what a decision is about.
type kind uint8

const (
	ban kind = iota
	slowMode
	kinds
)

// letters begin the fields of the kinds in Redis.
const letters = "bs"

// mostOf is how many decisions of each kind may hold at a time.
var mostOf = [kinds]int{ban: MaxBans, slowMode: MaxSlowModes}

func (k kind) String() string { return [kinds]string{"bans", "slow modes"}[k] }

// subject is whom or what a decision concerns.
type subject struct {
	kind
	name string // of a user or a room
}

func (s subject) field() string { return letters[s.kind:s.kind+1] + s.name }

func parseField(field string) (subject, bool) {
	if field == "" {
		return subject{}, false
	}
	at := strings.IndexByte(letters, field[0])
	return subject{kind(at), field[1:]}, at >= 0
}

// decision is what is so for a subject. The zero value lifts.
type decision struct {
	until time.Time // end of a ban
	slow  SlowMode
}

// holds tells whether there is a ban or a slow mode at now.
func (d decision) holds(now time.Time) bool { return d.slow.Events > 0 || d.until.After(now) }

// entry is a decision as it is in Redis.
type entry struct {
	decision
	stamp int64  // when it was made, microseconds by the clock of Redis; the latest counts
	keep  int64  // when it has nothing to overrule any more, milliseconds by the clock of Redis
	value string // all of it, as it is there
}

var errMalformed = errors.New("malformed decision")

// parse reads a decision of Redis, whose clock shows now microseconds.
func parse(k kind, value string, now int64) (entry, error) {
	words := strings.Split(value, " ")
	if len(words) < 5 {
		return entry{}, fmt.Errorf("%w %.200q", errMalformed, value)
	}
	numbers := make([]int64, 0, 4) // all words but the author
	for _, word := range append(words[:1:1], words[3:]...) {
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil || n < 0 {
			return entry{}, fmt.Errorf("%w %.200q", errMalformed, value)
		}
		numbers = append(numbers, n)
	}
	e := entry{stamp: numbers[0], keep: numbers[1], value: value}
	switch what := numbers[2:]; {
	case len(what) == 1 && what[0] == 0:
	case len(what) == 1 && k == ban:
		e.until = time.Now().Add(time.Duration(what[0]*1000-now) * time.Microsecond)
	case len(what) == 2 && k == slowMode && what[0] > 0 && what[1] > 0:
		e.slow = SlowMode{Events: int(what[0]), Window: time.Duration(what[1]) * time.Microsecond}
	default:
		return entry{}, fmt.Errorf("%w %.200q", errMalformed, value)
	}
	return e, nil
}

// what returns the decision as the script takes it.
func (d decision) what() string {
	switch left := time.Until(d.until); {
	case d.slow.Events > 0:
		return fmt.Sprintf("%d %d", d.slow.Events, d.slow.Window.Microseconds())
	case left > 0:
		return strconv.FormatInt(int64((left+time.Millisecond-1)/time.Millisecond), 10)
	}
	return "0"
}
