package module

import (
	"encoding/json"
	"mime"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// readJSONBody returns the body of a request, which must be said to be JSON. An empty one is nil, and refused unless it is optional.
func readJSONBody(w http.ResponseWriter, r *http.Request, most int, form string, optional bool) ([]byte, error) {
	b, err := readBytes(w, r, most)
	switch {
	case err != nil:
		return nil, err
	case len(b) == 0 && optional:
		return nil, nil
	case len(b) == 0:
		return nil, badRequest("body is missing (allowed: %s)", form)
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return nil, statusError(http.StatusUnsupportedMediaType, "bad Content-Type %.300q (allowed: application/json)", r.Header.Get("Content-Type"))
	}
	return b, nil
}

// readOrder decodes a body that says what to do with somebody.
func readOrder(w http.ResponseWriter, r *http.Request, form string, optional bool, into any) error {
	b, err := readJSONBody(w, r, maxOrder, form, optional)
	if err != nil || b == nil {
		return err
	}
	return decodeBody(b, form, into)
}

// optionalName is what a user or a connection is called, if it is given. An empty one and null are given too, and wrong: a backend that does
// not know whom it means does not mean everybody.
type optionalName struct {
	given bool
	name  string
}

// UnmarshalJSON implements json.Unmarshaler.
func (n *optionalName) UnmarshalJSON(b []byte) error {
	*n = optionalName{given: true}
	return json.Unmarshal(b, &n.name)
}

// check tells what is wrong with the name, if it is given.
func (n optionalName) check(field string) error {
	if !n.given {
		return nil
	}
	return checkWho(field, n.name)
}

// parseDuration returns a duration as the Caddyfile has it, which must be within bounds.
func parseDuration(field, s string, allowed bounds[caddy.Duration]) (time.Duration, error) {
	d, err := caddy.ParseDuration(s)
	if err != nil || allowed.checkGiven(caddy.Duration(d)) != nil {
		return 0, badRequest("bad %s %.300q (allowed: %s)", field, s, allowed)
	}
	return d, nil
}

// pathUser returns the user that the path names.
func pathUser(r *http.Request) (string, error) {
	user := r.PathValue("user")
	return user, checkWho("user", user)
}

// pathRoom returns the room that the path names.
func pathRoom(r *http.Request) (string, error) {
	room := r.PathValue("room")
	return room, checkRoomName(room)
}
