package hub

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/coder/websocket"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/internal/ws"
)

// closeAbnormal is the code of a connection that has ended without a close frame (RFC 6455, section 7.4.1).
const closeAbnormal = int(websocket.StatusAbnormalClosure)

// loggedRooms is how many rooms of a connection are logged.
const loggedRooms = 64

// closing is how a connection has ended.
type closing struct {
	code   int
	reason string
	by     string // server, client or network
	err    error  // what the network has said, or how the protocol was broken; nil otherwise
}

// closing tells how the connection has ended, given how the peer has ended it.
func (s *Session) closing(peerCode int, err error) closing {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := closing{code: s.code, reason: s.reason, by: "server"}
	if c.code != 0 {
		return c
	}
	if frame, ok := errors.AsType[websocket.CloseError](err); ok {
		return closing{code: peerCode, reason: printable(frame.Reason), by: "client"}
	}
	if broken, ok := errors.AsType[ws.ViolationError](err); ok {
		return closing{broken.Code, "protocol error", "server", err}
	}
	return closing{closeAbnormal, "lost", "network", err}
}

// printable returns s without what could steer the terminal of whoever reads the log.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// label is the code as metrics tell it. A peer may choose any code: those without a meaning here are one.
func (c closing) label() string {
	switch c.code {
	case wire.CloseNormal, wire.CloseGoingAway, wire.CloseNoStatus, closeAbnormal:
	default:
		if c.by != "server" {
			return "other"
		}
	}
	return strconv.Itoa(c.code)
}

// record counts and logs the end of the session. work is held.
func (s *Session) record(peerCode int, err error) {
	end := s.closing(peerCode, err)
	s.hub.metrics.Closed(end.label())
	level := zapcore.DebugLevel
	if s.endpoint.Policy().LogConnections {
		level = zapcore.InfoLevel
	}
	entry := s.hub.connLog.Check(level, "connection ended")
	if entry == nil {
		return
	}
	rooms := make([]string, 0, min(s.rooms.Len(), loggedRooms))
	for name := range s.rooms.Keys() {
		if len(rooms) == loggedRooms {
			break
		}
		rooms = append(rooms, name)
	}
	slices.Sort(rooms)
	in, out := s.conn.Traffic()
	fields := []zap.Field{
		zap.String("conn", s.id), zap.String("user", s.user), zap.Duration("duration", time.Since(s.opened)),
		zap.Int("messages_in", in.Messages), zap.Int("bytes_in", in.Bytes),
		zap.Int("messages_out", out.Messages), zap.Int("bytes_out", out.Bytes),
		zap.Strings("rooms", rooms), zap.Int("room_count", s.rooms.Len()),
		zap.Int("code", end.code), zap.String("reason", end.reason), zap.String("by", end.by),
	}
	if end.err != nil {
		fields = append(fields, zap.String("error", printable(end.err.Error())))
	}
	entry.Write(fields...)
}
