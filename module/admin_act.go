package module

import (
	"encoding/json"
	"net/http"

	"github.com/caddyrooms/caddy-rooms/internal/hub"
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
	done := h.Do(r.Context(), o)
	return writeJSON(w, http.StatusOK, struct {
		Connections int  `json:"connections"`
		Degraded    bool `json:"degraded,omitempty"`
	}{done.Connections, done.Degraded})
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
	if err := checkMessage(&body.Event, body.Data); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, struct {
		Room     string `json:"room"`
		Degraded bool   `json:"degraded,omitempty"`
	}{body.Room, h.Publish(hub.Message{Room: body.Room, Event: body.Event, Data: body.Data})})
}
