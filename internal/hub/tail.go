package hub

import (
	"context"
	"errors"
	"slices"

	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/internal/ws"
)

// ErrClosing is returned by what a hub does not do any more once it is being closed.
var ErrClosing = errors.New("hub is being closed")

// tailQueue is how many bytes of frames wait for a tail at most. One frame may wait alone, whatever its size.
const tailQueue = 1 << 20

// Tail hears what is broadcast to the members of a room, without being one. It belongs to one goroutine, which must call Close.
type Tail struct {
	room *room
	wake chan struct{} // of capacity 1: there is something to take

	pending []*ws.Frame // guarded by room.mu
	bytes   int         // of pending; guarded by room.mu
	missed  bool        // something came after pending and was dropped; guarded by room.mu
}

// Tail begins to listen to a room, whether or not anybody is in it. Nothing that is said after it has returned is missed without a gap.
func (h *Hub) Tail(name string) (*Tail, error) {
	if h.draining.Load() {
		return nil, ErrClosing
	}
	ctx, cancel := h.context()
	defer cancel()
	t := &Tail{room: h.enter(ctx, name), wake: make(chan struct{}, 1)}
	t.room.mu.Lock()
	defer t.room.mu.Unlock()
	t.room.tails = append(t.room.tails, t)
	return t, nil
}

// Close ends the tail.
func (t *Tail) Close() {
	r := t.room
	r.mu.Lock()
	r.tails = slices.DeleteFunc(r.tails, func(o *Tail) bool { return o == t })
	r.mu.Unlock()
	r.exit()
}

// add takes a frame in, or drops it when too much is waiting. room.mu is held.
func (t *Tail) add(f *ws.Frame) {
	switch {
	case t.missed:
		return // all of one gap
	case len(t.pending) > 0 && t.bytes+len(f.Payload()) > tailQueue:
		t.missed = true
	default:
		t.pending = append(t.pending, f)
		t.bytes += len(f.Payload())
	}
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Next waits for what is said and returns it, each frame's JSON by itself, not to be modified. When the tail was too slow, the last one is a
// gap. It returns ErrClosing as soon as the hub is being closed.
func (t *Tail) Next(ctx context.Context) ([][]byte, error) {
	for {
		select {
		case <-t.room.hub.life.Done():
			return nil, ErrClosing
		default:
		}
		if lines := t.take(); len(lines) > 0 {
			return lines, nil
		}
		select {
		case <-t.wake:
		case <-t.room.hub.life.Done():
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (t *Tail) take() (lines [][]byte) {
	t.room.mu.Lock()
	defer t.room.mu.Unlock()
	for _, f := range t.pending {
		lines = append(lines, f.Payload())
	}
	if t.missed {
		lines = append(lines, wire.AppendGap(nil, t.room.name, "slow"))
	}
	t.pending, t.bytes, t.missed = nil, 0, false
	return lines
}
