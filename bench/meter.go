package main

import (
	"bytes"
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// meter counts what arrives. Any goroutine may use it.
type meter struct {
	on         atomic.Bool // deliveries count
	deliveries atomic.Int64
	bytes      atomic.Int64 // of the frames that were deliveries
	latency    histogram    // from the publisher's clock to the member's
	last       histogram    // the same, to the last member
	refused    atomic.Int64 // publishes that were answered by an error
	ended      atomic.Int64 // connections that the server has ended

	audience int                   // how many members get each message; set before the first
	arrived  [1 << 13]atomic.Int32 // of the message with that number, modulo the length
}

// epoch is what stamps count from. It has a monotonic clock.
var epoch = time.Now()

// A stamp is part of every payload: the mark, when it was made, and the number of the message.
const (
	mark      = "@stamp"
	stampSize = len(mark) + 16 + 8
)

// talk fills payloads, so that they compress as text does.
const talk = ` the ferry leaves at a quarter past nine from pier 4, not from where it was last year; whoever takes a bicycle should be there ` +
	`early, since only twelve of them fit. Ann has the tickets, Boris brings coffee and the blue umbrella. If it rains we meet under the roof of ` +
	`the old customs house (the one with a green door) and wait for the next, which goes every fifty minutes until 18:05. Please say until Thursday ` +
	`who will come, how many you are, and whether somebody needs a lift back from the harbour afterwards. `

// payload returns a message of size bytes, or as many as the stamp needs, that can stand in a JSON string.
func (m *meter) payload(number, size int) []byte {
	b := append(make([]byte, 0, max(size, stampSize)), mark...)
	b = appendHex(b, uint64(time.Since(epoch)), 16)
	b = appendHex(b, uint64(uint32(number)), 8)
	m.arrived[number%len(m.arrived)].Store(0)
	for len(b) < size {
		b = append(b, talk[:min(len(talk), size-len(b))]...)
	}
	return b
}

// deliver counts a frame that carries a message, and returns false for others.
func (m *meter) deliver(f frame, now time.Duration) bool {
	i := bytes.Index(f.payload, []byte(mark))
	if i < 0 || len(f.payload) < i+stampSize {
		return false
	}
	digits := f.payload[i+len(mark):]
	late := now - time.Duration(parseHex(digits[:16]))
	number := int(parseHex(digits[16:24]))
	all := m.arrived[number%len(m.arrived)].Add(1) == int32(m.audience)
	if m.on.Load() {
		m.deliveries.Add(1)
		m.bytes.Add(int64(f.size))
		m.latency.add(late)
		if all {
			m.last.add(late)
		}
	}
	return true
}

// count counts a message that can't be looked into.
func (m *meter) count(f frame) {
	if m.on.Load() {
		m.deliveries.Add(1)
		m.bytes.Add(int64(f.size))
	}
}

func appendHex(dst []byte, v uint64, digits int) []byte {
	for i := digits - 1; i >= 0; i-- {
		dst = append(dst, "0123456789abcdef"[v>>(4*i)&15])
	}
	return dst
}

func parseHex(b []byte) (v uint64) {
	for _, c := range b {
		c -= '0'
		if c > 9 {
			c -= 'a' - '0' - 10
		}
		v = v<<4 | uint64(c&15)
	}
	return v
}

// histogram holds durations in steps of about 3 %. Any goroutine may use it.
type histogram struct {
	steps [64 << 5]atomic.Int64
}

// step returns in which step a duration belongs: five bits below the leading one.
func step(d time.Duration) int {
	v := uint64(max(d, 32))
	e := bits.Len64(v) - 6
	return e<<5 + int(v>>e&31)
}

// lower returns where a step begins.
func lower(step int) time.Duration { return time.Duration(32+step&31) << (step >> 5) }

func (h *histogram) add(d time.Duration) { h.steps[step(d)].Add(1) }

// quantile returns the duration that the share q of all is not above, or 0 of none.
func (h *histogram) quantile(q float64) time.Duration {
	var total int64
	for i := range h.steps {
		total += h.steps[i].Load()
	}
	rank := max(int64(math.Ceil(q*float64(total))), 1)
	for i := range h.steps {
		if rank -= h.steps[i].Load(); rank <= 0 {
			return (lower(i) + lower(i+1)) / 2
		}
	}
	return 0
}
