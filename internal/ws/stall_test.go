package ws

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/caddyrooms/caddy-rooms/internal/metrics"
)

// TestAConnectionThatWasStalledOnceLivesOn checks that the deadline of a drain does not outlive the drain.
func TestAConnectionThatWasStalledOnceLivesOn(t *testing.T) {
	eachPath(t, func(t *testing.T, secure bool) {
		s := newServer(t, secure, func(_ *Pool, l *Limits) { l.WriteTimeout = time.Second; l.SendQueue = 64 << 20 })
		c, p := s.dial(t)
		const n = 200
		f := text(strings.Repeat("x", 64<<10))
		for range n {
			p.Send(f)
		}
		time.Sleep(50 * time.Millisecond) // stalled: a drain writes
		for range n {
			read(t, c)
		}
		time.Sleep(1200 * time.Millisecond) // longer than the write timeout
		p.Send(text("still here"))
		if got := read(t, c); got != "still here" {
			t.Errorf("got %q", got)
		}
	})
}

// TestEndOfAStalledConnectionHoldsUpNobody checks that closing the socket of a client that does not read never blocks who sends to it: a
// broadcast holds its room's lock meanwhile.
func TestEndOfAStalledConnectionHoldsUpNobody(t *testing.T) {
	eachPath(t, func(t *testing.T, secure bool) {
		s := newServer(t, secure, func(_ *Pool, l *Limits) { l.WriteTimeout = 200 * time.Millisecond; l.SendQueue = 64 << 20 })
		transport := s.Client().Transport.(*http.Transport).Clone()
		transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err == nil {
				err = c.(*net.TCPConn).SetReadBuffer(4 << 10)
			}
			return c, err
		}
		c, _, err := websocket.Dial(t.Context(), s.URL, &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow() // never reads
		p := <-s.peers
		f := text(strings.Repeat("x", 64<<10))
		for range 200 {
			p.Send(f)
		}
		small := text("x")
		for end := time.Now().Add(8 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			start := time.Now()
			ok := p.Send(small)
			if took := time.Since(start); took > 500*time.Millisecond {
				t.Fatalf("Send took %s", took)
			}
			if !ok {
				return
			}
		}
	})
}

// TestShorterPingIntervalClosesNobody checks that peers that were not pinged are not taken for dead when the interval is shortened.
func TestShorterPingIntervalClosesNobody(t *testing.T) {
	s := newServer(t, false, func(p *Pool, _ *Limits) {
		p.SetPingInterval(32 * time.Second)
		p.pings.wait = 500 * time.Millisecond
	})
	var peers []*peer
	for range 40 {
		c, p := s.dial(t)
		peers = append(peers, p)
		go func() { _, _, _ = c.Read(context.Background()) }() // answers pings
	}
	// As after most of an idle interval.
	for _, p := range peers {
		p.lastRead.Store(time.Now().Add(-20 * time.Second).UnixNano())
	}
	s.pool.SetPingInterval(10 * time.Second)
	closed := 0
	time.Sleep(6 * time.Second)
	for _, p := range peers {
		select {
		case <-p.silent:
			closed++
		default:
		}
	}
	if closed > 0 {
		t.Errorf("%d of %d living peers were closed for not answering a ping that was never sent", closed, len(peers))
	}
}

// TestStalledClientCostsLittleInTheKernel counts what the kernel takes for a client that does not read.
func TestStalledClientCostsLittleInTheKernel(t *testing.T) {
	eachPath(t, func(t *testing.T, secure bool) {
		s := newServer(t, secure, func(_ *Pool, l *Limits) { l.SendQueue = 64 << 20 })
		c, p := s.dial(t)
		_ = c
		f := text(strings.Repeat("x", 64<<10))
		const n = 300
		for range n {
			p.Send(f)
		}
		time.Sleep(time.Second)
		p.mu.Lock()
		left := p.bytes
		p.mu.Unlock()
		if took := (n*len(f.bytes) - left) >> 10; took > 512 {
			t.Errorf("the kernel took %d KiB", took)
		}
	})
}

// frames reads frames from r, piece by piece, and returns them in words: payloads of text frames, "close 4201".
func frames(t *testing.T, r io.Reader, got func(op byte, payload []byte) bool) {
	t.Helper()
	br := bufio.NewReaderSize(r, 16)
	for {
		var head [2]byte
		if _, err := io.ReadFull(br, head[:]); err != nil {
			t.Errorf("after the last whole frame: %v", err)
			return
		}
		size := int(head[1])
		switch size {
		case 126:
			var b [2]byte
			_, _ = io.ReadFull(br, b[:])
			size = int(binary.BigEndian.Uint16(b[:]))
		case 127:
			var b [8]byte
			_, _ = io.ReadFull(br, b[:])
			size = int(binary.BigEndian.Uint64(b[:]))
		}
		payload := make([]byte, size)
		if _, err := io.ReadFull(br, payload); err != nil {
			t.Errorf("in a frame of %d bytes: %v", size, err)
			return
		}
		if head[0]&0xf0 != 0x80 || !got(head[0]&0xf, payload) {
			if head[0]&0xf0 != 0x80 {
				t.Errorf("bad frame header %x", head)
			}
			return
		}
	}
}

// small makes a connection with tiny buffers on both sides.
func (s *server) small(t *testing.T, secure bool) (net.Conn, *peer) {
	t.Helper()
	size := 2048
	if secure {
		size = 20 << 10 // the workers write to nobody who begins with less
	}
	return s.raw(t, net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, size) })
	}}, secure)
}

