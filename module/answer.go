package module

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyrooms/caddy-rooms/internal/hub"
	"github.com/caddyrooms/caddy-rooms/internal/moderation"
	"github.com/caddyrooms/caddy-rooms/presence"
)

// withStatus gives the errors of hub and store the status that they mean.
func withStatus(err error) error {
	switch {
	case errors.Is(err, presence.ErrInvalid), errors.Is(err, hub.ErrBadBan), errors.Is(err, hub.ErrBadSlowMode):
		return badRequest("%w", err)
	case errors.Is(err, hub.ErrClosing), errors.Is(err, presence.ErrClosed), errors.Is(err, moderation.ErrClosed):
		return statusError(http.StatusServiceUnavailable, "the hub is being closed")
	case errors.Is(err, moderation.ErrTooMany):
		return statusError(http.StatusServiceUnavailable, "there are too many (allowed: %d bans and %d slow modes)", moderation.MaxBans, moderation.MaxSlowModes)
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
	b, err := encodeJSON(v)
	if err != nil {
		return err
	}
	writeAnswer(w, status, "application/json", b)
	return nil
}

func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encoding answer: %w", err)
	}
	return append(visibleLine(bytes.TrimSpace(b.Bytes())), '\n'), nil
}

func writeAnswer(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(body) // an error means that the client has gone
}
