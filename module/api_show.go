package module

import (
	"net/http"
	"slices"
)

func listRooms(w http.ResponseWriter, r *http.Request, h *sharedHub) error {
	prefix, after, limit, err := readRoomsPage(r)
	if err != nil {
		return err
	}
	rooms, next, degraded, err := h.RoomsEverywhere(r.Context(), prefix, after, limit)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, struct {
		shownRooms
		Degraded bool `json:"degraded,omitempty"`
	}{showRoomsPage(rooms, next), degraded})
}

func getRoom(w http.ResponseWriter, r *http.Request, h *sharedHub) error {
	if _, err := readQuery(r); err != nil {
		return err
	}
	room, err := pathRoom(r)
	if err != nil {
		return err
	}
	info, degraded, err := h.RoomEverywhere(r.Context(), room)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, struct {
		shownRoom
		Limits   *shownLimits `json:"limits,omitempty"`
		Degraded bool         `json:"degraded,omitempty"`
	}{shownRoom(info), showRoomLimits(h.SlowMode(room)), degraded})
}

func listMembers(w http.ResponseWriter, r *http.Request, h *sharedHub) error {
	_, after, limit, err := readPage(r)
	if err != nil {
		return err
	}
	room, err := pathRoom(r)
	if err != nil {
		return err
	}
	page, _, err := h.RoomMembers(room, after, limit)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, struct {
		Room  string `json:"room"`
		Count int    `json:"count"`
		shownMembers
	}{room, page.Count, showMembersPage(page)})
}

func getUser(w http.ResponseWriter, r *http.Request, h *sharedHub) error {
	_, after, limit, err := readPage(r)
	if err != nil {
		return err
	}
	user, err := pathUser(r)
	if err != nil {
		return err
	}
	u, err := h.UserEverywhere(r.Context(), user, after, limit)
	if err != nil {
		return err
	}
	answer := struct {
		shownUser
		Next        *string  `json:"next"` // in the list of connections; there always
		Rooms       []string `json:"rooms"`
		BannedUntil int64    `json:"banned_until,omitempty"`
	}{shownUser: showUserInfo(user, u), Next: nextPage(u.Next), Rooms: []string{}}
	for i, c := range u.Connections {
		answer.Connections[i].Node = c.Node
		answer.Rooms = append(answer.Rooms, c.Rooms...)
	}
	slices.Sort(answer.Rooms)
	answer.Rooms = slices.Compact(answer.Rooms)
	if until, banned := h.Banned(user); banned {
		answer.BannedUntil = until.UnixMilli()
	}
	return writeJSON(w, http.StatusOK, answer)
}

// shownNode is how much there is on an instance.
type shownNode struct {
	Node        string `json:"node"`
	Connections int    `json:"connections"`
	Rooms       int    `json:"rooms"`
	Members     int    `json:"members"`
}

func getStats(w http.ResponseWriter, r *http.Request, h *sharedHub) error {
	if _, err := readQuery(r); err != nil {
		return err
	}
	stats, err := h.Stats(r.Context())
	if err != nil {
		return err
	}
	answer := struct {
		Users       int         `json:"users"`
		Rooms       int         `json:"rooms"`
		Connections int         `json:"connections"`
		Members     int         `json:"members"`
		Nodes       []shownNode `json:"nodes"`
		Degraded    bool        `json:"degraded,omitempty"`
	}{Users: stats.Users, Rooms: stats.Rooms, Nodes: []shownNode{}, Degraded: stats.Degraded}
	for _, n := range stats.Nodes {
		answer.Connections += n.Connections
		answer.Members += n.Members
		answer.Nodes = append(answer.Nodes, shownNode{n.Node, n.Connections, n.Rooms, n.Members})
	}
	return writeJSON(w, http.StatusOK, answer)
}

func getHealth(w http.ResponseWriter, r *http.Request, h *sharedHub) error {
	strict, err := readStrict(r)
	if err != nil {
		return err
	}
	health := h.health()
	return writeJSON(w, readyStatus(health.Status, strict), health)
}