// raw makes a connection that does only what the test says.
func (s *server) raw(t *testing.T, d net.Dialer, secure bool) (net.Conn, *peer) {
	t.Helper()
	c, err := d.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if secure {
		c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	}
	fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	var head []byte
	for b := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); head = append(head, b...) {
		if _, err := c.Read(b); err != nil {
			t.Fatal(err)
		}
	}
	return c, <-s.peers
}

// TestStreamIsExactThroughTinyBuffers sends frames of random sizes from several goroutines while the peer pings and reads slowly.
func TestStreamIsExactThroughTinyBuffers(t *testing.T) {
	eachPath(t, func(t *testing.T, secure bool) {
		s := newServer(t, secure, func(_ *Pool, l *Limits) { l.SendQueue = 64 << 20 })
		c, p := s.small(t, secure)
		const senders, each = 4, 400
		for k := range senders {
			go func() {
				r := rand.New(rand.NewPCG(1, uint64(k)))
				for i := range each {
					size := r.IntN(300)
					if r.IntN(20) == 0 {
						size = r.IntN(70_000)
					}
					p.Send(text(fmt.Sprintf("%d %d %d ", k, i, size) + strings.Repeat(string(rune('a'+i%26)), size)))
					if r.IntN(50) == 0 {
						time.Sleep(time.Millisecond)
					}
				}
			}()
		}
		go func() {
			for range 200 {
				_, _ = c.Write([]byte{0x89, 0x83, 0, 0, 0, 0, 'a', 'b', 'c'})
				time.Sleep(time.Millisecond)
			}
		}()
		var next [senders]int
		total, pongs := 0, 0
		r := rand.New(rand.NewPCG(2, 2))
		frames(t, c, func(op byte, payload []byte) bool {
			if r.IntN(100) == 0 {
				time.Sleep(2 * time.Millisecond)
			}
			if op == 0xa {
				pongs++
				if string(payload) != "abc" {
					t.Errorf("pong %q", payload)
				}
				return true
			}
			var k, i, size int
			_, _ = fmt.Sscanf(string(payload), "%d %d %d ", &k, &i, &size)
			want := fmt.Sprintf("%d %d %d ", k, i, size) + strings.Repeat(string(rune('a'+i%26)), size)
			if string(payload) != want || next[k] != i {
				t.Errorf("sender %d: message %d instead of %d, exact: %v", k, i, next[k], string(payload) == want)
				return false
			}
			next[k]++
			total++
			return total < senders*each
		})
		t.Logf("%d messages, %d pongs", total, pongs)
	})
}

// TestSlowConsumerLearnsWhy stalls a peer until its queue is full; when it reads again, whole frames come, then the notice and 4201.
func TestSlowConsumerLearnsWhy(t *testing.T) {
	eachPath(t, func(t *testing.T, secure bool) {
		for range 5 {
			s := newServer(t, secure, func(_ *Pool, l *Limits) { l.SendQueue = 100_000 })
			c, p := s.small(t, secure)
			for i := 0; ; i++ {
				p.Send(text(fmt.Sprintf("%07d", i) + strings.Repeat("x", i%3000)))
				select {
				case <-p.slow:
				default:
					continue
				}
				break
			}
			time.Sleep(100 * time.Millisecond)
			last, code := -1, 0
			frames(t, c, func(op byte, payload []byte) bool {
				switch op {
				case 8:
					code = int(payload[0])<<8 | int(payload[1])
					return false
				case 1:
					var i int
					_, _ = fmt.Sscanf(string(payload[:7]), "%d", &i)
					if i != last+1 || len(payload) != 7+i%3000 {
						t.Errorf("message %d of %d bytes after %d", i, len(payload), last)
					}
					last = i
				}
				return true
			})
			if code != 4201 {
				t.Errorf("code %d after message %d", code, last)
			}
		}
	})
}

// TestSlowButSteadyReaderIsKept checks the promise of write_timeout: only who takes nothing for so long is closed. TLS
// can't go on after a part of a record, so there it is a whole batch that has this time.
func TestSlowButSteadyReaderIsKept(t *testing.T) {
	s := newServer(t, false, func(_ *Pool, l *Limits) { l.WriteTimeout = time.Second })
	c, p := s.small(t, false)
	for range 100 {
		p.Send(text(strings.Repeat("x", 4<<10)))
	}
	end := time.Now().Add(6 * time.Second)
	n := 0
	for b := make([]byte, 1024); time.Now().Before(end); time.Sleep(50 * time.Millisecond) { // 20 KB/s
		m, err := c.Read(b)
		n += m
		if err != nil {
			t.Fatalf("closed after %d bytes taken steadily: %v", n, err)
		}
		select {
		case <-p.ended:
			t.Fatalf("closed after %d bytes were taken steadily", n)
		default:
		}
	}
}

// TestNothingIsTakenAfterALostFrame checks that a hole in the stream is followed by nothing but the notice.
func TestNothingIsTakenAfterALostFrame(t *testing.T) {
	c := &Conn{pool: &Pool{metrics: metrics.New("test")}, worker: new(worker), limits: new(atomic.Pointer[Limits]), owner: mute{}, busy: true}
	c.limits.Store(&Limits{SendQueue: 300})
	if !c.Send(text(strings.Repeat("x", 200))) || c.Send(text(strings.Repeat("x", 200))) {
		t.Fatal("the bound does not hold")
	}
	if c.Send(text("next")) {
		t.Error("a frame was taken behind one that is lost")
	}
}

// mute does nothing about a full queue, as if closing had not come to it yet.
type mute struct{}

func (mute) Receive(Message)  {}
func (mute) Ended(int, error) {}
func (mute) Silent()          {}
func (mute) Slow()            {}
