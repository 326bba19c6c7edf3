// Package ws is what lies between a socket and the rooms: it accepts WebSockets, reads messages with
// coder/websocket, and has a write path of its own, made for one frame that goes to many.
package ws

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

// Limits bound a connection. They are shared by many connections and may be swapped while these are open.
type Limits struct {
	MaxFrame     int           // bytes of a message; one over twice that ends the connection
	SendQueue    int           // bytes that may wait for the peer
	WriteTimeout time.Duration // how long a stalled peer is waited for
}

// Owner is whose connection it is. Its methods should close the connection; they must not block.
type Owner interface {
	// Silent is called, from the pool's pinger, when the peer has not answered a ping in time.
	Silent()
	// Slow is called once, from whoever sends, when the send queue is full.
	Slow()
}

// Conn is one accepted WebSocket.
type Conn struct {
	pool   *Pool
	owner  Owner
	worker *worker
	limits *atomic.Pointer[Limits]
	nc     net.Conn
	socket net.Conn        // what lies under nc: with TLS, the TCP connection
	raw    syscall.RawConn // nil: reads and writes take the generic path
	peer   *websocket.Conn // reads, and answers control frames

	// Set before ReadLoop, then owned by its goroutine.
	br    *bufio.Reader
	ahead *[]byte // bytes read from the socket and not yet wanted; nil when there are none
	rest  []byte  // the unread part of ahead
	read  rawRead
	in    Traffic

	lastRead atomic.Int64 // Unix nanoseconds

	mu       sync.Mutex
	pending  []Frame // guarded by mu, as all below
	bytes    int     // of pending and of what a writer has taken
	partial  bool    // the first of what is taken or pending is the rest of a frame that is partly out
	taken    bool    // a writer has taken frames and has not accounted for them yet
	busy     bool    // the write side is owned by a worker or a drain
	closing  bool    // a close frame is queued: nothing more may be
	finished bool    // the reader is gone: close the socket once nothing is pending
	dead     bool    // the socket is closed
	out      Traffic

	overflowed bool // the owner was told that the queue is full

	// Guarded by pinger.mu.
	bucket, slot int
}

// Traffic is what has gone one way over a connection.
type Traffic struct {
	Messages int
	Bytes    int // of frames, without TLS
}

// Traffic returns what the peer has sent and what was sent to it. It is called by whoever called ReadLoop, after that has returned.
func (c *Conn) Traffic() (in, out Traffic) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.in, c.out
}

// heard counts n bytes that were read.
func (c *Conn) heard(n int) {
	c.lastRead.Store(time.Now().UnixNano())
	c.in.Bytes += n
	c.pool.metrics.ReceivedBytes.Add(float64(n))
}

// Buffers of coder/websocket. Ours is the real read buffer on the raw path, so the library's may be as small as bufio has them.
// Its write buffer must hold a whole control frame (at most 129 bytes), so that one arrives in one call.
const (
	rawReadBuffer   = 16
	plainReadBuffer = 512
	writeBuffer     = 160
)

// readBuffer is the size of the buffers that hold what was read from a socket; a silent connection has none.
const readBuffer = 4 << 10

var readBuffers = sync.Pool{New: func() any { b := make([]byte, readBuffer); return &b }}

// Accept answers the upgrade request r with 101 and takes the connection over. The caller has checked everything
// about the request that it wants to refuse in its own words, the origin too. After an error the response is written.
// subprotocol is chosen if the client offered it.
func (p *Pool) Accept(w http.ResponseWriter, r *http.Request, subprotocol string, limits *atomic.Pointer[Limits], owner Owner) (*Conn, error) {
	c := &Conn{pool: p, limits: limits, owner: owner, slot: -1}
	c.worker = p.workers[int(p.next.Add(1))%len(p.workers)]
	peer, err := websocket.Accept(&takeover{ResponseWriter: w, c: c}, r, &websocket.AcceptOptions{
		Subprotocols:       []string{subprotocol},
		InsecureSkipVerify: true, // the origin was checked
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		return nil, err
	}
	// A message over twice the limit is refused with a code of the protocol, which the library doesn't know.
	peer.SetReadLimit(-1)
	c.peer = peer
	return c, nil
}

// takeover gives coder/websocket a connection with our read and write path.
type takeover struct {
	http.ResponseWriter
	c *Conn
}

// Hijack takes the connection from the innermost writer: those around it, such as the one that counts bytes for the access log, would
// keep the request alive and hide the socket. The status still goes through all of them.
func (t *takeover) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w := t.ResponseWriter
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = u.Unwrap()
	}
	h, ok := w.(http.Hijacker)
	if !ok {
		return nil, nil, http.ErrNotSupported
	}
	nc, brw, err := h.Hijack()
	if err != nil {
		return nil, nil, err
	}
	c := t.c
	c.nc, c.socket = nc, nc
	if secure, ok := nc.(interface{ NetConn() net.Conn }); ok {
		c.socket = secure.NetConn()
	}
	if raw := rawConn(c.socket); c.socket == nc {
		c.raw = raw
	}
	// A client may have sent its first frames right behind the request.
	early, _ := brw.Peek(brw.Reader.Buffered()) // they are buffered
	c.rest = append([]byte(nil), early...)
	c.heard(len(early)) // also if it is nothing: silence counts from here
	size := plainReadBuffer
	if c.raw != nil {
		size = rawReadBuffer
	}
	c.br = bufio.NewReaderSize((*transport)(c), size)
	return (*transport)(c), bufio.NewReadWriter(c.br, bufio.NewWriterSize((*transport)(c), writeBuffer)), nil
}

