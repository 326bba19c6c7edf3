package module

import (
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
	prefix, after, limit, err := readRoomsPage(r)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, showRoomsPage(h.Rooms(prefix, after, limit)))
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
	return writeJSON(w, http.StatusOK, struct {
		shownRoom
		shownMembers
	}{shownRoom{room, page.Count, connections}, showMembersPage(page)})
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
	answer := showUserInfo(id, u)
	answer.Next = nextPage(u.Next)
	return writeJSON(w, http.StatusOK, answer)
}
