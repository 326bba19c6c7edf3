package hub

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/bus"
	"github.com/caddyrooms/caddy-rooms/internal/ws"
	"github.com/caddyrooms/caddy-rooms/presence"
)

// sink is the connection of a client that takes everything and says nothing. It is also what its upgrade is answered on.
type sink struct {
	net.Conn
	header http.Header
	closed chan struct{}
}

func (s *sink) Read([]byte) (int, error) {
	<-s.closed
	return 0, io.EOF
}
func (s *sink) Write(p []byte) (int, error)      { return len(p), nil }
func (s *sink) SetWriteDeadline(time.Time) error { return nil }
func (s *sink) Close() error {
	select {
	case <-s.closed:
	default:
		close(s.closed)
	}
	return nil
}
func (s *sink) Header() http.Header { return s.header }
func (s *sink) WriteHeader(int)     {}
func (s *sink) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return s, bufio.NewReadWriter(bufio.NewReader(s), bufio.NewWriter(s)), nil
}

// hall is a hub with sessions that have no network.
type hall struct {
	*Hub
	b        *testing.B
	endpoint *Endpoint
}

func openHall(b *testing.B, change func(*Policy)) *hall {
	h := &hall{b: b}
	h.Hub = New(Options{Node: "n1", Timeout: time.Second, Logger: zap.NewNop(), Open: func(o presence.Observer, _ bus.Receiver) Backend {
		return Backend{Store: presence.NewMemory(presence.Options{}, o), Bus: bus.Local{}}
	}})
	p := defaultPolicy()
	p.Coalesce, p.FullUpTo, p.Drain = 50*time.Millisecond, 500, 0
	p.Transport.SendQueue = 1 << 30 // nobody is too slow
	if change != nil {
		change(p)
	}
	h.endpoint = h.Bind([]Binding{{Policy: p}})[0]
	b.Cleanup(func() {
		if err := h.Close(exiting); err != nil {
			b.Error(err)
		}
	})
	return h
}

func (h *hall) session(user string) *Session {
	h.b.Helper()
	return silent(h.b, h.endpoint, user)
}

// silent returns the session of a new client without a network.
func silent(t testing.TB, e *Endpoint, user string) *Session {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for name, value := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
		"Sec-WebSocket-Protocol": "rooms.v1",
	} {
		r.Header.Set(name, value)
	}
	id := NewConnID()
	if !e.Admit() {
		t.Fatal("not admitted")
	}
	if err := e.Accept(&sink{header: http.Header{}, closed: make(chan struct{})}, r, Client{Conn: id, User: user}); err != nil {
		t.Fatal(err)
	}
	for { // until it has begun
		if _, online, err := e.hub.backend.Store.User(t.Context(), user); online || err != nil {
			return e.hub.session(id)
		}
		runtime.Gosched()
	}
}

func (s *Session) say(format string, args ...any) {
	s.Receive(ws.Message{Data: fmt.Appendf(nil, format, args...)})
}

// fill has n members join a room.
func (h *hall) fill(room string, n int, mode string) {
	for i := range n {
		h.session(fmt.Sprintf("%s%06d", room, i)).say(`{"type":"join","room":%q,"presence":%q}`, room, mode)
	}
}

// BenchmarkJoin has a client join and leave a room of so many, who hear of it.
func BenchmarkJoin(b *testing.B) {
	for _, members := range []int{5, 500, 50_000} {
		b.Run(fmt.Sprintf("members=%d", members), func(b *testing.B) {
			h := openHall(b, nil)
			h.fill("r", members, "full")
			s := h.session("zoe")
			b.ReportAllocs()
			for b.Loop() {
				s.say(`{"type":"join","id":1,"room":"r"}`)
				s.say(`{"type":"leave","id":2,"room":"r"}`)
			}
		})
	}
}

// BenchmarkJoinDuringBroadcast measures how long a join takes while messages go to the same room all the time.
func BenchmarkJoinDuringBroadcast(b *testing.B) {
	for _, members := range []int{5, 50_000} {
		b.Run(fmt.Sprintf("members=%d", members), func(b *testing.B) {
			h := openHall(b, nil)
			h.fill("r", members, "none")
			s := h.session("zoe")
			stop, stopped := make(chan struct{}), make(chan struct{})
			var broadcasts []time.Duration
			go func() {
				defer close(stopped)
				for {
					select {
					case <-stop:
						return
					case <-time.After(10 * time.Millisecond):
					}
					began := time.Now()
					h.Publish(Message{Room: "r", Event: "e", Data: []byte("1")})
					broadcasts = append(broadcasts, time.Since(began))
				}
			}()
			var joins []time.Duration
			for b.Loop() {
				began := time.Now()
				s.say(`{"type":"join","id":1,"room":"r","presence":"none"}`)
				joins = append(joins, time.Since(began))
				s.say(`{"type":"leave","id":2,"room":"r"}`)
				time.Sleep(100 * time.Microsecond)
			}
			close(stop)
			<-stopped
			slices.Sort(joins)
			b.ReportMetric(float64(joins[len(joins)*99/100].Microseconds()), "p99-us/join")
			b.ReportMetric(float64(joins[len(joins)-1].Microseconds()), "max-us/join")
			if slices.Sort(broadcasts); len(broadcasts) > 0 {
				b.ReportMetric(float64(broadcasts[len(broadcasts)/2].Microseconds()), "median-us/broadcast")
			}
		})
	}
}
