package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
)

// pieces hands out its parts, one each time it is read.
type pieces [][]byte

func (p *pieces) Read(b []byte) (int, error) {
	if len(*p) == 0 {
		return 0, io.EOF
	}
	n := copy(b, (*p)[0])
	if (*p)[0] = (*p)[0][n:]; len((*p)[0]) == 0 {
		*p = (*p)[1:]
	}
	return n, nil
}

// readAll returns what frames makes of it, as text.
func readAll(r io.Reader, buffer int) (list []string) {
	f := frames{buf: make([]byte, buffer)}
	for f.fill(r) == nil {
		for fr, ok := f.next(); ok; fr, ok = f.next() {
			list = append(list, fmt.Sprintf("%d %t %d %.10s", fr.op, fr.deflated, fr.size, fr.payload))
		}
	}
	return list
}

func sent(op byte, deflated bool, payload string) []byte {
	b := append(appendHead(nil, op, 0, len(payload)), payload...)
	if deflated {
		b[0] |= 0x40
	}
	return b
}

func TestFrames(t *testing.T) {
	var stream []byte
	var want []string
	for _, f := range []struct {
		op       byte
		deflated bool
		payload  string
	}{
		{opText, false, "hello"}, {opPing, false, ""}, {opText, true, "\x01\x02\x03"}, {opText, false, strings.Repeat("a", 125)},
		{opText, false, strings.Repeat("b", 126)}, {opText, false, strings.Repeat("c", 500)}, {opText, false, strings.Repeat("d", 70_000)},
		{opClose, false, "\x03\xe8bye"},
	} {
		b := sent(f.op, f.deflated, f.payload)
		stream = append(stream, b...)
		want = append(want, fmt.Sprintf("%d %t %d %.10s", f.op, f.deflated, len(b), f.payload))
	}
	// The buffer is smaller than two of the frames, of which the beginning is seen.
	const buffer = 256
	for size := 1; size < 1000; size++ {
		var p pieces
		for rest := stream; len(rest) > 0; {
			n := min(size, len(rest))
			p = append(p, rest[:n])
			rest = rest[n:]
		}
		if got := readAll(&p, buffer); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("read %d bytes at a time: got %q, want %q", size, got, want)
		}
	}
}

func TestAppendFrame(t *testing.T) {
	for _, size := range []int{0, 1, 125, 126, 1<<16 - 1, 1 << 16} {
		payload := bytes.Repeat([]byte("x"), size)
		b := appendFrame(nil, opText, payload)
		if b[0] != 0x81 || b[1]&0x80 == 0 {
			t.Fatalf("size %d: the frame begins with % x; it must be final, a text, and masked", size, b[:2])
		}
		// Without the bit and the key it is what a server sends.
		b[1] &^= 0x80
		head := len(b) - size - 4
		b = append(b[:head:head], b[head+4:]...)
		want := []string{fmt.Sprintf("1 false %d %.10s", len(b), payload)}
		if got := readAll(bytes.NewReader(b), 1<<18); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("size %d: got %q, want %q", size, got, want)
		}
	}
}
