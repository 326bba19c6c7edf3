// Package wire is the protocol rooms.v1: it decodes what a client sends and encodes what it receives.
// It knows the words and their bounds, not what they do.
package wire

import (
	"unicode"
	"unicode/utf8"
)

// Subprotocol is the WebSocket subprotocol that names this version of the protocol.
const Subprotocol = "rooms.v1"

// Bounds of names, in bytes; MaxStatus is in characters.
const (
	MaxRoom   = 200
	MaxEvent  = 64
	MaxStatus = 32
	MaxState  = 2048
	MaxPage   = 1000 // members in one answer
)

// DefaultEvent is the event of a publish that names none.
const DefaultEvent = "message"

// Code is an error code of the protocol, a closed list.
type Code string

// The error codes.
const (
	BadRequest   Code = "bad_request"
	Unauthorized Code = "unauthorized"
	Forbidden    Code = "forbidden"
	NotJoined    Code = "not_joined"
	RoomFull     Code = "room_full"
	TooLarge     Code = "too_large"
	TooManyRooms Code = "too_many_rooms"
	RateLimited  Code = "rate_limited"
	Unavailable  Code = "unavailable"
	Internal     Code = "internal"
)

// Close codes. Their hundreds decide what a client does: 40xx stay away, 41xx come back later, 42xx come back.
const (
	CloseNormal             = 1000
	CloseGoingAway          = 1001
	CloseNoStatus           = 1005 // never on the wire: what a browser's close() without a code amounts to
	CloseProtocolError      = 4000
	CloseUnauthorized       = 4001
	CloseForbidden          = 4002
	CloseTooLarge           = 4004
	CloseKicked             = 4005
	CloseFlood              = 4100
	CloseTooManyConnections = 4101
	CloseUnavailable        = 4102
	CloseRestart            = 4200
	CloseSlow               = 4201
	ClosePingTimeout        = 4202
)

// Presence is how much of a room's presence a member is told.
type Presence uint8

// The presence modes, from least to most.
const (
	PresenceNone Presence = iota
	PresenceCount
	PresenceFull
)

// ParsePresence returns the mode with that name.
func ParsePresence(s string) (Presence, bool) {
	switch s {
	case "none":
		return PresenceNone, true
	case "count":
		return PresenceCount, true
	case "full":
		return PresenceFull, true
	}
	return 0, false
}

// Error is the refusal of a request.
type Error struct {
	Code    Code
	Message string
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// CheckRoom tells what is wrong with a room name: 1 to 200 of A-Z a-z 0-9 _ . : @ / - but neither . nor ..
func CheckRoom(room string) *Error {
	if room == "" {
		return &Error{BadRequest, `"room" is missing`}
	}
	if len(room) > MaxRoom {
		return &Error{TooLarge, `"room" is longer than 200 characters`}
	}
	if Dots(room) {
		return &Error{BadRequest, `"room" can't be . or ..`}
	}
	for i := range len(room) {
		if !roomByte[room[i]] {
			return &Error{BadRequest, `"room" may only have A-Z a-z 0-9 _ . : @ / -`}
		}
	}
	return nil
}

// Dots tells whether a name is one of those that can't stand in the path of a URL: clients resolve them before they send a request, also
// when they are percent-encoded (https://url.spec.whatwg.org/#double-dot-path-segment).
func Dots(name string) bool { return name == "." || name == ".." }

var roomByte = func() (t [256]bool) {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:@/-" {
		t[c] = true
	}
	return t
}()

// CheckEvent tells what is wrong with the name of an event: up to 64 bytes without control characters.
func CheckEvent(event string) *Error {
	if len(event) > MaxEvent {
		return &Error{TooLarge, `"event" is longer than 64 bytes`}
	}
	for _, r := range event {
		if unicode.IsControl(r) {
			return &Error{BadRequest, `"event" has a control character`}
		}
	}
	return nil
}

func checkStatus(status string) *Error {
	if utf8.RuneCountInString(status) > MaxStatus {
		return &Error{BadRequest, `"status" is longer than 32 characters`}
	}
	for _, r := range status {
		if unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return &Error{BadRequest, `"status" must be one word`}
		}
	}
	return nil
}
