package module

import (
	"errors"
	"net/http"
	"time"
)

// tailPatience is how long a line of a tail may take to be written. It is shorter than Caddy waits at exit for those who use its admin endpoint.
const tailPatience = 5 * time.Second

// tailRoom writes what is said in a room, a line each, until the client goes or the hub is being closed.
func tailRoom(w http.ResponseWriter, r *http.Request, h *sharedHub, room string) error {
	if _, err := readQuery(r); err != nil {
		return err
	}
	if err := checkRoomName(room); err != nil {
		return err
	}
	tail, err := h.Tail(room)
	if err != nil {
		return err
	}
	defer tail.Close()
	conn := http.NewResponseController(w)
	hurry := func() error { return conn.SetWriteDeadline(time.Now().Add(tailPatience)) }
	// What comes behind the last line is written by the server, who knows nothing of deadlines set here.
	defer func() { _ = hurry() }()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Connection", "close")
	w.WriteHeader(http.StatusOK)
	for {
		// From here on an error means that there is nobody to tell it to.
		if errors.Join(hurry(), conn.Flush()) != nil {
			return nil
		}
		lines, err := tail.Next(r.Context())
		if err != nil {
			return nil
		}
		for _, line := range lines {
			if err := hurry(); err != nil {
				return nil
			}
			if _, err := w.Write(append(visibleLine(line), '\n')); err != nil {
				return nil
			}
		}
	}
}
