package module

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyrooms/caddy-rooms/internal/hub"
	"github.com/caddyrooms/caddy-rooms/presence"
)

// withStatus gives the errors of hub and store the status that they mean.
func withStatus(err error) error {
	switch {
	case errors.Is(err, presence.ErrInvalid):
		return badRequest("%w", err)
	case errors.Is(err, hub.ErrClosing), errors.Is(err, presence.ErrClosed):
		return statusError(http.StatusServiceUnavailable, "the hub is being closed")
	}
	return err
}

func statusError(status int, format string, args ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, args...)}
}

func badRequest(format string, args ...any) error {
	return statusError(http.StatusBadRequest, format, args...)
}

// writeJSON answers with v as JSON.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encoding answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(visibleLine(bytes.TrimSpace(b.Bytes())), '\n')) // an error means that the client has gone
	return nil
}
