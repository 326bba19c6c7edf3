//go:build unix

package ws

import (
	"errors"
	"net"
	"syscall"
)

// rawConn returns the means to read and write without blocking and without a buffer, or nil where c has none. It bounds what the
// kernel takes for a client that does not read.
func rawConn(c net.Conn) syscall.RawConn {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return nil
	}
	_ = raw.Control(limitUnsent) // a refusal costs memory with stalled clients, nothing else
	return raw
}

// rawWrite writes once and never waits. It belongs to one goroutine; its closure is made once.
type rawWrite struct {
	p   []byte
	n   int
	err error
	fn  func(fd uintptr)
}

// do goes through Control, as Write would prepare for waiting each time.
func (w *rawWrite) do(raw syscall.RawConn, p []byte) (int, error) {
	if w.fn == nil {
		w.fn = w.try
	}
	w.p, w.n, w.err = p, 0, nil
	err := raw.Control(w.fn)
	w.p = nil
	if err == nil {
		err = w.err
	}
	if errors.Is(err, syscall.EAGAIN) {
		err = nil
	}
	return max(w.n, 0), err
}

func (w *rawWrite) try(fd uintptr) {
	for {
		w.n, w.err = syscall.Write(int(fd), w.p)
		if !errors.Is(w.err, syscall.EINTR) {
			return
		}
	}
}

// rawPoll tells whether a connection takes a write of takenAtOnce bytes. It belongs to one goroutine.
type rawPoll struct {
	ready bool
	fn    func(fd uintptr)
}

func (p *rawPoll) do(raw syscall.RawConn) bool {
	if p.fn == nil {
		p.fn = func(fd uintptr) { p.ready = writable(fd) }
	}
	p.ready = false
	return raw.Control(p.fn) == nil && p.ready
}

// rawRead waits until the peer has sent something and reads it.
type rawRead struct {
	p   []byte  // to read into; nil: into a buffer of readBuffers that is taken when there is something
	buf *[]byte // that buffer
	n   int
	err error
	fn  func(fd uintptr) bool
}

// take reads into a buffer that it takes only when the peer has sent something. n is 0 at the end.
func (r *rawRead) take(raw syscall.RawConn) (buf *[]byte, n int, err error) {
	n, err = r.do(raw, nil)
	buf, r.buf = r.buf, nil
	return buf, n, err
}

// into reads into p. n is 0 at the end.
func (r *rawRead) into(raw syscall.RawConn, p []byte) (n int, err error) {
	n, err = r.do(raw, p)
	r.p = nil
	return n, err
}

func (r *rawRead) do(raw syscall.RawConn, p []byte) (int, error) {
	if r.fn == nil {
		r.fn = r.try
	}
	r.p, r.buf, r.n, r.err = p, nil, 0, nil
	if err := raw.Read(r.fn); err != nil {
		return 0, err
	}
	return r.n, r.err
}

// try reads once and tells whether there was something to read.
func (r *rawRead) try(fd uintptr) bool {
	p := r.p
	if p == nil {
		r.buf = readBuffers.Get().(*[]byte)
		p = *r.buf
	}
	for {
		r.n, r.err = syscall.Read(int(fd), p)
		if !errors.Is(r.err, syscall.EINTR) {
			break
		}
	}
	if r.err == nil {
		return true
	}
	if r.buf != nil {
		readBuffers.Put(r.buf)
		r.buf = nil
	}
	return !errors.Is(r.err, syscall.EAGAIN)
}
