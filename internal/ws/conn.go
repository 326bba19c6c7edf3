// Package ws is what lies between a socket and the rooms. coder/websocket does the handshake; frames are read and written here: a silent
// connection then holds no buffer, and one frame can go to many.
package ws

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Limits bound a connection. They are shared by many connections and may be swapped while these are open.
type Limits struct {
	MaxFrame     int           // bytes of a message; one over twice that ends the connection
	SendQueue    int           // bytes that may wait for the peer
	WriteTimeout time.Duration // how long a stalled peer is waited for
	Compression  bool          // new connections may negotiate permessage-deflate
}

// Owner is whose connection it is. Silent and Slow should close the connection; they must not block.
type Owner interface {
	// Receive is called, from the connection's reader, with one message after the other. After Close it may still be called, until the
	// peer has answered.
	Receive(Message)
	// Ended is called once, as the last thing that the reader does. code is the close code that the peer has sent, or 0. err is a
	// websocket.CloseError, a ViolationError, what the network has said, or, after a panic, nil.
	Ended(code int, err error)
	// Silent is called, from the pool's pinger, when the peer has not answered a ping in time.
	Silent()
	// Slow is called once, from whoever sends, when the send queue is full.
	Slow()
}

// Conn is one accepted WebSocket.
type Conn struct {
	// What a delivery needs comes first, and in so few cache lines as can be: those of many connections are cold each time.

	mu         sync.Mutex
	partial    bool     // the first of what is taken or pending is the rest of a frame that is partly out; guarded by mu
	taken      bool     // a writer has taken frames and has not accounted for them yet; guarded by mu
	busy       bool     // the write side is owned by a worker or a drain; guarded by mu
	closing    bool     // a close frame is queued: nothing more may be; guarded by mu
	finished   bool     // the reader is gone: close the socket once nothing is pending; guarded by mu
	dead       bool     // the socket is closed; guarded by mu
	overflowed bool     // the owner was told that the queue is full; guarded by mu
	deflates   bool     // permessage-deflate was negotiated; never changes
	bytes      int      // of pending and of what a writer has taken; guarded by mu
	pending    []*Frame // guarded by mu

	raw    syscall.RawConn // nil: reads and writes take the generic path
	worker *worker
	out    Traffic   // guarded by mu
	few    [2]*Frame // where pending begins; guarded by mu

	pool   *Pool
	limits *atomic.Pointer[Limits]
	owner  Owner
	nc     net.Conn
	socket net.Conn        // what lies under nc: with TLS, the TCP connection
	under  syscall.RawConn // with TLS, the TCP connection's; nil: nothing is known of it, or it can't be believed

	reader // set before Start, then owned by its goroutine

	lastRead atomic.Int64 // Unix nanoseconds

	// Guarded by pinger.mu.
	bucket, slot int
}

// Traffic is what has gone one way over a connection.
type Traffic struct {
	Messages int
	Bytes    int // of frames, without TLS
}

// Traffic returns what the peer has sent and what was sent to it. It is for Owner.Ended.
func (c *Conn) Traffic() (in, out Traffic) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.in, c.out
}
