package hub

import "github.com/caddyrooms/caddy-rooms/internal/ws"

// maxBacklog is how many broadcasts from the bus wait for a large room at most. Beyond, the bus waits, too.
const maxBacklog = 64

// saying is a broadcast that waits.
type saying struct {
	frame *ws.Frame
	to    addressees
}

// backlog is what has come from the bus for a large room and was not said yet. room.mu guards it.
type backlog struct {
	waiting []saying
	working bool // a goroutine says it, until nothing is left
}

// relay is broadcast for the bus, whose one goroutine brings what concerns all rooms: a large room does not hold it up. What it brings for one
// room is said in that order.
func (r *room) relay(f *ws.Frame, to addressees) {
	r.mu.Lock()
	b := &r.backlog
	if !b.working && len(r.members.list) <= walkPart {
		r.mu.Unlock()
		r.broadcast(f, to)
		return
	}
	b.waiting = append(b.waiting, saying{f, to})
	full := len(b.waiting) > maxBacklog
	if !b.working {
		b.working = true
		go r.catchUp()
	}
	r.mu.Unlock()
	if full {
		r.sayNext()
	}
}

func (r *room) catchUp() {
	for r.sayNext() {
	}
}

// sayNext says the first that waits. It returns whether there may be more; else the work is done.
func (r *room) sayNext() (more bool) {
	defer r.hub.recovered(nil)
	more = true // also after a panic
	r.speaking.Lock()
	defer r.speaking.Unlock()
	r.mu.Lock()
	b := &r.backlog
	if len(b.waiting) == 0 {
		b.working, b.waiting = false, nil
		r.mu.Unlock()
		return false
	}
	next := b.waiting[0]
	b.waiting[0] = saying{}
	b.waiting = b.waiting[1:]
	r.mu.Unlock()
	r.say(next.frame, next.to)
	return more
}
