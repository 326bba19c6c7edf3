package ratelimit

import "time"

// eventLog is the state of SlidingLog: a ring that grows up to the limit's events.
type eventLog struct {
	times []time.Duration // when the events happened, from first on, count of them
	first int
	count int
}

func (e *eventLog) take(l Limit, now time.Duration) Decision {
	for e.count > 0 && e.at(0)+l.Window <= now {
		e.first = (e.first + 1) % len(e.times)
		e.count--
	}
	allowed := e.count < l.Events
	if allowed {
		e.push(now, l.Events)
	}
	return decision(allowed, l.Events-e.count, e.at(e.count-1)+l.Window-now, e.at(0)+l.Window-now)
}

func (e *eventLog) idle(l Limit, now time.Duration) bool {
	return e.count == 0 || e.at(e.count-1)+l.Window <= now
}

func (e *eventLog) at(i int) time.Duration { return e.times[(e.first+i)%len(e.times)] }

func (e *eventLog) push(now time.Duration, most int) {
	if e.count == len(e.times) {
		grown := make([]time.Duration, min(max(2*e.count, 8), most))
		for i := range e.count {
			grown[i] = e.at(i)
		}
		e.times, e.first = grown, 0
	}
	e.times[(e.first+e.count)%len(e.times)] = now
	e.count++
}
