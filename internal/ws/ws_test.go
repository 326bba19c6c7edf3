package ws

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/caddyrooms/caddy-rooms/internal/metrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer is the server's side of one connection.
type peer struct {
	*Conn
	server   *server
	messages chan string
	silent   chan struct{}
	slow     chan struct{}
	ended    chan int // the peer's close code
}

func (p *peer) Receive(m Message) {
	switch {
	case m.TooLarge:
		p.Close(4004, "too large", nil, false)
	case string(m.Data) == "stop":
	default:
		p.messages <- string(m.Data)
	}
}

func (p *peer) Ended(code int, _ error) {
	p.ended <- code
	p.server.ended.Done()
}

func (p *peer) Silent() { close(p.silent); p.Close(4202, "silent", nil, true) }
func (p *peer) Slow()   { close(p.slow); go p.Close(4201, "slow", nil, true) }

// server accepts WebSockets and hands them out.
type server struct {
	*httptest.Server
	pool  *Pool
	peers chan *peer
	limit atomic.Pointer[Limits]
	ended sync.WaitGroup
}

func newServer(t *testing.T, secure bool, configure func(*Pool, *Limits)) *server {
	t.Helper()
	s := &server{pool: newPool(zaptest.NewLogger(t), metrics.New("test"), 25*time.Second), peers: make(chan *peer, 100)}
	limits := &Limits{MaxFrame: 1 << 10, SendQueue: 1 << 20, WriteTimeout: 10 * time.Second}
	if configure != nil {
		configure(s.pool, limits)
	}
	s.pool.start()
	s.limit.Store(limits)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := &peer{server: s, messages: make(chan string, 100), silent: make(chan struct{}), slow: make(chan struct{}), ended: make(chan int, 1)}
		c, err := s.pool.Accept(w, r, "test.v1", &s.limit, p)
		if err != nil {
			t.Errorf("accepting: %v", err)
			return
		}
		p.Conn = c
		s.ended.Add(1)
		s.peers <- p
		c.Start()
	})
	if secure {
		s.Server = httptest.NewTLSServer(handler)
	} else {
		s.Server = httptest.NewServer(handler)
	}
	t.Cleanup(func() {
		s.Server.Close()
		s.pool.Close()
		s.ended.Wait()
	})
	return s
}

func (s *server) dial(t *testing.T) (*websocket.Conn, *peer) {
	t.Helper()
	c, _, err := websocket.Dial(t.Context(), s.URL, &websocket.DialOptions{HTTPClient: s.Client(), Subprotocols: []string{"test.v1"}})
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(-1)
	t.Cleanup(func() { _ = c.CloseNow() })
	return c, <-s.peers
}

func text(s string) *Frame { return Text(append(Buffer(len(s)), s...)) }

func read(t *testing.T, c *websocket.Conn) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, b, err := c.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// within waits for ch, generously.
func within[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("%s did not happen", what)
		panic("unreachable")
	}
}

// eachPath runs f over plain TCP, where writes never block, and TLS, which takes the generic path.
func eachPath(t *testing.T, f func(t *testing.T, secure bool)) {
	t.Run("plain", func(t *testing.T) { f(t, false) })
	t.Run("tls", func(t *testing.T) { f(t, true) })
}

func TestFramesOfAllSizesArriveInOrder(t *testing.T) {
	eachPath(t, func(t *testing.T, secure bool) {
		c, p := newServer(t, secure, nil).dial(t)
		sizes := []int{0, 1, 125, 126, 127, 4096, 65535, 65536, 200_000}
		go func() {
			for i, size := range sizes {
				p.Send(text(strings.Repeat(string(rune('a'+i)), size)))
			}
		}()
		for i, size := range sizes {
			if got := read(t, c); got != strings.Repeat(string(rune('a'+i)), size) {
				t.Fatalf("message %d has %d bytes, want %d", i, len(got), size)
			}
		}
		for i := range 2000 {
			p.Send(text(fmt.Sprint(i)))
		}
		for i := range 2000 {
			if got := read(t, c); got != fmt.Sprint(i) {
				t.Fatalf("got %s, want %d", got, i)
			}
		}
	})
}

func TestMessagesAreRead(t *testing.T) {
	eachPath(t, func(t *testing.T, secure bool) {
		c, p := newServer(t, secure, nil).dial(t)
		for _, m := range []string{"", "a", strings.Repeat("b", 1024), strings.Repeat("c", 2048)} {
			if err := c.Write(t.Context(), websocket.MessageText, []byte(m)); err != nil {
				t.Fatal(err)
			}
			if got := within(t, p.messages, "message"); got != m {
				t.Fatalf("got %d bytes, want %d", len(got), len(m))
			}
		}
	})
}

