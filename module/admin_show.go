package module

import (
	"encoding/json"
	"net/http"

	"github.com/caddyrooms/caddy-rooms/internal/hub"
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
	return writeAdmin(w, http.StatusOK, answer)
}

type adminRoom struct {
	Room        string `json:"room"`
	Count       int    `json:"count"`
	Connections int    `json:"connections"`
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
		Rooms []adminRoom `json:"rooms"`
		Next  *string     `json:"next"`
	}{make([]adminRoom, len(rooms)), nextPage(next)}
	for i, room := range rooms {
		answer.Rooms[i] = adminRoom(room)
	}
	return writeAdmin(w, http.StatusOK, answer)
}

type adminMember struct {
	User   string          `json:"user"`
	Status string          `json:"status"`
	State  json.RawMessage `json:"state"`
	Device string          `json:"device,omitempty"`
	Conns  int             `json:"conns"`
	Since  int64           `json:"since"`
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
		adminRoom
		Members  []adminMember `json:"members"`
		Next     *string       `json:"next"`
		Degraded bool          `json:"degraded,omitempty"`
	}{
		adminRoom: adminRoom{room, page.Count, connections},
		Members:   make([]adminMember, len(page.Members)), Next: nextPage(page.Next), Degraded: page.Degraded,
	}
	for i, m := range page.Members {
		answer.Members[i] = adminMember{m.User, m.Status, json.RawMessage(m.State), m.Device, m.Conns, m.Since}
	}
	return writeAdmin(w, http.StatusOK, answer)
}

type adminConnection struct {
	Conn   string   `json:"conn"`
	User   string   `json:"user,omitempty"` // left out where it is said already
	Device string   `json:"device,omitempty"`
	Since  int64    `json:"since"`
	Rooms  []string `json:"rooms"`
}

func adminConnections(connections []hub.Connection) []adminConnection {
	list := make([]adminConnection, len(connections))
	for i, c := range connections {
		list[i] = adminConnection{c.ID, c.User, c.Device, c.Since.UnixMilli(), c.Rooms}
	}
	return list
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
	return writeAdmin(w, http.StatusOK, struct {
		Connections []adminConnection `json:"connections"`
		Next        *string           `json:"next"`
	}{adminConnections(connections), nextPage(next)})
}

// adminUser is a user. What is not known of one who is not online is left out.
type adminUser struct {
	User        string            `json:"user"`
	Online      bool              `json:"online"`
	Status      string            `json:"status,omitempty"`
	Devices     []string          `json:"devices,omitzero"`
	Conns       int               `json:"conns,omitempty"`
	Since       int64             `json:"since,omitempty"`
	LastSeen    int64             `json:"last_seen,omitempty"`
	Device      string            `json:"device,omitempty"` // the last one
	Source      hub.Source        `json:"source"`
	Connections []adminConnection `json:"connections"`
	Next        *string           `json:"next,omitempty"` // in the list of connections
	Degraded    bool              `json:"degraded,omitempty"`
	Stale       bool              `json:"stale,omitempty"`
	AsOf        int64             `json:"as_of,omitempty"`
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
	return writeAdmin(w, http.StatusOK, adminUser{
		User: id, Online: u.Online, Status: u.Status, Devices: u.Devices, Conns: u.Conns, Since: u.Since, LastSeen: u.LastSeen,
		Connections: adminConnections(u.Connections), Next: nextPage(u.Next),
		Device: u.Device, Source: u.Source, Degraded: u.Degraded, Stale: u.AsOf != 0, AsOf: u.AsOf,
	})
}
