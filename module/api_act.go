package module

import (
	"cmp"
	"net/http"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/hub"
	"github.com/caddyrooms/caddy-rooms/internal/moderation"
)

// banTime is for how long somebody may be banned.
var banTime = durations(0, time.Second, moderation.MaxBan)

// doneOrder is what became of an order: with how many connections it was done, on all instances.
type doneOrder struct {
	User        string `json:"user,omitempty"`
	Room        string `json:"room,omitempty"`
	Connections int    `json:"connections"`
	Refused     int    `json:"refused,omitempty"`
	BannedUntil int64  `json:"banned_until,omitempty"`
	Degraded    bool   `json:"degraded,omitempty"`
}

// newDoneOrder returns what is said of an order about a user or a room, or both.
func newDoneOrder(user, room string, done hub.Done) doneOrder {
	return doneOrder{User: user, Room: room, Connections: done.Connections, Refused: done.Refused, Degraded: done.Degraded}
}

func kickOut(w http.ResponseWriter, r *http.Request, h *sharedHub) error {
	room, err := pathRoom(r)
	if err != nil {
		return err
	}
	var body struct {
		User optionalName `json:"user"`
		Conn optionalName `json:"conn"`
	}
	if err := readOrder(w, r, `{"user":"…"} or {"conn":"…"}`, false, &body); err != nil {
		return err
	}
	if body.User.given == body.Conn.given {
		return badRequest(`user %.300q and conn %.300q: exactly one of them must be given`, body.User.name, body.Conn.name)
	}
	if err := cmp.Or(body.User.check("user"), body.Conn.check("conn")); err != nil {
		return err
	}
	done := h.Do(r.Context(), hub.Order{Do: hub.Kick, User: body.User.name, Conn: body.Conn.name, Room: room})
	return writeJSON(w, http.StatusOK, newDoneOrder("", room, done))
}

// disconnectUser closes the connections of a user, or one of them, or bans the user, which closes them too.
func disconnectUser(w http.ResponseWriter, r *http.Request, h *sharedHub) error {
	user, err := pathUser(r)
	if err != nil {
		return err
	}
	var body struct {
		Conn optionalName `json:"conn"`
		Ban  optionalName `json:"ban"`
	}
	if err := readOrder(w, r, `{"conn":"…"}, {"ban":"10m"}, or nothing`, true, &body); err != nil {
		return err
	}
	if err := body.Conn.check("conn"); err != nil {
		return err
	}
	if body.Ban.given {
		if body.Conn.given {
			return badRequest(`there are both "conn" and "ban" (allowed: one of them, since a ban is for all connections of the user)`)
		}
		return ban(w, r, h, user, body.Ban.name)
	}
	done := h.Do(r.Context(), hub.Order{Do: hub.Disconnect, User: user, Conn: body.Conn.name})
	return writeJSON(w, http.StatusOK, newDoneOrder(user, "", done))
}

// ban keeps a user out for some time, and answers with how many connections that closes.
func ban(w http.ResponseWriter, r *http.Request, h *sharedHub, user, text string) error {
	d, err := parseDuration("ban", text, banTime)
	if err != nil {
		return err
	}
	until, done, err := h.Ban(r.Context(), user, d)
	if err != nil {
		return err
	}
	answer := newDoneOrder(user, "", done)
	answer.BannedUntil = until.UnixMilli()
	return writeJSON(w, http.StatusOK, answer)
}

// liftBan lets a user in again.
func liftBan(w http.ResponseWriter, r *http.Request, h *sharedHub) error {
	if _, err := readQuery(r); err != nil {
		return err
	}
	user, err := pathUser(r)
	if err != nil {
		return err
	}
	degraded, err := h.Unban(r.Context(), user)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, sentMessage{User: user, Degraded: degraded})
}

// joinRoom puts all connections of a user into a room.
func joinRoom(w http.ResponseWriter, r *http.Request, h *sharedHub) error {
	return move(w, r, h, hub.Enter)
}

// leaveRoom takes all connections of a user out of a room, as if they had left.
func leaveRoom(w http.ResponseWriter, r *http.Request, h *sharedHub) error {
	return move(w, r, h, hub.Remove)
}

func move(w http.ResponseWriter, r *http.Request, h *sharedHub, do hub.Deed) error {
	user, err := pathUser(r)
	if err != nil {
		return err
	}
	var body struct {
		Room string `json:"room"`
	}
	if err := readOrder(w, r, `{"room":"…"}`, false, &body); err != nil {
		return err
	}
	if err := checkRoomName(body.Room); err != nil {
		return err
	}
	done := h.Do(r.Context(), hub.Order{Do: do, User: user, Room: body.Room})
	return writeJSON(w, http.StatusOK, newDoneOrder(user, body.Room, done))
}