func TestPingsOfThePeerAreAnswered(t *testing.T) {
	eachPath(t, func(t *testing.T, secure bool) {
		c, _ := newServer(t, secure, nil).dial(t)
		ctx := c.CloseRead(t.Context())
		for range 3 {
			if err := c.Ping(ctx); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestClose(t *testing.T) {
	eachPath(t, func(t *testing.T, secure bool) {
		c, p := newServer(t, secure, nil).dial(t)
		p.Send(text("before"))
		p.Close(4200, "4200;5", text("bye"), false)
		p.Close(4001, "later", text("later"), false)
		if p.Send(text("after")) {
			t.Error("a frame was taken after the close frame")
		}
		if got := read(t, c) + read(t, c); got != "beforebye" {
			t.Errorf("got %q", got)
		}
		_, _, err := c.Read(t.Context())
		var ce websocket.CloseError
		if !errors.As(err, &ce) || ce.Code != 4200 || ce.Reason != "4200;5" {
			t.Errorf("closed with %v", err)
		}
		if code := within(t, p.ended, "end of the reader"); code != 4200 {
			t.Errorf("the peer answered %d", code)
		}
	})
}

func TestPeerCloses(t *testing.T) {
	eachPath(t, func(t *testing.T, secure bool) {
		c, p := newServer(t, secure, nil).dial(t)
		if err := c.Close(1001, "going"); err != nil {
			t.Errorf("no answer to the close frame: %v", err)
		}
		if code := within(t, p.ended, "end of the reader"); code != 1001 {
			t.Errorf("code = %d, want 1001", code)
		}
	})
}

func TestMessageOverTwiceTheLimit(t *testing.T) {
	eachPath(t, func(t *testing.T, secure bool) {
		c, p := newServer(t, secure, nil).dial(t)
		go func() {
			_ = c.Write(t.Context(), websocket.MessageText, make([]byte, 1<<20))
		}()
		_, _, err := c.Read(t.Context())
		if code := websocket.CloseStatus(err); code != 4004 {
			t.Errorf("closed with %v, want 4004", err)
		}
		within(t, p.ended, "end of the reader")
	})
}

func TestSlowConsumerHurtsNobodyElse(t *testing.T) {
	eachPath(t, func(t *testing.T, secure bool) {
		s := newServer(t, secure, func(_ *Pool, l *Limits) { l.SendQueue = 256 << 10 })
		_, stalled := s.dial(t) // never reads
		c, good := s.dial(t)
		f := text(strings.Repeat("x", 8<<10))
		for i := 0; ; i++ {
			stalled.Send(f)
			good.Send(f)
			read(t, c)
			select {
			case <-stalled.slow:
			default:
				if i > 10_000 {
					t.Fatal("80 MB were taken for a client that does not read")
				}
				continue
			}
			break
		}
		stalled.mu.Lock()
		if stalled.bytes > 256<<10 {
			t.Errorf("%d bytes are queued, over the bound", stalled.bytes)
		}
		stalled.mu.Unlock()
		good.Send(text("still here"))
		if got := read(t, c); got != "still here" {
			t.Errorf("got %q", got)
		}
	})
}

func TestWriteTimeoutEndsAStalledConnection(t *testing.T) {
	eachPath(t, func(t *testing.T, secure bool) {
		s := newServer(t, secure, func(_ *Pool, l *Limits) { l.WriteTimeout = 50 * time.Millisecond; l.SendQueue = 64 << 20 })
		_, p := s.dial(t) // never reads
		f := text(strings.Repeat("x", 64<<10))
		for range 200 {
			p.Send(f)
		}
		within(t, p.ended, "end of the stalled connection")
	})
}

// upgrade makes a raw connection that does only what the test says.
func (s *server) upgrade(t *testing.T, more []byte) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	request := "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	if _, err := c.Write(append([]byte(request), more...)); err != nil {
		t.Fatal(err)
	}
	var head []byte
	for b := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); head = append(head, b...) {
		if _, err := c.Read(b); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// masked is a client's text frame with an all-zero mask.
func masked(s string) []byte { return append([]byte{0x81, 0x80 | byte(len(s)), 0, 0, 0, 0}, s...) }

func TestFramesBehindTheRequestAreNotLost(t *testing.T) {
	s := newServer(t, false, nil)
	s.upgrade(t, append(masked("one"), masked("two")...))
	p := <-s.peers
	if got := within(t, p.messages, "message") + within(t, p.messages, "message"); got != "onetwo" {
		t.Errorf("got %q", got)
	}
}

func TestProtocolViolationsAreClosed(t *testing.T) {
	for name, frame := range map[string][]byte{
		"unmasked":             {0x81, 0x01, 'a'},
		"reserved bit":         {0xc1, 0x80, 0, 0, 0, 0},
		"unknown opcode":       {0x83, 0x80, 0, 0, 0, 0},
		"stray continuation":   {0x80, 0x80, 0, 0, 0, 0},
		"fragmented ping":      {0x09, 0x80, 0, 0, 0, 0},
		"ping of 200 bytes":    append([]byte{0x89, 0xfe, 0, 200, 0, 0, 0, 0}, make([]byte, 200)...),
		"close of one byte":    {0x88, 0x81, 0, 0, 0, 0, 1},
		"close with code 1005": {0x88, 0x82, 0, 0, 0, 0, 0x03, 0xed},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, false, nil)
			c := s.upgrade(t, nil)
			p := <-s.peers
			if _, err := c.Write(frame); err != nil {
				t.Fatal(err)
			}
			within(t, p.ended, "end of the reader")
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
			got, err := io.ReadAll(c)
			if err != nil && !errors.Is(err, io.EOF) {
				t.Fatalf("reading: %v", err)
			}
			if len(got) < 4 || got[0] != finClose || int(got[2])<<8|int(got[3]) != 1002 {
				t.Errorf("got % x, want a close frame with 1002", got)
			}
		})
	}
}

