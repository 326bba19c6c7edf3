package ws

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/caddyrooms/caddy-rooms/internal/metrics"
)

// stuck is a connection whose writes wait until it is closed, whatever its socket says.
type stuck struct {
	net.Conn
	once    sync.Once
	writing chan struct{}
	closed  chan struct{}
}

func (s *stuck) Write([]byte) (int, error) {
	close(s.writing)
	<-s.closed
	return 0, net.ErrClosed
}

func (s *stuck) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.Conn.Close()
}

// TestAWorkerIsNotHeldUpForLong has a write wait for which the socket seemed ready. It is cut off, and the others go on.
func TestAWorkerIsNotHeldUpForLong(t *testing.T) {
	pool := newPool(zaptest.NewLogger(t), metrics.New("test"), time.Hour)
	pool.workers = pool.workers[:1]
	pool.start()
	defer pool.Close()
	var limits atomic.Pointer[Limits]
	limits.Store(&Limits{MaxFrame: 1 << 10, SendQueue: 1 << 20, WriteTimeout: time.Hour})
	conn := func(wrap func(net.Conn) net.Conn) (*Conn, net.Conn) {
		here, there := tcpPair(t)
		t.Cleanup(func() { _ = here.Close(); _ = there.Close() })
		nc := wrap(here)
		return &Conn{pool: pool, owner: mute{}, worker: pool.workers[0], limits: &limits, nc: nc, socket: nc, under: rawConn(here), slot: -1}, there
	}
	held := &stuck{writing: make(chan struct{}), closed: make(chan struct{})}
	bad, _ := conn(func(c net.Conn) net.Conn { held.Conn = c; return held })
	good, peer := conn(func(c net.Conn) net.Conn { return c })
	bad.Send(text("never"))
	<-held.writing
	good.Send(text("ok"))
	_ = peer.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 10)
	if n, err := peer.Read(b); err != nil || string(b[2:n]) != "ok" {
		t.Errorf("read %q, %v", b[:n], err)
	}
}

// TestAPeerThatTakesOnlyCrumbsIsNotWrittenToByAWorker has peers to which a write may wait though their socket is ready.
func TestAPeerThatTakesOnlyCrumbsIsNotWrittenToByAWorker(t *testing.T) {
	s := newServer(t, true, nil)
	for name, c := range map[string]struct {
		level, option, value int
		believed             bool
	}{
		"ordinary":       {syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1, true},
		"small segments": {syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 300, false},
		"small window":   {syscall.SOL_SOCKET, syscall.SO_RCVBUF, 2048, false},
	} {
		t.Run(name, func(t *testing.T) {
			_, p := s.raw(t, net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
				if failed := raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), c.level, c.option, c.value) }); failed != nil {
					return failed
				}
				return err
			}}, true)
			if believed := p.under != nil; believed != c.believed {
				t.Errorf("its socket is believed: %v", believed)
			}
		})
	}
}
