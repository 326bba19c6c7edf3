package ratelimit

import "time"

// emissionInterval is the time one event of a GCRA limit fills. It is rounded up, and everything else is a multiple of
// it, so that the arithmetic is exact.
func emissionInterval(l Limit) time.Duration {
	return time.Duration(ceil(l.Window, time.Duration(l.Events)))
}

// leakyBucket is the state of GCRA, in the continuous-state form of ITU-T I.371: it stays exact in Redis, where a
// theoretical arrival time in nanoseconds would not fit into a number.
type leakyBucket struct {
	level time.Duration // how far it was filled
	at    time.Duration // when
}

func (b *leakyBucket) take(l Limit, now time.Duration) Decision {
	interval := emissionInterval(l)
	level := max(0, b.level-(now-b.at))
	allowed := level <= time.Duration(l.Events-1)*interval
	if allowed {
		level += interval
		b.level, b.at = level, now
	}
	used := ceil(level, interval)
	return decision(allowed, l.Events-int(used), level, level-time.Duration(used-1)*interval)
}

func (b *leakyBucket) idle(_ Limit, now time.Duration) bool { return b.level <= now-b.at }
