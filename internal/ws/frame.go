package ws

import "encoding/binary"

// Frame is a whole WebSocket frame as it goes to a client (RFC 6455, section 5.2). It is made once and shared by
// everyone who gets it: never modified, never put into a pool.
type Frame struct {
	bytes []byte // a pointer to it takes a third of the place in the queues of those who get it
}

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
func Text(b []byte) *Frame {
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
	return &Frame{b}
}

// isMessage tells whether f is a whole message, plain or compressed.
func (f *Frame) isMessage() bool { return f.bytes[0]&^deflated == finText }

// Payload returns what a frame that Text has made carries.
func (f *Frame) Payload() []byte {
	switch f.bytes[1] {
	case 126:
		return f.bytes[4:]
	case 127:
		return f.bytes[Headroom:]
	}
	return f.bytes[2:]
}

// Buffer returns a buffer for Text with room for a payload of size bytes.
func Buffer(size int) []byte { return make([]byte, Headroom, Headroom+size) }

func closeFrame(code int, reason string) *Frame {
	if len(reason) > maxReason {
		reason = reason[:maxReason]
	}
	b := append(make([]byte, 0, 4+len(reason)), finClose, byte(2+len(reason)), byte(code>>8), byte(code))
	return &Frame{append(b, reason...)}
}

var pingFrame = &Frame{[]byte{finPing, 0}}
