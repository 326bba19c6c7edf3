package module

import (
	"encoding/json"

	"github.com/caddyrooms/caddy-rooms/internal/hub"
	"github.com/caddyrooms/caddy-rooms/presence"
)

// What there is in a hub, as the admin endpoint and the API show it.

type shownRoom struct {
	Room        string `json:"room"`
	Count       int    `json:"count"`
	Connections int    `json:"connections"`
}

// shownRooms is a page of rooms.
type shownRooms struct {
	Rooms []shownRoom `json:"rooms"`
	Next  *string     `json:"next"`
}

func showRoomsPage(rooms []hub.RoomInfo, next string) shownRooms {
	page := shownRooms{make([]shownRoom, len(rooms)), nextPage(next)}
	for i, room := range rooms {
		page.Rooms[i] = shownRoom(room)
	}
	return page
}

type shownMember struct {
	User   string          `json:"user"`
	Status string          `json:"status"`
	State  json.RawMessage `json:"state"`
	Device string          `json:"device,omitempty"`
	Conns  int             `json:"conns"`
	Since  int64           `json:"since"`
}

// shownMembers is a page of members.
type shownMembers struct {
	Members  []shownMember `json:"members"`
	Next     *string       `json:"next"`
	Degraded bool          `json:"degraded,omitempty"`
}

func showMembersPage(page presence.Snapshot) shownMembers {
	members := shownMembers{make([]shownMember, len(page.Members)), nextPage(page.Next), page.Degraded}
	for i, m := range page.Members {
		members.Members[i] = shownMember{m.User, m.Status, json.RawMessage(m.State), m.Device, m.Conns, m.Since}
	}
	return members
}

type shownConnection struct {
	Conn   string   `json:"conn"`
	Node   string   `json:"node,omitempty"` // of all instances
	User   string   `json:"user,omitempty"` // left out where it is said already
	Device string   `json:"device,omitempty"`
	Since  int64    `json:"since"`
	Rooms  []string `json:"rooms"`
}

func shownConnections(connections []hub.Connection) []shownConnection {
	list := make([]shownConnection, len(connections))
	for i, c := range connections {
		list[i] = shownConnection{Conn: c.ID, User: c.User, Device: c.Device, Since: c.Since.UnixMilli(), Rooms: c.Rooms}
	}
	return list
}

// shownUser is a user. What is not known of one who is not online is left out.
type shownUser struct {
	User        string            `json:"user"`
	Online      bool              `json:"online"`
	Status      string            `json:"status,omitempty"`
	Devices     []string          `json:"devices,omitzero"`
	Conns       int               `json:"conns,omitempty"`
	Since       int64             `json:"since,omitempty"`
	LastSeen    int64             `json:"last_seen,omitempty"`
	Device      string            `json:"device,omitempty"` // the last one
	Source      hub.Source        `json:"source"`
	Connections []shownConnection `json:"connections"`
	Next        *string           `json:"next,omitempty"` // in the list of connections
	Degraded    bool              `json:"degraded,omitempty"`
	Stale       bool              `json:"stale,omitempty"`
	AsOf        int64             `json:"as_of,omitempty"`
}

// showUserInfo returns what is known of a user. Whose the connections are is said already.
func showUserInfo(id string, u hub.UserInfo) shownUser {
	for i := range u.Connections {
		u.Connections[i].User = ""
	}
	return shownUser{
		User: id, Online: u.Online, Status: u.Status, Devices: u.Devices, Conns: u.Conns, Since: u.Since, LastSeen: u.LastSeen,
		Connections: shownConnections(u.Connections),
		Device:      u.Device, Source: u.Source, Degraded: u.Degraded, Stale: u.AsOf != 0, AsOf: u.AsOf,
	}
}
