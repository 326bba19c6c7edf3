package ws

import "encoding/binary"

// Frame is a whole WebSocket frame as it goes to a client (RFC 6455, section 5.2). It is made once and shared by
// everyone who gets it: never modified, never put into a pool.
type Frame []byte

// Headroom is how many bytes Text needs before a payload to put the frame's header there.
const Headroom = 10

const (
	finText  = 0x80 | opText
	finClose = 0x80 | opClose
	finPing  = 0x80 | opPing
	finPong  = 0x80 | opPong

	deflated       = 0x40 // the bit of permessage-deflate (RFC 7692, section 6)
	opMask         = 0x0f
	opControl      = 0x08 // a bit
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa
)

// maxReason is what a close frame has room for besides its code.
const maxReason = 123

// Text makes a text frame of b, whose first Headroom bytes are free and whose rest is the payload. It takes b over.
func Text(b []byte) Frame {
	n := len(b) - Headroom
	switch {
	case n < 126:
		b = b[Headroom-2:]
		b[1] = byte(n)
	case n < 1<<16:
		b = b[Headroom-4:]
		b[1] = 126
		binary.BigEndian.PutUint16(b[2:], uint16(n))
	default:
		b[1] = 127
		binary.BigEndian.PutUint64(b[2:], uint64(n))
	}
	b[0] = finText
	return b
}

// isMessage tells whether f is a whole message, plain or compressed.
func (f Frame) isMessage() bool { return f[0]&^deflated == finText }

// Payload returns what a frame that Text has made carries.
func (f Frame) Payload() []byte {
	switch f[1] {
	case 126:
		return f[4:]
	case 127:
		return f[Headroom:]
	}
	return f[2:]
}

// Buffer returns a buffer for Text with room for a payload of size bytes.
func Buffer(size int) []byte { return make([]byte, Headroom, Headroom+size) }

func closeFrame(code int, reason string) Frame {
	if len(reason) > maxReason {
		reason = reason[:maxReason]
	}
	f := append(make(Frame, 0, 4+len(reason)), finClose, byte(2+len(reason)), byte(code>>8), byte(code))
	return append(f, reason...)
}

var pingFrame = Frame{finPing, 0}
