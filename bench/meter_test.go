package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	for d := time.Duration(1); d < 1<<40; d += d/7 + 1 {
		s := step(d)
		if d >= 32 && (d < lower(s) || d >= lower(s+1)) {
			t.Fatalf("%d is in step %d, which is %d to %d", d, s, lower(s), lower(s+1))
		}
	}
	var h histogram
	if got := h.quantile(.5); got != 0 {
		t.Errorf("the median of nothing is %s, want 0", got)
	}
	for i := range 1000 {
		h.add(time.Duration(i+1) * time.Millisecond)
	}
	for q, want := range map[float64]time.Duration{.5: 500 * time.Millisecond, .99: 990 * time.Millisecond, 1: time.Second} {
		if got := h.quantile(q); (got - want).Abs() > want/30 {
			t.Errorf("quantile %v of 1 ms to 1 s is %s, want %s", q, got, want)
		}
	}
}

func TestMeter(t *testing.T) {
	m := &meter{audience: 2}
	for _, size := range []int{0, 128, 5000} {
		p := m.payload(0, size)
		if want := max(size, stampSize); len(p) != want {
			t.Errorf("a payload of %d bytes has %d, want %d", size, len(p), want)
		}
		if strings.ContainsAny(string(p), "\"\\\n") {
			t.Errorf("payload %q can't stand in a JSON string", p)
		}
	}
	message := func(number int) frame {
		text := append([]byte(`{"type":"message","data":"`), m.payload(number, 128)...)
		return frame{op: opText, payload: text, size: 200}
	}
	begun := time.Since(epoch)
	first := message(7)
	if m.deliver(frame{payload: []byte(`{"type":"ack","id":1}`)}, begun) {
		t.Error("an ack is taken for a message")
	}
	if !m.deliver(first, begun) || m.deliveries.Load() != 0 {
		t.Error("a message before the measured time is not known as one, or is counted")
	}
	m.on.Store(true)
	m.deliver(first, begun+80*time.Millisecond)
	second := message(8)
	m.deliver(second, begun+10*time.Millisecond)
	if n, b := m.deliveries.Load(), m.bytes.Load(); n != 2 || b != 400 {
		t.Errorf("%d deliveries of %d bytes, want 2 of 400", n, b)
	}
	// Only the first message has reached both.
	if got := m.last.quantile(0); (got - 80*time.Millisecond).Abs() > 5*time.Millisecond {
		t.Errorf("the last member got its message after %s, want 80 ms", got)
	}
	if !bytes.Contains(first.payload, []byte("00000007")) {
		t.Errorf("payload %q does not have its number", first.payload)
	}
	// A number that comes again begins anew.
	again := message(8 + len(m.arrived))
	m.deliver(again, begun+20*time.Millisecond)
	m.deliver(again, begun+50*time.Millisecond)
	if got := m.last.quantile(0); (got - 50*time.Millisecond).Abs() > 5*time.Millisecond {
		t.Errorf("the fastest message reached all after %s, want 50 ms", got)
	}
}
