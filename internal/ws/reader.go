package ws

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
)

// Message is one message of the peer. Data is valid until the function that it was given to returns.
type Message struct {
	Data   []byte
	Binary bool
	// TooLarge tells that the message is over twice the limit; Data is nil, and the rest is read and thrown away.
	TooLarge bool
}

// reader is the read side of a connection. Its goroutine owns all of it.
type reader struct {
	rest  []byte   // what was read and not yet used
	buf   *[]byte  // of readBuffers, which rest is a part of; nil: rest came with the request, or is empty
	first [16]byte // what the generic path waits with: a silent peer's pong, or the beginning of more
	read  rawRead
	in    Traffic

	// Of the message that is being read, which has come in part.
	message  *[]byte // of messages; nil: nothing was kept of it
	opcode   byte    // 0: there is none
	deflated bool
	dropping bool // it was too large
}

// readBuffer is the size of the buffers that hold what was read from a socket; a silent connection has none.
const readBuffer = 4 << 10

var readBuffers = sync.Pool{New: func() any { b := make([]byte, readBuffer); return &b }}

// maxPooled is the largest message buffer that is kept.
const maxPooled = 64 << 10

var messages = sync.Pool{New: func() any { b := make([]byte, 0, readBuffer); return &b }}

// Start reads messages and hands them to the owner until the connection ends. It returns at once. It is called once.
func (c *Conn) Start() {
	c.pool.pings.add(c)
	c.mu.Lock()
	closing := c.closing
	c.mu.Unlock()
	if closing {
		c.pool.pings.expire(c, time.Now().Add(closeWait)) // it was closed before it could have a deadline
	}
	if c.pool.aborted.Load() {
		c.Abort()
	}
	go c.listen()
}

// listen is the reader's goroutine. It waits for the peer on a shallow stack and without a buffer, which is what makes a silent connection
// small. Handling a message makes the stack grow, and it hardly shrinks again: then another goroutine takes over, with a new one.
func (c *Conn) listen() {
	defer c.guard()
	for grown := false; !grown; {
		err := c.wait()
		if err == nil {
			grown, err = c.handle()
		}
		if err != nil {
			c.end(err)
			return
		}
	}
	go c.listen()
}

// guard is deferred: a panic ends the connection, as one connection's trouble must not end the server.
func (c *Conn) guard() {
	if r := recover(); r != nil {
		c.pool.panicked("websocket reader", r, c)
		c.end(nil)
	}
}

// end ends the connection from the reader's side: what is queued may still go out, for a while.
func (c *Conn) end(err error) {
	defer c.pool.recovered("end of websocket", c)
	var code int
	if closed, ok := errors.AsType[websocket.CloseError](err); ok {
		code = int(closed.Code)
	}
	if broken, ok := errors.AsType[ViolationError](err); ok {
		c.Close(broken.Code, "", nil, false)
	}
	c.discardRead()
	c.mu.Lock()
	c.closing, c.finished = true, true
	if !c.busy {
		c.kill()
	}
	dead := c.dead
	c.mu.Unlock()
	if !dead {
		c.pool.pings.expire(c, time.Now().Add(closeWait))
	}
	c.pool.pings.forget(c, dead)
	c.owner.Ended(code, err)
}

// discardRead gives up what was read and not used.
func (c *Conn) discardRead() {
	c.rest = nil
	c.recycle()
	c.forget()
}

// heard counts n bytes that were read.
func (c *Conn) heard(n int) {
	c.lastRead.Store(time.Now().UnixNano())
	c.in.Bytes += n
	c.pool.metrics.ReceivedBytes.Add(float64(n))
}

// wait returns when something was read that is not yet used.
func (c *Conn) wait() error {
	if len(c.rest) > 0 {
		return nil
	}
	if c.raw != nil {
		buf, n, err := c.read.take(c.raw)
		if err != nil {
			return err
		}
		if n == 0 {
			readBuffers.Put(buf)
			return io.EOF
		}
		c.buf, c.rest = buf, (*buf)[:n]
		c.heard(n)
		return nil
	}
	n, err := c.nc.Read(c.first[:])
	if n == 0 && err == nil {
		err = io.ErrNoProgress
	}
	if n == 0 {
		return err
	}
	c.buf = readBuffers.Get().(*[]byte)
	c.rest = append((*c.buf)[:0], c.first[:n]...)
	c.heard(n)
	return nil
}

// recycle gives the buffer back once all of it is used.
func (c *Conn) recycle() {
	if len(c.rest) > 0 {
		return
	}
	c.rest = nil
	if c.buf != nil {
		readBuffers.Put(c.buf)
		c.buf = nil
	}
}

