package module

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/caddyrooms/caddy-rooms/internal/hub"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/presence"
)

// maxOrder is the longest body of an order, in bytes.
const maxOrder = 64 << 10

// disconnect closes the connections of a user, or one of them.
func disconnect(w http.ResponseWriter, r *http.Request, h *sharedHub, _ string) error {
	var body struct {
		User string `json:"user"`
		Conn string `json:"conn"`
	}
	if err := readBody(w, r, maxOrder, `{"user":"…"} or {"conn":"…"}`, &body); err != nil {
		return err
	}
	return order(w, r, h, hub.Order{Do: hub.Disconnect, User: body.User, Conn: body.Conn})
}

// kick takes the connections of a user, or one of them, out of a room.
func kick(w http.ResponseWriter, r *http.Request, h *sharedHub, _ string) error {
	var body struct {
		Room string `json:"room"`
		User string `json:"user"`
		Conn string `json:"conn"`
	}
	if err := readBody(w, r, maxOrder, `{"room":"…","user":"…"} or {"room":"…","conn":"…"}`, &body); err != nil {
		return err
	}
	if err := checkRoomName(body.Room); err != nil {
		return err
	}
	return order(w, r, h, hub.Order{Do: hub.Kick, User: body.User, Conn: body.Conn, Room: body.Room})
}

func order(w http.ResponseWriter, r *http.Request, h *sharedHub, o hub.Order) error {
	if (o.User == "") == (o.Conn == "") {
		return badRequest(`user %q and conn %q: exactly one of them must be given`, o.User, o.Conn)
	}
	field, name := "user", o.User
	if o.Conn != "" {
		field, name = "conn", o.Conn
	}
	if err := checkWho(field, name); err != nil {
		return err
	}
	connections, degraded := h.Do(r.Context(), o)
	return writeAdmin(w, http.StatusOK, struct {
		Connections int  `json:"connections"`
		Degraded    bool `json:"degraded,omitempty"`
	}{connections, degraded})
}

// publishMessage sends a message that is from no client.
func publishMessage(w http.ResponseWriter, r *http.Request, h *sharedHub, _ string) error {
	var body struct {
		Room  string          `json:"room"`
		Event string          `json:"event"`
		Data  json.RawMessage `json:"data"`
	}
	if err := readBody(w, r, h.MaxMessage(), `{"room":"…","event":"…","data":…}, event may be left out`, &body); err != nil {
		return err
	}
	if err := checkRoomName(body.Room); err != nil {
		return err
	}
	if body.Event == "" {
		body.Event = wire.DefaultEvent
	}
	if err := wire.CheckEvent(body.Event); err != nil {
		return badRequest("event %q: %s", body.Event, err.Message)
	}
	if body.Data == nil {
		return badRequest(`"data" is missing (allowed: any JSON)`)
	}
	return writeAdmin(w, http.StatusOK, struct {
		Room     string `json:"room"`
		Degraded bool   `json:"degraded,omitempty"`
	}{body.Room, h.Publish(hub.Message{Room: body.Room, Event: body.Event, Data: body.Data})})
}

// readBody decodes the body of a request, of at most so many bytes, into what it must fit exactly. form is what it looks like, for errors.
func readBody(w http.ResponseWriter, r *http.Request, most int, form string, into any) error {
	if _, err := readQuery(r); err != nil {
		return err
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(most)))
	if _, tooLong := errors.AsType[*http.MaxBytesError](err); tooLong {
		return adminError(http.StatusRequestEntityTooLarge, "body is too long (allowed: %d bytes)", most)
	}
	if err != nil {
		return badRequest("reading body: %w", err)
	}
	if !utf8.Valid(b) {
		return badRequest("body is not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err = d.Decode(into)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return badRequest("bad body: %s can't be a JSON %s (allowed: %s)", cmp.Or(wrong.Field, "it"), wrong.Value, form)
	}
	if err != nil {
		return badRequest("bad body: %s (allowed: %s)", strings.TrimPrefix(err.Error(), "json: "), form)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return badRequest("bad body: something follows the JSON object (allowed: %s)", form)
	}
	return nil
}

// checkWho tells what is wrong with what a user or a connection is called.
func checkWho(field, name string) error {
	if name == "" || len(name) > presence.MaxName || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return badRequest("bad %s %.300q (allowed: 1 to %d bytes of UTF-8 without control characters)", field, name, presence.MaxName)
	}
	return nil
}
