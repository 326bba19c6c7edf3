package ws

import (
	"errors"
	"os"
	"slices"
	"sync"
	"time"
)

// closeWait is how long a connection has, after its close frame was queued, until the socket is closed whatever the peer does.
const closeWait = 5 * time.Second

// Send queues f behind everything sent before; it never blocks. False means that the connection takes no more.
// It may be called from any goroutine.
func (c *Conn) Send(f *Frame) bool {
	taken, start := c.accept(f)
	if start {
		c.worker.push(c)
	}
	return taken
}

// accept queues f if it is taken, and tells whether the caller must hand the connection to its worker.
func (c *Conn) accept(f *Frame) (taken, start bool) {
	c.mu.Lock()
	if c.closing || c.dead || c.overflowed {
		c.mu.Unlock()
		return false, false
	}
	// A frame that waits alone is taken whatever its size: it is bounded by other means, and a queue that is smaller than a message would
	// take none. What a writer is about to finish doesn't count.
	if len(c.pending) > 0 && c.bytes+len(f.bytes)+frameCost > c.limits.Load().SendQueue {
		c.overflowed = true
		c.mu.Unlock()
		c.pool.metrics.DroppedSlow.Inc()
		c.owner.Slow()
		return false, false
	}
	start = c.queue(f)
	c.mu.Unlock()
	return true, start
}

// Close queues last (unless it is nil) and a close frame; nothing is sent after them. With discard, what is still waiting is
// dropped, but for the rest of a frame that is partly out. The socket closes when the peer has answered, at the latest after 5 s.
// Only the first call counts. It never blocks and may be called from any goroutine.
func (c *Conn) Close(code int, reason string, last *Frame, discard bool) {
	c.mu.Lock()
	if c.closing || c.dead {
		c.mu.Unlock()
		return
	}
	if discard {
		c.discard()
	}
	start := false
	if last != nil {
		start = c.queue(last)
	}
	start = c.queue(closeFrame(code, reason)) || start
	c.closing = true
	c.mu.Unlock()
	c.pool.pings.expire(c, time.Now().Add(closeWait))
	if start {
		c.worker.push(c)
	}
}

// frameCost is what a queued frame takes besides its bytes: a small one's share of the list, its header, and the allocator's rounding.
const frameCost = 48

// queue appends f and reports whether the caller must hand the connection to its worker. c.mu is held.
func (c *Conn) queue(f *Frame) (start bool) {
	if c.pending == nil {
		c.pending = c.few[:0]
	}
	c.pending = append(c.pending, f)
	c.bytes += len(f.bytes) + frameCost
	start = !c.busy
	c.busy = true
	return start
}

// discard drops what is waiting. What a writer has taken already still goes out. c.mu is held.
func (c *Conn) discard() {
	keep := 0
	if c.partial && !c.taken && len(c.pending) > 0 {
		keep = 1
	}
	for _, f := range c.pending[keep:] {
		c.bytes -= len(f.bytes) + frameCost
		if f.isMessage() {
			c.pool.metrics.DroppedSlow.Inc()
		}
	}
	clear(c.pending[keep:])
	c.pending = c.pending[:keep]
}

// maxKept is the capacity of a pending list that a connection keeps for the next frames.
const maxKept = 16

// next returns how long the first frame is that is waiting.
func (c *Conn) next() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) == 0 {
		return 0
	}
	return len(c.pending[0].bytes)
}

// take moves what is waiting, up to limit bytes but at least one frame, into frames. It gives up the write side when there is nothing.
// Only who owns the write side (c.busy) may call it.
func (c *Conn) take(frames []*Frame, limit int) []*Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, size := 0, 0
	for n < len(c.pending) && (n == 0 || size+len(c.pending[n].bytes) <= limit) {
		size += len(c.pending[n].bytes)
		n++
	}
	if n == 0 || c.dead {
		c.release()
		return frames
	}
	c.taken = true
	frames = append(frames, c.pending[:n]...)
	if n == len(c.pending) && cap(c.pending) > maxKept {
		c.pending = nil
	} else {
		c.pending = slices.Delete(c.pending, 0, n)
	}
	return frames
}

