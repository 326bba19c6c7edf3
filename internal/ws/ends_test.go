package ws

import (
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/metrics"
)

// TestEveryConnectionEndsOnce has connections written to, closed and cut from all sides while their peers come, talk, stall and vanish. Then
// the pool is closed over those that are left. Each must have ended, once, and none may be waiting for a writer.
func TestEveryConnectionEndsOnce(t *testing.T) {
	eachPath(t, func(t *testing.T, secure bool) {
		s := newServer(t, secure, func(_ *Pool, l *Limits) {
			l.SendQueue, l.WriteTimeout, l.Compression = 64<<10, 100*time.Millisecond, true
		})
		var mu sync.Mutex
		var peers []*peer
		open := func() (some []*peer) {
			mu.Lock()
			defer mu.Unlock()
			for range 20 {
				if len(peers) > 0 {
					some = append(some, peers[rand.IntN(len(peers))])
				}
			}
			return some
		}
		stop := make(chan struct{})
		var busy, clients sync.WaitGroup
		forever := func(do func()) {
			busy.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						do()
						time.Sleep(100 * time.Microsecond) // the clients need the processor, too
					}
				}
			})
		}
		forever(func() { s.pool.SetPingInterval(time.Duration(1+rand.IntN(1000)) * time.Millisecond) })
		forever(func() { s.pool.Waiting() })
		for range 2 {
			forever(func() {
				b, m := s.pool.Batch(), Shared{Plain: text(strings.Repeat("x", rand.IntN(20_000)))}
				for range rand.IntN(3) {
					for _, p := range open() {
						b.Send(p.Conn, m.For(p.Conn))
					}
				}
				b.End()
			})
		}
		forever(func() {
			for _, p := range open() {
				switch rand.IntN(40) {
				case 0:
					p.Abort()
				case 1:
					p.Close(4200, "bye", text("bye"), rand.IntN(2) == 0)
				default:
					p.Send(text("hello"))
				}
			}
		})
		for range 80 {
			c, p := s.raw(t, net.Dialer{}, secure)
			mu.Lock()
			peers = append(peers, p)
			mu.Unlock()
			clients.Go(func() {
				go func() {
					for range p.messages {
					}
				}()
				for range rand.IntN(20) {
					_ = c.SetDeadline(time.Now().Add(5 * time.Millisecond))
					switch rand.IntN(4) {
					case 0:
						_, _ = c.Write(frameOf(finPing, []byte("x")))
					case 1:
						_, _ = c.Write(frameOf(opText, []byte("half"))[:1+rand.IntN(9)])
					default:
						_, _ = io.CopyN(io.Discard, c, 10_000)
					}
				}
				switch under := c; rand.IntN(5) {
				case 0, 1:
					if secure {
						under = c.(*tls.Conn).NetConn()
					}
					_ = under.(*net.TCPConn).SetLinger(0)
					_ = under.Close()
				case 2:
					_, _ = c.Write(frameOf(finClose, nil))
				}
			})
		}
		clients.Wait()
		closed := make(chan struct{})
		go func() { defer close(closed); s.pool.Close() }()
		for i, p := range peers {
			within(t, p.ended, fmt.Sprint("end of connection ", i))
		}
		within(t, closed, "end of the pool")
		close(stop)
		busy.Wait()
		for i, p := range peers {
			p.mu.Lock()
			if !p.dead || p.busy || len(p.pending) > 0 {
				t.Errorf("connection %d is left: dead %v, busy %v, %d frames", i, p.dead, p.busy, len(p.pending))
			}
			p.mu.Unlock()
			if len(p.ended) > 0 {
				t.Errorf("connection %d ended again", i)
			}
			close(p.messages)
		}
		s.pool = newPool(nil, s.pool.metrics, time.Hour) // for the server's end to close
	})
}

// TestAConnectionThatStartsWhileThePoolClosesEnds starts connections of peers that say nothing.
func TestAConnectionThatStartsWhileThePoolClosesEnds(t *testing.T) {
	var limits atomic.Pointer[Limits]
	limits.Store(&Limits{MaxFrame: 100, SendQueue: 1000, WriteTimeout: time.Second})
	m := metrics.New("test")
	for range 300 {
		pool := NewPool(nil, m, time.Hour)
		var ended []chan struct{}
		for i := range 100 {
			nc, end := &silence{closed: make(chan struct{})}, make(chan struct{})
			ended = append(ended, end)
			c := &Conn{pool: pool, owner: toldEnd{ended: end}, worker: pool.workers[0], limits: &limits, nc: nc, socket: nc, slot: -1}
			if i == 50 {
				go pool.Close()
			}
			go c.Start()
		}
		for _, end := range ended {
			within(t, end, "end of a connection")
		}
	}
}

// silence is a connection on which nothing comes.
type silence struct {
	net.Conn
	closed chan struct{}
}

func (s *silence) Read([]byte) (int, error) {
	<-s.closed
	return 0, net.ErrClosed
}

func (s *silence) Close() error {
	close(s.closed) // called once
	return nil
}

// toldEnd is an owner that tells its end.
type toldEnd struct {
	mute
	ended chan struct{}
}

func (o toldEnd) Ended(int, error) { close(o.ended) }

// fragile is an owner that panics.
type fragile struct {
	mute
	ended chan error
}

func (fragile) Receive(Message) { panic("in Receive") }

func (o fragile) Ended(_ int, err error) {
	o.ended <- err
	panic("in Ended")
}

// TestAPanicEndsOneConnectionOnce has the owner panic wherever the reader calls it.
func TestAPanicEndsOneConnectionOnce(t *testing.T) {
	pool := NewPool(zap.NewNop(), metrics.New("test"), time.Hour)
	defer pool.Close()
	var limits atomic.Pointer[Limits]
	limits.Store(&Limits{MaxFrame: 1000, SendQueue: 1 << 20, WriteTimeout: time.Second})
	for name, input := range map[string][]byte{
		"whole":      frameOf(finText, []byte("a")),
		"fragments":  append(frameOf(opText, []byte("a")), frameOf(0x80, []byte("b"))...),
		"compressed": frameOf(finText|deflated, deflate(text(strings.Repeat("a", 600))).Payload()),
		"too large":  frameOf(finText, make([]byte, 3000)),
		"none":       frameOf(finPing, nil), // only the end
	} {
		t.Run(name, func(t *testing.T) {
			o := fragile{ended: make(chan error, 10)}
			nc := &script{rest: append(input, frameOf(finText, []byte("next"))...), step: func() int { return 1 << 20 }}
			c := &Conn{pool: pool, owner: o, worker: pool.workers[0], limits: &limits, nc: nc, socket: nc, slot: -1, deflates: true}
			c.Start()
			if err := within(t, o.ended, "end"); err != nil {
				t.Errorf("ended with %v", err)
			}
			if len(pool.pings.all()) != 0 {
				t.Error("the connection is not forgotten")
			}
			if len(o.ended) > 0 {
				t.Error("ended again")
			}
		})
	}
}
