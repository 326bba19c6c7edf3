package hub

import (
	"testing"

	"github.com/coder/websocket"
)

// TestReasonOfAPeer ends a connection with a reason that would steer the terminal of whoever reads the log.
func TestReasonOfAPeer(t *testing.T) {
	end := new(Session).closing(4999, websocket.CloseError{Code: 4999, Reason: "so\u009b31m\x1b[2J\nlong\u202e é\xff"})
	equal(t, "end", end, closing{4999, "so\ufffd31m\ufffd[2J\ufffdlong\ufffd é\ufffd", "client"})
}