// Message is one message of the peer. Data is valid until the function that it was given to returns.
type Message struct {
	Data   []byte
	Binary bool
	// TooLarge tells that the message is over twice the limit; Data is nil, and the rest is read and thrown away.
	TooLarge bool
}

// ReadLoop reads messages and hands them to handle until the connection ends, then closes it. It returns the
// close code that the peer sent, or 0, and why the loop ended. After Close it goes on until the peer has answered, so handle
// may still be called. One goroutine calls it, once.
func (c *Conn) ReadLoop(handle func(Message)) (code int, err error) {
	defer c.finish()
	c.watch()
	for {
		// Waiting here, on a shallow stack and without a buffer, is what makes a silent connection small.
		if c.raw != nil && len(c.rest) == 0 && c.br.Buffered() == 0 {
			if err = c.fill(); err != nil {
				return 0, err
			}
		}
		if err = c.message(handle); err != nil {
			if code = int(websocket.CloseStatus(err)); code > 0 {
				return code, err
			}
			// The library tells the peer of some violations, not of all. On a broken connection this goes nowhere.
			c.Close(int(websocket.StatusProtocolError), "", nil, false)
			return 0, err
		}
	}
}

// watch puts the connection under the pinger's eyes, and its deadline too if it was closed before it was read from.
func (c *Conn) watch() {
	c.pool.pings.add(c)
	c.mu.Lock()
	closing := c.closing
	c.mu.Unlock()
	if closing {
		c.pool.pings.expire(c, time.Now().Add(closeWait))
	}
	select {
	case <-c.pool.stop:
		c.Abort() // too late for the pool to do it
	default:
	}
}

// message reads one message. It is kept out of ReadLoop so that its stack is gone while that waits.
//
//go:noinline
func (c *Conn) message(handle func(Message)) error {
	kind, r, err := c.peer.Reader(context.Background())
	if err != nil {
		return err
	}
	buf := messages.Get().(*[]byte)
	defer func() {
		if cap(*buf) <= maxPooled {
			messages.Put(buf)
		}
	}()
	c.in.Messages++
	c.pool.metrics.Received.Inc()
	limit := 2 * c.limits.Load().MaxFrame
	b := (*buf)[:0]
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		*buf = b
		if len(b) > limit {
			handle(Message{TooLarge: true})
			// Closing with bytes unread would reset the connection before the peer has read why.
			_, err = io.Copy(io.Discard, r)
			return err
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	handle(Message{Data: b, Binary: kind == websocket.MessageBinary})
	return nil
}

// maxPooled is the largest message buffer that is kept.
const maxPooled = 64 << 10

var messages = sync.Pool{New: func() any { b := make([]byte, 0, readBuffer); return &b }}

// fill waits for the peer and reads what it has sent into a pooled buffer.
func (c *Conn) fill() error {
	buf, n, err := c.read.do(c.raw)
	if err != nil {
		return err
	}
	if n == 0 {
		readBuffers.Put(buf)
		return io.EOF
	}
	c.ahead, c.rest = buf, (*buf)[:n]
	c.heard(n)
	return nil
}

// finish ends the connection from the reader's side: what is queued may still go out, for a while.
func (c *Conn) finish() {
	c.mu.Lock()
	c.closing, c.finished = true, true
	if !c.busy {
		c.kill()
	}
	dead := c.dead
	c.mu.Unlock()
	_ = c.peer.CloseNow() // frees what the library holds; the socket is ours
	if !dead {
		c.pool.pings.expire(c, time.Now().Add(closeWait))
	}
	c.pool.pings.forget(c, dead)
}
