package ws

import (
	"errors"
	"io"
	"sync"

	"github.com/coder/websocket"
	"github.com/klauspost/compress/flate"
)

// deflateFrom is how long a message must be to be worth compressing, in bytes.
const deflateFrom = 512

// deflateTail is what the end of each compressed message leaves out (RFC 7692, section 7.2.1).
const deflateTail = "\x00\x00\xff\xff"

// Shared is a message for many connections: plain, and compressed, once, for those that have negotiated it. It belongs to one goroutine.
type Shared struct {
	Plain    *Frame // from Text
	deflated *Frame
}

// For returns the frame that c gets.
func (s *Shared) For(c *Conn) *Frame {
	if !c.deflates {
		return s.Plain
	}
	if s.deflated == nil {
		s.deflated = deflate(s.Plain)
	}
	return s.deflated
}

// deflate returns f compressed, or f itself where that gains nothing. Nothing is remembered from one message to the next (that is what
// "no context takeover" means), so the frame is good for every connection that has negotiated it.
func deflate(f *Frame) *Frame {
	payload := f.Payload()
	if len(payload) < deflateFrom {
		return f
	}
	out := buffered{Buffer(len(payload))}
	if err := flate.StatelessDeflate(&out, payload, false, nil); err != nil {
		return f // a buffer takes everything, so this is only what a caller of the library must do
	}
	b := out.b[:len(out.b)-len(deflateTail)]
	if len(b)-Headroom >= len(payload) {
		return f
	}
	c := Text(b)
	c.bytes[0] |= deflated
	return c
}

// buffered is an io.Writer that appends.
type buffered struct{ b []byte }

func (w *buffered) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

// inflater undoes the compression of a peer's messages. Those of all connections share a few.
type inflater struct {
	src  []byte
	tail string
	r    io.ReadCloser // of what ReadByte and Read give
}

var inflaters = sync.Pool{New: func() any {
	i := new(inflater)
	i.r = flate.NewReader(i)
	return i
}}

var errTooLarge = errors.New("message is too large")

// inflate appends what src was before it was compressed to dst. errTooLarge tells that it is longer than limit, which is all that is ever kept.
func inflate(dst, src []byte, limit int) ([]byte, error) {
	i := inflaters.Get().(*inflater)
	defer func() { i.src = nil; inflaters.Put(i) }()
	// What was left out, and the end of a stream, at which the reader stops.
	i.src, i.tail = src, deflateTail+"\x01\x00\x00\xff\xff"
	if err := i.r.(flate.Resetter).Reset(i, nil); err != nil {
		return dst, err
	}
	for {
		if len(dst) == cap(dst) {
			dst = append(dst, 0)[:len(dst)]
		}
		n, err := i.r.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		switch {
		case len(dst) > limit:
			return dst, errTooLarge
		case errors.Is(err, io.EOF):
			return dst, nil
		case err != nil:
			return dst, ViolationError{int(websocket.StatusInvalidFramePayloadData), "compressed message is broken: " + err.Error()}
		}
	}
}

// Read implements io.Reader.
func (i *inflater) Read(p []byte) (n int, err error) {
	if len(i.src) > 0 {
		n = copy(p, i.src)
		i.src = i.src[n:]
		return n, nil
	}
	if len(i.tail) == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n = copy(p, i.tail)
	i.tail = i.tail[n:]
	return n, nil
}

// ReadByte implements io.ByteReader, without which the library would put a buffer of its own in between.
func (i *inflater) ReadByte() (byte, error) {
	var p [1]byte
	_, err := i.Read(p[:])
	return p[0], err
}
