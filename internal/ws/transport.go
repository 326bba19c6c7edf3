package ws

import (
	"net"
	"time"
)

// transport is the net.Conn that coder/websocket works on.
type transport Conn

var _ net.Conn = (*transport)(nil)

// Read implements net.Conn; only ReadLoop's goroutine gets here.
func (t *transport) Read(p []byte) (int, error) {
	c := (*Conn)(t)
	if len(c.rest) == 0 {
		if c.raw == nil {
			n, err := c.nc.Read(p)
			if n > 0 {
				c.heard(n)
			}
			return n, err
		}
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	if len(c.rest) == 0 {
		c.rest = nil
		if c.ahead != nil {
			readBuffers.Put(c.ahead)
			c.ahead = nil
		}
	}
	return n, nil
}

// Write implements net.Conn. The library writes nothing but whole control frames: pongs, and the answer to a close. They are queued
// like everything else, so a peer that pings and doesn't read can't block the reader.
func (t *transport) Write(p []byte) (int, error) {
	c := (*Conn)(t)
	f := append(Frame(nil), p...)
	if len(f) == 0 || f[0]&opMask != opClose {
		c.Send(f) // refused only when the connection is ending
		return len(p), nil
	}
	c.mu.Lock()
	start := false
	if !c.closing && !c.dead {
		start = c.queue(f)
		c.closing = true
	}
	c.mu.Unlock()
	if start {
		c.worker.push(c)
	}
	return len(p), nil
}

// Close implements net.Conn. The library closes as soon as its close frame is written, which here means queued; the socket is closed
// when that has gone out.
func (t *transport) Close() error { return nil }

func (t *transport) LocalAddr() net.Addr              { return t.nc.LocalAddr() }
func (t *transport) RemoteAddr() net.Addr             { return t.nc.RemoteAddr() }
func (t *transport) SetDeadline(time.Time) error      { return nil }
func (t *transport) SetReadDeadline(time.Time) error  { return nil }
func (t *transport) SetWriteDeadline(time.Time) error { return nil }