// need reads until at least n bytes, at most readBuffer, are there and not yet used.
func (c *Conn) need(n int) error {
	if len(c.rest) >= n {
		return nil
	}
	if c.buf == nil {
		c.buf = readBuffers.Get().(*[]byte)
	}
	// To the front, where there is room behind it.
	c.rest = (*c.buf)[:copy(*c.buf, c.rest)]
	for len(c.rest) < n {
		got, err := c.more((*c.buf)[len(c.rest):])
		if err != nil {
			return err
		}
		c.rest = c.rest[:len(c.rest)+got]
	}
	return nil
}

// more reads into p, in the middle of a frame.
func (c *Conn) more(p []byte) (n int, err error) {
	if c.raw != nil {
		n, err = c.read.into(c.raw, p)
	} else if n, err = c.nc.Read(p); n > 0 {
		err = nil
	}
	switch {
	case err == nil && n == 0, errors.Is(err, io.EOF):
		return 0, io.ErrUnexpectedEOF
	case err != nil:
		return 0, err
	}
	c.heard(n)
	return n, nil
}

// handle handles what was read, and what is missing from the last frame in it. grown tells that the stack was used. It is kept out of
// listen's frame.
//
//go:noinline
func (c *Conn) handle() (grown bool, err error) {
	for len(c.rest) > 0 {
		h, err := c.header()
		if err != nil {
			return grown, err
		}
		if h.opcode&opControl != 0 {
			err = c.control(h)
		} else {
			grown = true
			err = c.data(h)
		}
		if err != nil {
			return grown, err
		}
	}
	c.recycle()
	return grown, nil
}

// header is that of a frame of the peer.
type header struct {
	fin, deflated bool
	opcode        byte
	mask          [4]byte
	length        uint64
}

// header reads and checks the header of a frame (RFC 6455, section 5.2).
func (c *Conn) header() (h header, err error) {
	if err := c.need(2); err != nil {
		return h, err
	}
	b0, b1 := c.rest[0], c.rest[1]
	h.fin, h.deflated, h.opcode = b0&0x80 != 0, b0&0x40 != 0, b0&opMask
	size := 2
	switch b1 & 0x7f {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	switch {
	case b1&0x80 == 0:
		return h, protocolError("frame is not masked")
	case b0&0x30 != 0, h.deflated && (!c.deflates || h.opcode != opText && h.opcode != opBinary):
		return h, protocolError("reserved bit is set")
	case h.opcode > opBinary && h.opcode < opClose || h.opcode > opPong:
		return h, protocolError("unknown opcode")
	case h.opcode&opControl != 0 && (!h.fin || size > 2):
		return h, protocolError("control frame is fragmented or too long")
	case h.opcode&opControl == 0 && (h.opcode == opContinuation) == (c.opcode == 0):
		return h, protocolError("message begins in the middle of another, or goes on without a beginning")
	}
	if err := c.need(size + len(h.mask)); err != nil {
		return h, err
	}
	switch size {
	case 2:
		h.length = uint64(b1 & 0x7f)
	case 4:
		h.length = uint64(binary.BigEndian.Uint16(c.rest[2:]))
	default:
		if h.length = binary.BigEndian.Uint64(c.rest[2:]); h.length>>63 != 0 {
			return h, protocolError("frame is too long")
		}
	}
	c.rest = c.rest[size+copy(h.mask[:], c.rest[size:]):]
	return h, nil
}

// control answers a ping or a close frame.
func (c *Conn) control(h header) error {
	n := int(h.length)
	if err := c.need(n); err != nil {
		return err
	}
	payload := c.rest[:n]
	c.rest = c.rest[n:]
	unmask(payload, h.mask)
	switch h.opcode {
	case opPing:
		// Queued like everything else, so a peer that pings and doesn't read can't block the reader.
		c.Send(&Frame{append([]byte{finPong, byte(n)}, payload...)}) // refused only when the connection is ending
	case opClose:
		return c.closed(payload)
	}
	return nil
}

// closed answers the peer's close frame unless one of ours was the first, and returns what it says.
func (c *Conn) closed(payload []byte) error {
	e := websocket.CloseError{Code: websocket.StatusNoStatusRcvd}
	answer := &Frame{[]byte{finClose, 0}}
	if len(payload) > 0 {
		if len(payload) < 2 {
			return protocolError("close frame of one byte")
		}
		e.Code = websocket.StatusCode(binary.BigEndian.Uint16(payload))
		e.Reason = string(payload[2:])
		if !mayBeSent(e.Code) {
			return protocolError(fmt.Sprintf("close code %d", e.Code))
		}
		if !utf8.ValidString(e.Reason) {
			return protocolError("reason of a close frame is not in UTF-8")
		}
		answer = closeFrame(int(e.Code), "")
	}
	c.mu.Lock()
	start := false
	if !c.closing && !c.dead {
		start = c.queue(answer)
		c.closing = true
	}
	c.mu.Unlock()
	if start {
		c.worker.push(c)
	}
	return e
}

// mayBeSent tells whether a close code may be in a frame (RFC 6455, section 7.4, and the registry that it made).
func mayBeSent(code websocket.StatusCode) bool {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014, code >= 3000 && code <= 4999:
		return true
	}
	return false
}

