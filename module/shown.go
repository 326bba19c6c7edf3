package module

import (
	"encoding/json"

	"github.com/caddyrooms/caddy-rooms/internal/hub"
)

// What there is in a hub, as the admin endpoint and the API show it.

type shownRoom struct {
	Room        string `json:"room"`
	Count       int    `json:"count"`
	Connections int    `json:"connections"`
}

type shownMember struct {
	User   string          `json:"user"`
	Status string          `json:"status"`
	State  json.RawMessage `json:"state"`
	Device string          `json:"device,omitempty"`
	Conns  int             `json:"conns"`
	Since  int64           `json:"since"`
}

type shownConnection struct {
	Conn   string   `json:"conn"`
	User   string   `json:"user,omitempty"` // left out where it is said already
	Device string   `json:"device,omitempty"`
	Since  int64    `json:"since"`
	Rooms  []string `json:"rooms"`
}

func shownConnections(connections []hub.Connection) []shownConnection {
	list := make([]shownConnection, len(connections))
	for i, c := range connections {
		list[i] = shownConnection{c.ID, c.User, c.Device, c.Since.UnixMilli(), c.Rooms}
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
