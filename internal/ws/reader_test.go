package ws

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/caddyrooms/caddy-rooms/internal/metrics"
)

// script is a connection that gives what it was made with, piece by piece, and takes everything.
type script struct {
	net.Conn
	rest []byte
	step func() int // how much the next read gives at most
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), max(1, s.step()))], s.rest)
	s.rest = s.rest[n:]
	return n, nil
}
func (*script) Write(p []byte) (int, error)      { return len(p), nil }
func (*script) Close() error                     { return nil }
func (*script) SetWriteDeadline(time.Time) error { return nil }

// heardBy is an owner that keeps what it gets.
type heardBy struct {
	messages []string
	tooLarge int
	end      error
}

func (h *heardBy) Receive(m Message) {
	if m.TooLarge {
		h.tooLarge++
		return
	}
	h.messages = append(h.messages, string(m.Data))
}
func (h *heardBy) Ended(_ int, err error) { h.end = err }
func (*heardBy) Silent()                  {}
func (*heardBy) Slow()                    {}

// hear has a connection read input to its end.
func hear(pool *Pool, input []byte, deflates bool, step func() int) *heardBy {
	var limits atomic.Pointer[Limits]
	limits.Store(&Limits{MaxFrame: readLimit, SendQueue: 1 << 20, WriteTimeout: time.Second})
	var h heardBy
	nc := &script{rest: input, step: step}
	c := &Conn{pool: pool, owner: &h, worker: pool.workers[0], limits: &limits, nc: nc, socket: nc, slot: -1, deflates: deflates}
	for {
		if err := c.wait(); err != nil {
			c.end(err)
			break
		}
		if _, err := c.handle(); err != nil {
			c.end(err)
			break
		}
	}
	return &h
}

const readLimit = 8 << 10

// frameOf makes a client's frame.
func frameOf(first byte, payload []byte) []byte {
	f := []byte{first}
	switch n := len(payload); {
	case n < 126:
		f = append(f, 0x80|byte(n))
	case n < 1<<16:
		f = binary.BigEndian.AppendUint16(append(f, 0x80|126), uint16(n))
	default:
		f = binary.BigEndian.AppendUint64(append(f, 0x80|127), uint64(n))
	}
	mask := [4]byte{byte(rand.Uint32()), byte(rand.Uint32()), 3, 4}
	f = append(f, mask[:]...)
	start := len(f)
	f = append(f, payload...)
	for i := range payload {
		f[start+i] ^= mask[i%4]
	}
	return f
}

// TestMessagesSurviveAllCuts sends messages in fragments, with pings between them, plain and compressed, through reads of all sizes.
func TestMessagesSurviveAllCuts(t *testing.T) {
	pool := NewPool(nil, metrics.New("test"), time.Hour)
	defer pool.Close()
	for range 300 {
		var input []byte
		var want []string
		for range 1 + rand.IntN(8) {
			message := []byte(strings.Repeat(string(rune('a'+rand.IntN(26)))+"bc", rand.IntN(readLimit/2)))
			if rand.IntN(2) == 0 {
				message = message[:min(len(message), rand.IntN(200))]
			}
			want = append(want, string(message))
			first := byte(opText)
			if rand.IntN(2) == 0 {
				if f := deflate(Text(append(Buffer(len(message)), message...))); f.bytes[0]&deflated != 0 {
					message, first = f.Payload(), opText|deflated
				}
			}
			for pieces := rand.IntN(4); pieces > 0; pieces-- {
				n := rand.IntN(len(message) + 1)
				input = append(input, frameOf(first, message[:n])...)
				message, first = message[n:], opContinuation
				if rand.IntN(2) == 0 {
					input = append(input, frameOf(finPing, []byte("are you there"))...)
				}
			}
			input = append(input, frameOf(0x80|first, message)...)
		}
		step := []func() int{
			func() int { return 1 },
			func() int { return 1 + rand.IntN(7) },
			func() int { return 1 + rand.IntN(1000) },
			func() int { return 1 << 20 },
		}[rand.IntN(4)]
		h := hear(pool, input, true, step)
		if !slices.Equal(h.messages, want) || h.tooLarge != 0 || !errors.Is(h.end, io.EOF) {
			t.Fatalf("%d messages, want %d; %d too large; ended with %v", len(h.messages), len(want), h.tooLarge, h.end)
		}
	}
}