// data reads a frame of a message, and hands the message over when it is whole.
func (c *Conn) data(h header) error {
	if h.opcode != opContinuation {
		c.opcode, c.deflated = h.opcode, h.deflated
	}
	limit := 2 * c.limits.Load().MaxFrame
	kept := 0
	if c.message != nil {
		kept = len(*c.message)
	}
	switch {
	case c.dropping:
	case h.length > uint64(max(limit-kept, 0)):
		c.forget()
		c.dropping = true
		c.deliver(Message{TooLarge: true})
	case h.fin && c.message == nil && h.length <= readBuffer:
		// The usual case: nothing is copied.
		n := int(h.length)
		if err := c.need(n); err != nil {
			return err
		}
		payload := c.rest[:n]
		c.rest = c.rest[n:]
		unmask(payload, h.mask)
		return c.whole(payload, limit)
	default:
		if err := c.keep(int(h.length), h.mask); err != nil {
			return err
		}
		if h.fin {
			defer c.forget()
			return c.whole(*c.message, limit)
		}
		return nil
	}
	if err := c.skip(h.length); err != nil {
		return err
	}
	if h.fin {
		c.opcode, c.dropping = 0, false
	}
	return nil
}

// whole hands over a message, all of whose bytes are in b.
func (c *Conn) whole(b []byte, limit int) error {
	m := Message{Data: b, Binary: c.opcode == opBinary}
	c.opcode = 0
	if c.deflated {
		buf := messages.Get().(*[]byte)
		defer keepMessage(buf)
		var err error
		*buf, err = inflate(*buf, b, limit)
		switch {
		case errors.Is(err, errTooLarge):
			m = Message{TooLarge: true}
		case err != nil:
			return err
		default:
			m.Data = *buf
		}
	}
	c.deliver(m)
	return nil
}

func (c *Conn) deliver(m Message) {
	c.in.Messages++
	c.pool.metrics.Received.Inc()
	c.owner.Receive(m)
}

// keep reads n bytes of a frame behind what is kept of the message. It takes memory only for what has come.
func (c *Conn) keep(n int, mask [4]byte) error {
	if c.message == nil {
		c.message = messages.Get().(*[]byte)
	}
	b := *c.message
	start := len(b)
	end := start + n
	for len(b) < end {
		if len(c.rest) > 0 {
			part := c.rest[:min(len(c.rest), end-len(b))]
			b = append(b, part...)
			c.rest = c.rest[len(part):]
			continue
		}
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		got, err := c.more(b[len(b):min(cap(b), end)])
		if err != nil {
			return err
		}
		b = b[:len(b)+got]
	}
	*c.message = b
	unmask(b[start:], mask)
	return nil
}

// forget gives up what is kept of a message.
func (c *Conn) forget() {
	if c.message != nil {
		keepMessage(c.message)
		c.message = nil
	}
}

// keepMessage gives a buffer back to messages.
func keepMessage(buf *[]byte) {
	if cap(*buf) <= maxPooled {
		*buf = (*buf)[:0]
		messages.Put(buf)
	}
}

// skip reads n bytes and throws them away: closing with bytes unread would reset the connection before the peer has read why.
func (c *Conn) skip(n uint64) error {
	for {
		part := min(n, uint64(len(c.rest)))
		c.rest = c.rest[part:]
		if n -= part; n == 0 {
			return nil
		}
		if err := c.need(1); err != nil {
			return err
		}
	}
}

// unmask undoes a client's masking of a whole payload (RFC 6455, section 5.3).
func unmask(b []byte, mask [4]byte) {
	key := uint64(binary.LittleEndian.Uint32(mask[:]))
	key |= key << 32
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^key)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= mask[i&3]
	}
}

// ViolationError is how a peer has broken the protocol, and the code that it is closed with.
type ViolationError struct {
	Code int
	what string
}

func (v ViolationError) Error() string { return "websocket: " + v.what }

func protocolError(what string) error {
	return ViolationError{int(websocket.StatusProtocolError), what}
}
