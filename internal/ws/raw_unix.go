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
	fn  func(fd uintptr) bool
}

func (w *rawWrite) do(raw syscall.RawConn, p []byte) (int, error) {
	if w.fn == nil {
		w.fn = func(fd uintptr) bool {
			for {
				w.n, w.err = syscall.Write(int(fd), w.p)
				if !errors.Is(w.err, syscall.EINTR) {
					return true
				}
			}
		}
	}
	w.p, w.n, w.err = p, 0, nil
	err := raw.Write(w.fn)
	w.p = nil
	if err == nil {
		err = w.err
	}
	if errors.Is(err, syscall.EAGAIN) {
		err = nil
	}
	return max(w.n, 0), err
}

// rawRead waits until the peer has sent something and reads it into a buffer that it takes only then.
type rawRead struct {
	buf *[]byte
	n   int
	err error
	fn  func(fd uintptr) bool
}

func (r *rawRead) do(raw syscall.RawConn) (*[]byte, int, error) {
	if r.fn == nil {
		r.fn = func(fd uintptr) bool {
			buf := readBuffers.Get().(*[]byte)
			for {
				r.n, r.err = syscall.Read(int(fd), *buf)
				if !errors.Is(r.err, syscall.EINTR) {
					break
				}
			}
			if r.err != nil {
				readBuffers.Put(buf)
				return !errors.Is(r.err, syscall.EAGAIN)
			}
			r.buf = buf
			return true
		}
	}
	r.buf, r.n, r.err = nil, 0, nil
	err := raw.Read(r.fn)
	if err == nil {
		err = r.err
	}
	buf := r.buf
	r.buf = nil
	return buf, r.n, err
}