func TestTooLargeIsToldOnceAndTheNextIsRead(t *testing.T) {
	pool := NewPool(nil, metrics.New("test"), time.Hour)
	defer pool.Close()
	zeros := make([]byte, 64<<20)
	bomb := deflate(Text(append(Buffer(len(zeros)), zeros...)))
	half := make([]byte, readLimit+1)
	for name, input := range map[string][]byte{
		"one frame":       frameOf(finText, make([]byte, 2*readLimit+1)),
		"fragments":       slices.Concat(frameOf(opText, half), frameOf(opContinuation, half), frameOf(opContinuation, half), frameOf(0x80, half)),
		"compressed bomb": frameOf(finText|deflated, bomb.Payload()[:2*readLimit]),
	} {
		t.Run(name, func(t *testing.T) {
			h := hear(pool, append(input, frameOf(finText, []byte("next"))...), true, func() int { return 1 << 20 })
			if h.tooLarge != 1 || !slices.Equal(h.messages, []string{"next"}) {
				t.Errorf("too large %d times, then %q", h.tooLarge, h.messages)
			}
		})
	}
}

// TestAnAnnouncedLengthTakesNoMemory announces more than it sends.
func TestAnAnnouncedLengthTakesNoMemory(t *testing.T) {
	pool := NewPool(nil, metrics.New("test"), time.Hour)
	defer pool.Close()
	h := hear(pool, frameOf(finText, make([]byte, 2*readLimit))[:100], false, func() int { return 1 << 20 })
	if !errors.Is(h.end, io.ErrUnexpectedEOF) || len(h.messages) > 0 {
		t.Errorf("ended with %v after %q", h.end, h.messages)
	}
}

func TestBrokenCompressionIsAViolation(t *testing.T) {
	pool := NewPool(nil, metrics.New("test"), time.Hour)
	defer pool.Close()
	for name, c := range map[string]struct {
		deflates bool
		frame    []byte
		code     int
	}{
		"not negotiated":        {false, frameOf(finText|deflated, []byte("x")), 1002},
		"on a continuation":     {true, append(frameOf(opText, nil), frameOf(0x80|deflated, nil)...), 1002},
		"on a ping":             {true, frameOf(finPing|deflated, nil), 1002},
		"another reserved bit":  {true, frameOf(finText|0x20, nil), 1002},
		"nothing that inflates": {true, frameOf(finText|deflated, []byte("\xff\xff\xff\xff\xff")), 1007},
	} {
		t.Run(name, func(t *testing.T) {
			h := hear(pool, c.frame, c.deflates, func() int { return 1 << 20 })
			broken, ok := errors.AsType[violation](h.end)
			if !ok || broken.code != c.code || len(h.messages) > 0 {
				t.Errorf("ended with %v after %q, want code %d", h.end, h.messages, c.code)
			}
		})
	}
}

func FuzzReader(f *testing.F) {
	f.Add(frameOf(finText, []byte(`{"type":"ping"}`)), false, 3)
	f.Add(slices.Concat(frameOf(opText, []byte("a")), frameOf(finPing, nil), frameOf(0x80, []byte("b"))), true, 1)
	f.Add(frameOf(finClose, []byte("\x03\xe8bye")), false, 100)
	compressed := deflate(Text(append(Buffer(2000), strings.Repeat("compress me ", 100)...)))
	f.Add(frameOf(finText|deflated, compressed.Payload()), true, 7)
	f.Add([]byte{0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, false, 2)
	pool := NewPool(nil, metrics.New("test"), time.Hour)
	f.Cleanup(pool.Close)
	f.Fuzz(func(t *testing.T, input []byte, deflates bool, step int) {
		h := hear(pool, input, deflates, func() int { return step })
		for _, m := range h.messages {
			if len(m) > 2*readLimit {
				t.Errorf("a message of %d bytes", len(m))
			}
		}
		if closed, ok := errors.AsType[websocket.CloseError](h.end); ok && !mayBeSent(closed.Code) && closed.Code != websocket.StatusNoStatusRcvd {
			t.Errorf("closed with %d", closed.Code)
		}
	})
}
