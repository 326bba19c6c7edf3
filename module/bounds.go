package module

import (
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyrooms/caddy-rooms/ratelimit"
)

// bounds are what a number in the config may be, and what it is when it is left out, which zero means.
type bounds[T int | caddy.Duration] struct {
	def, min, max T
	unit          string // for people
	off           bool   // -1 is allowed too: it turns off what the number bounds
}

var (
	maxFrame         = bounds[int]{def: 64 << 10, min: 256, max: 16 << 20, unit: " bytes"}
	sendQueue        = bounds[int]{def: 1 << 20, min: 256, max: 1 << 30, unit: " bytes"}
	writeTimeout     = durations(10*time.Second, 100*time.Millisecond, 5*time.Minute)
	pingInterval     = durations(25*time.Second, time.Second, time.Hour)
	maxRooms         = bounds[int]{def: 64, min: 1, max: 10_000}
	maxConnections   = bounds[int]{def: 100_000, min: 1, max: 10_000_000, off: true}
	maxConnectionAge = durations(0, time.Second, 365*24*time.Hour)
	drain            = durations(4*time.Second, time.Millisecond, 10*time.Minute).orOff()

	maxMembers = bounds[int]{min: 1, max: 1_000_000}

	presenceGrace    = durations(15*time.Second, time.Millisecond, 5*time.Minute).orOff()
	presenceTTL      = durations(20*time.Second, 3*time.Second, 10*time.Minute)
	presenceCoalesce = durations(50*time.Millisecond, time.Millisecond, 10*time.Second).orOff()
	presenceFullUpTo = bounds[int]{def: 500, min: 1, max: 1_000_000}

	tokenLeeway = durations(10*time.Second, time.Millisecond, 10*time.Minute).orOff()

	redisDB       = bounds[int]{min: 0, max: 65_535}
	redisTimeout  = durations(2*time.Second, 10*time.Millisecond, time.Minute)
	redisPoolSize = bounds[int]{min: 1, max: 10_000}

	// What more there is to say of a limit says ratelimit.Limit.Validate.
	limitEvents = bounds[int]{min: 1, max: ratelimit.MaxEvents}
	limitWindow = durations(0, ratelimit.MinWindow, ratelimit.MaxWindow)
)

var errRange = errors.New("out of range")

func durations(def, least, most time.Duration) bounds[caddy.Duration] {
	return bounds[caddy.Duration]{def: caddy.Duration(def), min: caddy.Duration(least), max: caddy.Duration(most)}
}

func (b bounds[T]) orOff() bounds[T] {
	b.off = true
	return b
}

// check returns an error if v can't be the value of the named field. Zero can: it stands for the default.
func (b bounds[T]) check(name string, v T) error {
	if v == 0 || b.checkGiven(v) == nil {
		return nil
	}
	return fmt.Errorf("%s %s %w (allowed: %s)", name, show(v), errRange, b)
}

// checkGiven returns errRange if v can't be written.
func (b bounds[T]) checkGiven(v T) error {
	if v >= b.min && v <= b.max || b.off && v == -1 {
		return nil
	}
	return errRange
}

// String returns what is allowed, for error messages.
func (b bounds[T]) String() string {
	s := show(b.min) + " to " + show(b.max) + b.unit
	if b.off {
		s += ", or -1 to turn it off"
	}
	return s
}

func show[T int | caddy.Duration](v T) string {
	if d, ok := any(v).(caddy.Duration); ok {
		return time.Duration(d).String()
	}
	return fmt.Sprint(v)
}
