package module

import (
	"encoding/json"
	"net/http"
)

// adminHub is a hub in the list of all.
type adminHub struct {
	Hub         string `json:"hub"`
	Node        string `json:"node"`
	Redis       string `json:"redis,omitempty"`
	State       string `json:"state"`
	Connections int    `json:"connections"`
	Rooms       int    `json:"rooms"`
	Members     int    `json:"members"`
}

func showHubs(w http.ResponseWriter, r *http.Request) error {
	if _, err := readQuery(r); err != nil {
		return err
	}
	answer := struct {
		Hubs []adminHub `json:"hubs"`
	}{[]adminHub{}}
	for _, h := range presentHubs() {
		o := h.Occupancy()
		answer.Hubs = append(answer.Hubs, adminHub{
			Hub: h.key.name, Node: h.Node(), Redis: h.key.redis.address, State: h.State().String(),
			Connections: o.Connections, Rooms: o.Rooms, Members: o.Members,
		})
	}
	return writeJSON(w, http.StatusOK, answer)
}

func showRooms(w http.ResponseWriter, r *http.Request, h *sharedHub, _ string) error {
	query, after, limit, err := readPage(r, "prefix")
	if err != nil {
		return err
	}
	prefix := query.Get("prefix")
	if prefix != "" {
		if err := checkRoomName(prefix); err != nil {
			return err
		}
	}
	rooms, next := h.Rooms(prefix, after, limit)
	answer := struct {
		Rooms []shownRoom `json:"rooms"`
		Next  *string     `json:"next"`
	}{make([]shownRoom, len(rooms)), nextPage(next)}
	for i, room := range rooms {
		answer.Rooms[i] = shownRoom(room)
	}
	return writeJSON(w, http.StatusOK, answer)
}

func showMembers(w http.ResponseWriter, r *http.Request, h *sharedHub, room string) error {
	_, after, limit, err := readPage(r)
	if err != nil {
		return err
	}
	if err := checkRoomName(room); err != nil {
		return err
	}
	page, connections, err := h.RoomMembers(room, after, limit)
	if err != nil {
		return err
	}
	answer := struct {
		shownRoom
		Members  []shownMember `json:"members"`
		Next     *string       `json:"next"`
		Degraded bool          `json:"degraded,omitempty"`
	}{
		shownRoom: shownRoom{room, page.Count, connections},
		Members:   make([]shownMember, len(page.Members)), Next: nextPage(page.Next), Degraded: page.Degraded,
	}
	for i, m := range page.Members {
		answer.Members[i] = shownMember{m.User, m.Status, json.RawMessage(m.State), m.Device, m.Conns, m.Since}
	}
	return writeJSON(w, http.StatusOK, answer)
}

func showConnections(w http.ResponseWriter, r *http.Request, h *sharedHub, _ string) error {
	query, after, limit, err := readPage(r, "user", "room")
	if err != nil {
		return err
	}
	user, room := query.Get("user"), query.Get("room")
	if query.Has("room") {
		if err := checkRoomName(room); err != nil {
			return err
		}
	}
	if query.Has("user") {
		if err := checkWho("user", user); err != nil {
			return err
		}
	}
	connections, next := h.ConnectionsOf(user, room, after, limit)
	return writeJSON(w, http.StatusOK, struct {
		Connections []shownConnection `json:"connections"`
		Next        *string           `json:"next"`
	}{shownConnections(connections), nextPage(next)})
}

func showUser(w http.ResponseWriter, r *http.Request, h *sharedHub, id string) error {
	if _, err := readQuery(r); err != nil {
		return err
	}
	if err := checkWho("user", id); err != nil {
		return err
	}
	u, err := h.User(r.Context(), id, pageLimit.max)
	if err != nil {
		return err
	}
	for i := range u.Connections {
		u.Connections[i].User = ""
	}
	return writeJSON(w, http.StatusOK, shownUser{
		User: id, Online: u.Online, Status: u.Status, Devices: u.Devices, Conns: u.Conns, Since: u.Since, LastSeen: u.LastSeen,
		Connections: shownConnections(u.Connections), Next: nextPage(u.Next),
		Device: u.Device, Source: u.Source, Degraded: u.Degraded, Stale: u.AsOf != 0, AsOf: u.AsOf,
	})
}