// merge returns frames as one piece: the frame itself where there is only one, else a copy in buf.
func merge(frames []*Frame, buf []byte) []byte {
	if len(frames) == 1 {
		return frames[0].bytes
	}
	for _, f := range frames {
		buf = append(buf, f.bytes...)
	}
	return buf
}

type writeState int

const (
	writeDone    writeState = iota // nothing is waiting, or the connection is gone
	writeMore                      // more has come meanwhile
	writeBlocked                   // the peer's window is full
)

// wrote accounts for the first n bytes of the frames that take returned, in total too, and puts the rest back in front.
// Only who owns the write side may call it.
func (c *Conn) wrote(frames []*Frame, n int, err error, total *Traffic) writeState {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken = false
	if err != nil || c.dead {
		c.kill()
		return writeDone
	}
	c.bytes -= n
	messages := c.messages(frames, n)
	c.out.Messages += messages
	c.out.Bytes += n
	total.Messages += messages
	total.Bytes += n
	if n > 0 {
		c.partial = false
	}
	for len(frames) > 0 && n >= len(frames[0].bytes) {
		n -= len(frames[0].bytes)
		c.bytes -= frameCost
		frames = frames[1:]
	}
	if len(frames) > 0 {
		c.pending = slices.Insert(c.pending, 0, frames...)
		if n > 0 {
			c.pending[0] = &Frame{c.pending[0].bytes[n:]}
			c.partial = true
		}
		return writeBlocked
	}
	if len(c.pending) > 0 {
		return writeMore
	}
	c.release()
	return writeDone
}

// messages returns how many messages end in the first n bytes of frames. c.mu is held.
func (c *Conn) messages(frames []*Frame, n int) (messages int) {
	for i, f := range frames {
		if n -= len(f.bytes); n < 0 {
			break
		}
		// The rest of a frame has no opcode. Control frames are too small to be parted often.
		if f.isMessage() || i == 0 && c.partial {
			messages++
		}
	}
	return messages
}

// release gives up the write side, and closes the socket if that was all it waited for. c.mu is held.
func (c *Conn) release() {
	c.busy = false
	if c.finished {
		c.kill()
	}
}

// Abort closes the socket at once.
func (c *Conn) Abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kill()
}

// kill closes the socket, which wakes the reader. c.mu is held.
func (c *Conn) kill() {
	if c.dead {
		return
	}
	c.dead, c.busy = true, false
	c.pending, c.bytes = nil, 0
	// Not the TLS layer's Close: that may wait for a peer that does not read.
	_ = c.socket.Close() // it is given up either way
}

// startDrain hands the write side to a goroutine that may wait for the peer: only stalled connections, and those without a
// non-blocking write, have one.
func (c *Conn) startDrain() {
	go func() {
		defer c.pool.recovered("websocket drain", c)
		buf := mergeBuffers.Get().(*[]byte)
		defer mergeBuffers.Put(buf)
		var frames []*Frame
		var sent Traffic
		for {
			frames = c.take(frames[:0], drainLimit)
			if len(frames) == 0 {
				return
			}
			limit := c.limits.Load().WriteTimeout
			_ = c.nc.SetWriteDeadline(time.Now().Add(limit)) // fails only when closed, as the write then does
			n, err := c.nc.Write(merge(frames, (*buf)[:0]))
			if n > 0 && c.raw != nil && errors.Is(err, os.ErrDeadlineExceeded) {
				err = nil // slow, but it takes something; TLS can't go on after a part
			}
			// A deadline that stays would fail the workers' writes later.
			_ = c.nc.SetWriteDeadline(time.Time{})
			state := c.wrote(frames, n, err, &sent)
			c.pool.sent(&sent)
			if state == writeDone {
				return
			}
		}
	}()
}

// drainLimit is how many bytes of waiting frames a drain merges: about what the kernel takes at once of a peer that is slow.
const drainLimit = 16 << 10

var mergeBuffers = sync.Pool{New: func() any { b := make([]byte, 0, drainLimit); return &b }}
