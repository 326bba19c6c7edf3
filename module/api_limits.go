package module

import (
	"cmp"
	"encoding/json"
	"net/http"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/hub"
)

// shownLimits are the limits that were set for a room.
type shownLimits struct {
	Publish shownLimit `json:"publish"`
}

// shownLimit is how many events each user may have in a window, which is in milliseconds.
type shownLimit struct {
	Events int   `json:"events"`
	Window int64 `json:"window"`
}

// showRoomLimits returns the limits that were set for a room, nil for none.
func showRoomLimits(slow *hub.SlowMode) *shownLimits {
	if slow == nil {
		return nil
	}
	return &shownLimits{shownLimit{slow.Events, slow.Window.Milliseconds()}}
}

// roomState is a room whose limits were changed.
type roomState struct {
	Room     string       `json:"room"`
	Limits   *shownLimits `json:"limits,omitempty"`
	Degraded bool         `json:"degraded,omitempty"`
}

// putRoomLimits slows a room down, or, without limits, lets it go.
func putRoomLimits(w http.ResponseWriter, r *http.Request, h *sharedHub) error {
	const form = `{"publish":{"events":1,"window":"10s"}} or {}`
	var given struct {
		Publish json.RawMessage `json:"publish"`
	}
	var body struct {
		Publish *struct {
			Events int    `json:"events"`
			Window string `json:"window"`
		} `json:"publish"`
	}
	b, err := readJSONBody(w, r, maxOrder, form, false)
	if err == nil {
		err = cmp.Or(decodeBody(b, form, &given), decodeBody(b, form, &body))
	}
	if err != nil {
		return err
	}
	if string(given.Publish) == "null" { // of who does not know which limit he means, and not of who lifts it
		return badRequest("bad body: publish can't be a JSON null (allowed: %s)", form)
	}
	if body.Publish == nil {
		return setRoomLimits(w, r, h, nil)
	}
	if limitEvents.checkGiven(body.Publish.Events) != nil {
		return badRequest("bad events %d (allowed: %s)", body.Publish.Events, limitEvents)
	}
	window, err := parseDuration("window", body.Publish.Window, limitWindow)
	if err != nil {
		return err
	}
	return setRoomLimits(w, r, h, &hub.SlowMode{Events: body.Publish.Events, Window: window.Truncate(time.Millisecond)})
}

func deleteRoomLimits(w http.ResponseWriter, r *http.Request, h *sharedHub) error {
	if _, err := readQuery(r); err != nil {
		return err
	}
	return setRoomLimits(w, r, h, nil)
}

func setRoomLimits(w http.ResponseWriter, r *http.Request, h *sharedHub, slow *hub.SlowMode) error {
	room, err := pathRoom(r)
	if err != nil {
		return err
	}
	degraded, err := h.SetSlowMode(r.Context(), room, slow)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, roomState{room, showRoomLimits(slow), degraded})
}

// resetLimit has what a limit has counted forgotten.
func resetLimit(w http.ResponseWriter, r *http.Request, h *sharedHub) error {
	if _, err := readQuery(r); err != nil {
		return err
	}
	limit, key := r.PathValue("limit"), r.PathValue("key")
	known, degraded := h.ResetLimit(r.Context(), limit, key)
	if !known {
		return statusError(http.StatusNotFound, "no limit %.300q", limit)
	}
	return writeJSON(w, http.StatusOK, struct {
		Limit    string `json:"limit"`
		Key      string `json:"key"`
		Degraded bool   `json:"degraded,omitempty"`
	}{limit, key, degraded})
}