func TestSilentPeerIsFound(t *testing.T) {
	s := newServer(t, false, func(p *Pool, _ *Limits) {
		p.SetPingInterval(time.Second)
		p.pings.wait = 2 * time.Second
	})
	s.upgrade(t, nil) // answers no ping
	dead := <-s.peers
	c, alive := s.dial(t)
	c.CloseRead(t.Context()) // answers pings
	within(t, dead.silent, "notice of the silent peer")
	within(t, dead.ended, "end of the silent peer") // it does not answer the close frame either
	select {
	case <-alive.silent:
		t.Error("a peer that answers was taken for silent")
	default:
	}
}

// TestLeavesNothingBehind churns and then expects every connection to be forgotten.
func TestLeavesNothingBehind(t *testing.T) {
	eachPath(t, func(t *testing.T, secure bool) {
		s := newServer(t, secure, nil)
		before := runtime.NumGoroutine()
		var wg sync.WaitGroup
		for i := range 50 {
			c, p := s.dial(t)
			wg.Go(func() {
				for range 20 {
					p.Send(text("hello"))
				}
				switch i % 3 {
				case 0:
					_ = c.CloseNow()
				case 1:
					p.Close(4200, "", text("bye"), true)
					_, _, _ = c.Read(t.Context())
					_ = c.CloseNow()
				case 2:
					p.Abort()
				}
			})
		}
		wg.Wait()
		s.ended.Wait()
		s.CloseClientConnections()
		deadline := time.Now().Add(20 * time.Second)
		for len(s.pool.pings.all()) > 0 || runtime.NumGoroutine() > before+5 {
			if time.Now().After(deadline) {
				t.Fatalf("%d connections and %d goroutines are left, %d before", len(s.pool.pings.all()), runtime.NumGoroutine(), before)
			}
			runtime.Gosched()
		}
	})
}

func TestOneGoroutineForAnIdleConnection(t *testing.T) {
	s := newServer(t, false, nil)
	before := runtime.NumGoroutine()
	const n = 50
	for range n {
		s.upgrade(t, nil)
		<-s.peers
	}
	deadline := time.Now().Add(20 * time.Second)
	for runtime.NumGoroutine() > before+n {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines for %d idle connections", runtime.NumGoroutine()-before, n)
		}
		runtime.Gosched()
	}
}

func BenchmarkBroadcast(b *testing.B) {
	for _, n := range []int{100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			pool := NewPool(nil, metrics.New("test"), time.Hour)
			defer pool.Close()
			var limits atomic.Pointer[Limits]
			limits.Store(&Limits{MaxFrame: 1 << 16, SendQueue: 1 << 30, WriteTimeout: time.Second})
			conns := make([]*Conn, n)
			for i := range conns {
				here, there := tcpPair(b)
				defer there.Close()
				conns[i] = &Conn{pool: pool, worker: pool.workers[i%len(pool.workers)], limits: &limits, nc: here, socket: here, raw: rawConn(here), slot: -1}
				go func() { _, _ = io.Copy(io.Discard, there) }()
			}
			f := text(strings.Repeat("x", 200))
			b.ReportAllocs()
			for b.Loop() {
				for _, c := range conns {
					c.Send(f)
				}
			}
			for _, c := range conns {
				c.Abort()
			}
		})
	}
}

func tcpPair(b testing.TB) (here, there net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	if there, err = net.Dial("tcp", l.Addr().String()); err != nil {
		b.Fatal(err)
	}
	if here, err = l.Accept(); err != nil {
		b.Fatal(err)
	}
	return here, there
}
