package redisdb

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestSuspicions(t *testing.T) {
	const pause = 100 * time.Millisecond
	for _, test := range []struct {
		name  string
		calls []error // one each pause
		want  bool    // down
	}{
		{"two in a row", []error{io.EOF, io.EOF}, false},
		{"three in a row, too soon", []error{io.EOF, io.EOF, context.DeadlineExceeded}, false},
		{"four in a row", []error{io.EOF, context.DeadlineExceeded, io.EOF, io.EOF}, true},
		{"an answer in between", []error{io.EOF, io.EOF, nil, io.EOF, io.EOF}, false},
		{"a cancellation in between", []error{io.EOF, io.EOF, context.Canceled, io.EOF}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBreaker()
				for _, err := range test.calls {
					b.report(t.Context(), err)
					time.Sleep(pause)
				}
				if got := b.down(); got != test.want {
					t.Errorf("down %v, want %v", got, test.want)
				}
			})
		})
	}
}

// Many callers with short deadlines that all meet the same short pause prove nothing.
func TestBurstOfDeadlines(t *testing.T) {
	b := newBreaker()
	for range 100 {
		b.report(t.Context(), context.DeadlineExceeded)
	}
	if b.down() {
		t.Error("down after deadlines of one moment")
	}
}

// A call that was stuck on a dead connection says nothing about Redis after it was found to be up again.
func TestFailureOfBefore(t *testing.T) {
	b := newBreaker()
	refused := &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}
	err := b.do(t.Context(), func() error {
		b.cut(errors.New("on purpose"))
		b.heal()
		return refused
	})
	if b.down() || !errors.Is(err, refused) {
		t.Errorf("down %v after a call of before, which returned %v", b.down(), err)
	}
	if _ = b.do(t.Context(), func() error { return refused }); !b.down() {
		t.Error("up after a timeout")
	}
	if err := b.do(t.Context(), func() error { t.Error("called while down"); return nil }); !errors.Is(err, ErrDown) {
		t.Errorf("call while down: %v, want ErrDown", err)
	}
}
