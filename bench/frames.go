package main

import (
	"encoding/binary"
	"io"
)

// Opcodes of WebSocket frames.
const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

// frame is one that a server has sent.
type frame struct {
	op       byte
	deflated bool
	payload  []byte // only its beginning when the frame is larger than the reader's buffer; valid until the next fill
	size     int    // bytes of the whole frame
}

// frames cuts what is read into frames, in a buffer that does not grow: of a frame that is larger, only the beginning is seen.
// It belongs to one goroutine.
type frames struct {
	buf        []byte
	start, end int // of what waits in buf
	skip       int // bytes of a large frame that are still to come
}

// fill reads once.
func (f *frames) fill(r io.Reader) error {
	if f.start > 0 {
		f.end = copy(f.buf, f.buf[f.start:f.end])
		f.start = 0
	}
	n, err := r.Read(f.buf[f.end:])
	f.end += n
	if n > 0 {
		return nil
	}
	return err
}

// next returns the next frame of those that fill has read, if there is one.
func (f *frames) next() (frame, bool) {
	if f.skip > 0 {
		n := min(f.skip, f.end-f.start)
		f.start += n
		f.skip -= n
	}
	b := f.buf[f.start:f.end]
	if len(b) < 2 {
		return frame{}, false
	}
	head, size := 2, int(b[1]&0x7f)
	switch size {
	case 126:
		head = 4
	case 127:
		head = 10
	}
	if len(b) < head {
		return frame{}, false
	}
	switch size {
	case 126:
		size = int(binary.BigEndian.Uint16(b[2:]))
	case 127:
		size = int(binary.BigEndian.Uint64(b[2:]))
	}
	whole := head + size
	if len(b) < whole {
		if f.start > 0 || f.end < len(f.buf) {
			return frame{}, false
		}
		f.skip = whole - len(b)
	}
	n := min(whole, len(b))
	f.start += n
	return frame{op: b[0] & 0x0f, deflated: b[0]&0x40 != 0, payload: b[head:n], size: whole}, true
}

// appendFrame appends a client's frame. The key that clients must mask with is zero, which leaves the payload as it is.
func appendFrame(dst []byte, op byte, payload []byte) []byte {
	return append(append(appendHead(dst, op, 0x80, len(payload)), 0, 0, 0, 0), payload...)
}

// appendHead appends the head of a frame; mask is the bit that tells that a key follows.
func appendHead(dst []byte, op, mask byte, size int) []byte {
	dst = append(dst, 0x80|op)
	switch {
	case size < 126:
		return append(dst, mask|byte(size))
	case size < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, mask|126), uint16(size))
	default:
		return binary.BigEndian.AppendUint64(append(dst, mask|127), uint64(size))
	}
}
