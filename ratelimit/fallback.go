package ratelimit

import (
	"context"
	"fmt"
)

// Outage is what to do while a shared limiter can't decide.
type Outage string

const (
	// OutageLocal lets each process decide alone, with the whole limit for itself. The default.
	OutageLocal Outage = "local"
	// OutageAllow allows everything.
	OutageAllow Outage = "allow"
	// OutageDeny denies everything.
	OutageDeny Outage = "deny"
)

// Outages are the allowed words, the default first.
var Outages = []Outage{OutageLocal, OutageAllow, OutageDeny}

// Validate tells what is wrong with a word, in words for the person who wrote it.
func (o Outage) Validate() error {
	switch o {
	case OutageLocal, OutageAllow, OutageDeny:
		return nil
	}
	return fmt.Errorf("unknown outage policy %q (allowed: %s, %s, %s)", o, OutageLocal, OutageAllow, OutageDeny)
}

// Fallback is a [Limiter] that asks Shared, and decides by Outage when that fails: such decisions have Local set. It costs
// nothing to make one for each limit; Shared and Local are the same for all of them.
type Fallback struct {
	Shared Limiter
	Local  Limiter // in this process, so that it never fails: a [Memory]
	Outage Outage  // "" is OutageLocal
}

// Allow implements [Limiter]. The only error is that of an invalid limit.
func (f Fallback) Allow(ctx context.Context, limit Limit, key string) (Decision, error) {
	if err := limit.Validate(); err != nil {
		return Decision{}, err
	}
	d, err := f.Shared.Allow(ctx, limit, key)
	if err == nil {
		return d, nil
	}
	switch f.Outage {
	case OutageAllow:
		return Decision{Allowed: true, Remaining: limit.Events, Local: true}, nil
	case OutageDeny:
		// By then a call has tried whether the shared limiter is back.
		d = decision(false, 0, breakFor, breakFor)
	default:
		if d, err = f.Local.Allow(ctx, limit, key); err != nil {
			return Decision{}, err
		}
	}
	d.Local = true
	return d, nil
}

// Reset implements [Limiter]. An error is that of Shared.
func (f Fallback) Reset(ctx context.Context, limit Limit, key string) error {
	f.Local.Forget(limit, key)
	return f.Shared.Reset(ctx, limit, key)
}

// Forget implements [Limiter].
func (f Fallback) Forget(limit Limit, key string) {
	f.Local.Forget(limit, key)
	f.Shared.Forget(limit, key)
}

// Close implements [Limiter]. Shared and Local stay open: they are their owners'.
func (f Fallback) Close() error { return nil }
