package ws

import (
	"encoding/binary"
	"errors"
	"fmt"
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
			broken, ok := errors.AsType[ViolationError](h.end)
			if !ok || broken.Code != c.code || len(h.messages) > 0 {
				t.Errorf("ended with %v after %q, want code %d", h.end, h.messages, c.code)
			}
		})
	}
}

// TestWhatAPeerMaySay goes through RFC 6455: what is taken, and with which code the rest is refused.
func TestWhatAPeerMaySay(t *testing.T) {
	pool := NewPool(nil, metrics.New("test"), time.Hour)
	defer pool.Close()
	closing := func(code int, reason string) []byte {
		return frameOf(finClose, append([]byte{byte(code >> 8), byte(code)}, reason...))
	}
	a, b := frameOf(opText, []byte("a")), frameOf(0x80, []byte("b"))
	type saying struct {
		input    []byte
		messages []string
		closed   int // by the peer
		refused  int // by us
	}
	sayings := map[string]saying{
		"pong that nobody asked for":     {input: slices.Concat(frameOf(finPong, []byte("x")), frameOf(finText, nil)), messages: []string{""}},
		"largest ping":                   {input: slices.Concat(a, frameOf(finPing, make([]byte, 125)), b), messages: []string{"ab"}},
		"ping that is too large":         {input: frameOf(finPing, make([]byte, 126)), refused: 1002},
		"empty fragments":                {input: slices.Concat(frameOf(opText, nil), frameOf(opContinuation, nil), frameOf(0x80, nil)), messages: []string{""}},
		"text in the middle":             {input: slices.Concat(a, frameOf(finText, []byte("c"))), refused: 1002},
		"binary in the middle":           {input: slices.Concat(a, frameOf(opBinary, []byte("c"))), refused: 1002},
		"continuation of a whole":        {input: slices.Concat(frameOf(finText, []byte("c")), b), messages: []string{"c"}, refused: 1002},
		"continuation of what was ended": {input: slices.Concat(a, b, b), messages: []string{"ab"}, refused: 1002},
		"ping in fragments":              {input: slices.Concat(frameOf(opPing, nil), frameOf(0x80, nil)), refused: 1002},
		"close in fragments":             {input: frameOf(opClose, nil), refused: 1002},
		"close without a code":           {input: slices.Concat(frameOf(finClose, nil), frameOf(finText, nil)), closed: 1005},
		"close with half a code":         {input: frameOf(finClose, []byte{3}), refused: 1002},
		"close that is too long":         {input: closing(1000, strings.Repeat("x", 124)), refused: 1002},
		"longest close":                  {input: closing(1000, strings.Repeat("x", 123)), closed: 1000},
		"close not in UTF-8":             {input: closing(1000, "\xce\xba\xed\xa0\x80"), refused: 1002},
		"close in the middle":            {input: slices.Concat(a, closing(1001, ""), b), closed: 1001},
		"length with the highest bit":    {input: []byte{finText, 0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}, refused: 1002},
	}
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		sayings[fmt.Sprint("close with ", code)] = saying{input: closing(code, "é"), closed: code}
	}
	for _, code := range []int{0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		sayings[fmt.Sprint("close with ", code)] = saying{input: closing(code, ""), refused: 1002}
	}
	for _, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		sayings[fmt.Sprint("opcode ", op)] = saying{input: frameOf(0x80|op, nil), refused: 1002}
	}
	for name, want := range sayings {
		t.Run(name, func(t *testing.T) {
			h := hear(pool, want.input, false, func() int { return 1 << 20 })
			if !slices.Equal(h.messages, want.messages) {
				t.Errorf("messages %q, want %q", h.messages, want.messages)
			}
			if closed, _ := errors.AsType[websocket.CloseError](h.end); int(closed.Code) != want.closed {
				t.Errorf("ended with %v, want the peer's close with %d", h.end, want.closed)
			}
			if broken, _ := errors.AsType[ViolationError](h.end); broken.Code != want.refused {
				t.Errorf("ended with %v, want it refused with %d", h.end, want.refused)
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
