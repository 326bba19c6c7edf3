package wire

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// Type is the type of a request.
type Type uint8

// The requests of a client.
const (
	Join Type = iota + 1
	Leave
	Publish
	Status
	Members
	Heartbeat
	Ping
	Auth
)

var types = map[string]Type{
	"join": Join, "leave": Leave, "publish": Publish, "status": Status, "members": Members, "heartbeat": Heartbeat, "ping": Ping, "auth": Auth,
}

// Request is a decoded client frame. ID, State and Data are raw JSON and alias the frame: copy what outlives it.
type Request struct {
	Type     Type
	ID       []byte // nil when the client wants no answer
	Room     string
	Status   string
	State    []byte   // a JSON object; nil when absent
	Presence Presence // of a join
	Event    string
	Data     []byte // any JSON value; "null" when absent
	Echo     bool
	Cursor   string
	Recent   bool
	Token    string
}

// Decode decodes one client frame. On an error the request has the ID, if there was a good one, so that the
// answer finds the question; the error's message never repeats what the client sent.
// Unknown fields are ignored, null is passed over, and of a field that comes twice the last one counts.
func Decode(frame []byte) (Request, *Error) {
	req := Request{Presence: PresenceFull}
	s, err := object(frame)
	if err != nil {
		return req, err
	}
	for key, value := range s.members {
		if e := req.set(unquote(key), value); e != nil && err == nil {
			err = e
		}
	}
	if err == nil {
		err = req.check()
	}
	return req, err
}

// DecodeOutside decodes a message that was published by someone who is no client: {"event":…,"data":…}, both optional.
// data aliases payload.
func DecodeOutside(payload []byte) (event string, data []byte, err *Error) {
	s, err := object(payload)
	if err != nil {
		return "", nil, err
	}
	req := Request{}
	for key, value := range s.members {
		switch k := unquote(key); string(k) {
		case "event", "data":
			if err = req.set(k, value); err != nil {
				return "", nil, err
			}
		}
	}
	if err = req.checkMessage(); err != nil {
		return "", nil, err
	}
	return req.Event, req.Data, nil
}

// object returns a scanner at the opening brace of frame.
func object(frame []byte) (*scanner, *Error) {
	if !utf8.Valid(frame) {
		return nil, &Error{BadRequest, "frame is not UTF-8"}
	}
	// With the grammar checked once, the scan needs no error handling of its own.
	if !json.Valid(frame) {
		return nil, &Error{BadRequest, "frame is not JSON"}
	}
	s := &scanner{b: frame}
	if s.space(); s.b[s.i] != '{' {
		return nil, &Error{BadRequest, "frame is not a JSON object"}
	}
	return s, nil
}

// set assigns one field from its raw JSON value.
func (r *Request) set(key, value []byte) (err *Error) {
	if value[0] == 'n' { // null
		return nil
	}
	switch string(key) {
	case "type":
		if value[0] != '"' {
			return &Error{BadRequest, `"type" must be a string`}
		}
		// A word that isn't known leaves 0, told by check.
		r.Type = types[string(unquote(value))]
	case "id":
		if value[0] != '"' && !integer(value) {
			return &Error{BadRequest, `"id" must be an integer or a string`}
		}
		r.ID = value
	case "room":
		r.Room, err = str(key, value)
	case "status":
		r.Status, err = str(key, value)
	case "state":
		if value[0] != '{' {
			return &Error{BadRequest, `"state" must be an object`}
		}
		r.State = value
	case "presence":
		var word string
		if word, err = str(key, value); err == nil {
			var ok bool
			if r.Presence, ok = ParsePresence(word); !ok {
				return &Error{BadRequest, `"presence" must be "full", "count" or "none"`}
			}
		}
	case "event":
		r.Event, err = str(key, value)
	case "data":
		r.Data = value
	case "echo":
		r.Echo, err = boolean(key, value)
	case "cursor":
		r.Cursor, err = str(key, value)
	case "token":
		r.Token, err = str(key, value)
	case "recent":
		r.Recent, err = boolean(key, value)
	}
	return err
}

// check tells what is missing or out of bounds for the type of request.
func (r *Request) check() *Error {
	if r.Type == 0 {
		return &Error{BadRequest, `"type" must be join, leave, publish, status, members, heartbeat, ping or auth`}
	}
	switch r.Type {
	case Join, Leave, Publish, Members:
		if err := CheckRoom(r.Room); err != nil {
			return err
		}
	case Status:
		if r.Room != "" {
			if err := CheckRoom(r.Room); err != nil {
				return err
			}
		} else if r.State != nil {
			return &Error{BadRequest, `"state" needs a "room"`}
		}
		if r.Status == "" && r.State == nil {
			return &Error{BadRequest, `"status" is missing`}
		}
	case Auth:
		if r.Token == "" {
			return &Error{BadRequest, `"token" is missing`}
		}
	case Heartbeat, Ping: // about nothing
	}
	if len(r.State) > MaxState {
		return &Error{TooLarge, `"state" is longer than 2048 bytes`}
	}
	if err := checkStatus(r.Status); err != nil {
		return err
	}
	return r.checkMessage()
}

// checkMessage checks event and data, and fills in what is absent.
func (r *Request) checkMessage() *Error {
	if r.Event == "" {
		r.Event = DefaultEvent
	}
	if r.Data == nil {
		r.Data = null
	}
	return CheckEvent(r.Event)
}

var null = []byte("null")

func boolean(key, value []byte) (bool, *Error) {
	if value[0] != 't' && value[0] != 'f' {
		return false, &Error{BadRequest, `"` + string(key) + `" must be true or false`}
	}
	return value[0] == 't', nil
}

func str(key, value []byte) (string, *Error) {
	if value[0] != '"' {
		return "", &Error{BadRequest, `"` + string(key) + `" must be a string`}
	}
	return string(unquote(value)), nil
}

// unquote decodes a JSON string that is known to be valid.
func unquote(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	var s string
	_ = json.Unmarshal(raw, &s) // the grammar was checked
	return []byte(s)
}

func integer(value []byte) bool {
	for i, c := range value {
		if (c < '0' || c > '9') && (i > 0 || c != '-') {
			return false
		}
	}
	return true
}

// scanner walks over JSON that is known to be valid.
type scanner struct {
	b []byte
	i int
}

// members yields the raw keys and values of the object that begins at the scanner's position.
func (s *scanner) members(yield func(key, value []byte) bool) {
	s.i++ // {
	for {
		s.space()
		switch s.b[s.i] {
		case '}':
			s.i++
			return
		case ',':
			s.i++
			continue
		}
		key := s.value()
		s.space()
		s.i++ // :
		s.space()
		if !yield(key, s.value()) {
			return
		}
	}
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\r', '\n':
			s.i++
		default:
			return
		}
	}
}

// value returns the raw value at the scanner's position and moves behind it.
func (s *scanner) value() []byte {
	start, depth := s.i, 0
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case '"':
			s.skipString()
			if depth == 0 {
				return s.b[start:s.i]
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return s.b[start:s.i] // the end of the object that holds a number or a word
			}
			if depth--; depth == 0 {
				s.i++
				return s.b[start:s.i]
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return s.b[start:s.i]
			}
		}
		s.i++
	}
	return s.b[start:s.i]
}

func (s *scanner) skipString() {
	for s.i++; s.b[s.i] != '"'; s.i++ {
		if s.b[s.i] == '\\' {
			s.i++
		}
	}
	s.i++
}
