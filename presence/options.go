package presence

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"go.uber.org/zap"
)

// Options are the settings of a store. The zero value works. [Memory] uses Logger and Node only.
type Options struct {
	// Prefix is what all keys and channels in Redis begin with; default "rooms:{default}". Every key of a store must be in
	// one hash slot: with Redis Cluster, the prefix must hold a hash tag in braces.
	Prefix string
	// Node is a readable name of this process in Redis, made of letters, digits, "_" and "-"; others become "-".
	// Default "node". It need not be unique.
	Node string
	// TTL is how long the instance's lease lasts without renewal; default 20s. It is renewed every second, or every quarter of
	// a shorter TTL. Members of an instance that died are told as gone after about TTL and a second.
	TTL time.Duration
	// Timeout bounds every exchange with Redis; default 2s.
	Timeout time.Duration
	// Logger gets what an operator must know; default: nothing is logged.
	Logger *zap.Logger
	// Reaped is called when this instance has removed a dead one, Reconciled when it had reason to write everything again and read its rooms
	// anew, and has. Both must not block; default: nothing is called.
	Reaped, Reconciled func()

	clock func() time.Time // default time.Now
}

func (o Options) withDefaults() Options {
	if o.Prefix == "" {
		o.Prefix = "rooms:{default}"
	}
	if o.Node == "" {
		o.Node = "node"
	}
	// The name becomes part of a HSCAN pattern, so nothing that a pattern gives a meaning may be in it.
	o.Node = strings.Map(func(c rune) rune {
		if c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			return c
		}
		return '-'
	}, o.Node)
	if o.TTL <= 0 {
		o.TTL = 20 * time.Second
	}
	if o.Timeout <= 0 {
		o.Timeout = 2 * time.Second
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Reaped == nil {
		o.Reaped = func() {}
	}
	if o.Reconciled == nil {
		o.Reconciled = func() {}
	}
	if o.clock == nil {
		o.clock = time.Now
	}
	return o
}

// checkName returns an ErrInvalid that names what kind of name is wrong, and why.
func checkName(kind, name string) error {
	if name == "" {
		return fmt.Errorf("%w: %s is empty", ErrInvalid, kind)
	}
	return checkText(kind, name)
}

// checkText is checkName for a name that may be empty.
func checkText(kind, name string) error {
	if len(name) > MaxName {
		return fmt.Errorf("%w: %s has %d bytes, allowed are %d", ErrInvalid, kind, len(name), MaxName)
	}
	if strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("%w: %s %q has a control character", ErrInvalid, kind, name)
	}
	return nil
}
