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

	mu    sync.Mutex
	byKey map[string]denial // guarded by mu
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

// get returns the decision about key at now, if it is known to be denied.
func (d *denials) get(key string, now time.Duration) (Decision, bool) {
	d.mu.Lock()
	known, ok := d.byKey[key]
	if ok && known.until <= now {
		delete(d.byKey, key)
		ok = false
	}
	d.mu.Unlock()
	if !ok {
		return Decision{}, false
	}
	return decision(false, 0, known.reset-now, known.next-now), true
}

// put remembers last, which left nothing of key and came between asked and answered.
func (d *denials) put(key string, last Decision, asked, answered time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
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
