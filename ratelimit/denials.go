package ratelimit

import (
	"sync"
	"time"
)

// maxDenials bounds the memory of denials, to some ten megabytes.
const maxDenials = 1 << 16

// denials remembers which keys have nothing left.
type denials struct {
	most int

	mu     sync.Mutex
	byKey  map[string]denial // guarded by mu
	resets uint64            // calls of forget; guarded by mu
}

// denial is what Redis said, in the time of this process. Redis spoke between asking it and its answer: denials hold as if
// it had spoken at once, and those who are told to wait, wait as if it had spoken last.
type denial struct {
	until time.Duration // deny before this
	next  time.Duration // the limit is surely less than full
	reset time.Duration // the limit is surely free
}

func newDenials(most int) *denials {
	return &denials{most: most, byKey: make(map[string]denial)}
}

// get returns the decision about key at now, if it is known to be denied, else what put is to be given if Redis denies it.
func (d *denials) get(key string, now time.Duration) (known Decision, ok bool, resets uint64) {
	d.mu.Lock()
	last, ok := d.byKey[key]
	if ok && last.until <= now {
		delete(d.byKey, key)
		ok = false
	}
	resets = d.resets
	d.mu.Unlock()
	if !ok {
		return Decision{}, false, resets
	}
	return decision(false, 0, last.reset-now, last.next-now), true, resets
}

// forget forgets what is known of key, and what is being asked.
func (d *denials) forget(key string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.resets++
	delete(d.byKey, key)
}

// put remembers last, which left nothing of key and came between asked and answered, unless something was forgotten since get has returned
// resets: then last may be of before. That it was another key costs one call.
func (d *denials) put(key string, last Decision, asked, answered time.Duration, resets uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if resets != d.resets {
		return
	}
	if len(d.byKey) >= d.most {
		for k := range d.byKey { // any one will do: forgetting a denial costs one call
			delete(d.byKey, k)
			break
		}
	}
	d.byKey[key] = denial{
		until: asked + last.Next,
		next:  answered + last.Next,
		reset: answered + last.Reset,
	}
}
