package hub

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/coder/websocket"

	"github.com/caddyrooms/caddy-rooms/internal/ws"
)

// TestClosing ends connections in all ways there are.
func TestClosing(t *testing.T) {
	broken, garbage := ws.ViolationError{Code: 1007}, errors.New("a record of TLS that is none")
	reset := &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	for name, test := range map[string]struct {
		session *Session
		code    int
		err     error
		want    closing
		label   string
	}{
		"server":         {&Session{code: 4201, reason: "slow consumer"}, 1006, io.EOF, closing{code: 4201, reason: "slow consumer", by: "server"}, "4201"},
		"normal":         {new(Session), 1000, websocket.CloseError{Code: 1000}, closing{code: 1000, by: "client"}, "1000"},
		"a code unknown": {new(Session), 4201, websocket.CloseError{Code: 4201}, closing{code: 4201, by: "client"}, "other"},
		"terminal": { // a reason that would steer the terminal of whoever reads the log
			new(Session), 4999, websocket.CloseError{Code: 4999, Reason: "so\u009b31m\x1b[2J\nlong\u202e é\xff"},
			closing{code: 4999, reason: "so\ufffd31m\ufffd[2J\ufffdlong\ufffd é\ufffd", by: "client"}, "other",
		},
		"end of file": {new(Session), 0, fmt.Errorf("reading: %w", io.EOF), closing{1006, "lost", "network", fmt.Errorf("reading: %w", io.EOF)}, "1006"},
		"reset":       {new(Session), 0, reset, closing{1006, "lost", "network", reset}, "1006"},
		"errno":       {new(Session), 0, syscall.EPIPE, closing{1006, "lost", "network", syscall.EPIPE}, "1006"},
		"panic":       {new(Session), 0, nil, closing{1006, "lost", "network", nil}, "1006"},
		"protocol":    {new(Session), 0, broken, closing{1007, "protocol error", "server", broken}, "1007"},
		"garbage":     {new(Session), 0, garbage, closing{1006, "lost", "network", garbage}, "1006"},
	} {
		end := test.session.closing(test.code, test.err)
		equal(t, name, end, test.want)
		equal(t, name+" is counted as", end.label(), test.label)
	}
}
