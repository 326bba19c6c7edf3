package ws

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// dialWith dials with what the client offers for compression.
func (s *server) dialWith(t *testing.T, mode websocket.CompressionMode) (*websocket.Conn, *peer, string) {
	t.Helper()
	c, resp, err := websocket.Dial(t.Context(), s.URL, &websocket.DialOptions{HTTPClient: s.Client(), CompressionMode: mode})
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(-1)
	t.Cleanup(func() { _ = c.CloseNow() })
	return c, <-s.peers, resp.Header.Get("Sec-WebSocket-Extensions")
}

func TestCompressionIsNegotiated(t *testing.T) {
	long, random := strings.Repeat(`{"a":"b"},`, 100), make([]byte, 900)
	for i := range random {
		random[i] = byte(' ' + rand.IntN(95))
	}
	const agreed = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"
	for name, c := range map[string]struct {
		on     bool
		mode   websocket.CompressionMode
		answer string
	}{
		"off":                        {false, websocket.CompressionNoContextTakeover, ""},
		"not offered":                {true, websocket.CompressionDisabled, ""},
		"offered":                    {true, websocket.CompressionNoContextTakeover, agreed},
		"offered with a context too": {true, websocket.CompressionContextTakeover, agreed},
	} {
		t.Run(name, func(t *testing.T) {
			eachPath(t, func(t *testing.T, secure bool) {
				s := newServer(t, secure, func(_ *Pool, l *Limits) { l.Compression = c.on })
				conn, p, answer := s.dialWith(t, c.mode)
				if answer != c.answer {
					t.Fatalf("answered %q, want %q", answer, c.answer)
				}
				for _, m := range []string{"", "short", long, string(random), strings.Repeat(long, 20)} {
					f := Shared{Plain: text(m)}
					p.Send(f.For(p.Conn))
					if got := read(t, conn); got != m {
						t.Fatalf("got %d bytes, want %d", len(got), len(m))
					}
					if len(m) > 2000 {
						continue // over the limit of the test's server
					}
					if err := conn.Write(context.Background(), websocket.MessageText, []byte(m)); err != nil {
						t.Fatal(err)
					}
					if got := within(t, p.messages, "message"); got != m {
						t.Fatalf("the server got %q, want %q", got, m)
					}
				}
			})
		})
	}
}

func TestAMessageIsCompressedOnceIfThatGains(t *testing.T) {
	a, b, plain := &Conn{deflates: true}, &Conn{deflates: true}, &Conn{}
	m := Shared{Plain: text(strings.Repeat("long enough ", 100))}
	first, second := m.For(a), m.For(b)
	if first != second || first.bytes[0] != finText|deflated || len(first.bytes) >= len(m.Plain.bytes)/2 {
		t.Errorf("not one compressed frame: % x of %d bytes and % x", first.bytes[:2], len(first.bytes), second.bytes[:2])
	}
	if got := m.For(plain); got != m.Plain {
		t.Error("who has not negotiated it gets a compressed frame")
	}
	random := make([]byte, 2000)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	for name, payload := range map[string]string{"short": strings.Repeat("a", deflateFrom-1), "random": string(random)} {
		m := Shared{Plain: text(payload)}
		if got := m.For(a); got != m.Plain {
			t.Errorf("%s: compressed, though that gains nothing", name)
		}
	}
}
