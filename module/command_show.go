package module

import (
	"bytes"
	"context"
	"encoding/json"
	"net/url"
	"slices"
)

// Of the API's answers, what people are shown. Programs get the answers themselves.
type (
	hubAnswer struct {
		Hub         string `json:"hub"`
		Node        string `json:"node"`
		State       string `json:"state"`
		Connections int64  `json:"connections"`
		Rooms       int64  `json:"rooms"`
		Members     int64  `json:"members"`
	}
	healthAnswer struct {
		Status string      `json:"status"`
		Hubs   []hubHealth `json:"hubs"`
	}
	hubHealth struct {
		Hub      string   `json:"hub"`
		Status   string   `json:"status"`
		Redis    string   `json:"redis"`
		Delivery string   `json:"delivery"`
		Problems []string `json:"problems"`
	}
	roomsAnswer struct {
		Rooms []struct {
			Room        string `json:"room"`
			Count       int64  `json:"count"`
			Connections int64  `json:"connections"`
		} `json:"rooms"`
	}
	membersAnswer struct {
		Count       int64 `json:"count"`
		Connections int64 `json:"connections"`
		Members     []struct {
			User   string          `json:"user"`
			Status string          `json:"status"`
			State  json.RawMessage `json:"state"`
			Device string          `json:"device"`
			Conns  int64           `json:"conns"`
			Since  int64           `json:"since"` // Unix milliseconds
		} `json:"members"`
		Degraded bool `json:"degraded"`
	}
)

// status shows all hubs, or that of --hub.
func (c *console) status(ctx context.Context) error {
	list, hubs, err := c.hubs(ctx)
	if err != nil {
		return err
	}
	doc, err := c.api.health(ctx)
	if err != nil {
		return err
	}
	if c.json {
		return c.statusJSON(list, doc)
	}
	var health healthAnswer
	if err := decodeAnswer(doc, &health); err != nil {
		return err
	}
	t := newTable("HUB", "NODE", "STATUS", "REDIS", "DELIVERY", "CONNECTIONS", "ROOMS", "MEMBERS")
	for _, h := range hubs {
		if c.meant(h.Hub) {
			of := health.of(h)
			t.row(visibleName(h.Hub), orDash(h.Node), orDash(of.Status), visibleText(of.Redis), visibleText(of.Delivery), h.Connections, h.Rooms, h.Members)
		}
	}
	if err := t.print(c.out); err != nil {
		return err
	}
	for _, h := range health.Hubs {
		if !c.meant(h.Hub) {
			continue
		}
		for _, problem := range h.Problems {
			if err := c.printf("%s: %s\n", visibleName(h.Hub), visibleText(problem)); err != nil {
				return err
			}
		}
	}
	return nil
}

// of returns how a hub does. One that drains and its successor have the same name.
func (a healthAnswer) of(h hubAnswer) hubHealth {
	at := slices.IndexFunc(a.Hubs, func(of hubHealth) bool {
		return of.Hub == h.Hub && (of.Status == statusDraining) == (h.State == statusDraining)
	})
	if at < 0 { // it has changed between the two answers
		return hubHealth{Status: h.State, Redis: "-", Delivery: "-"}
	}
	return a.Hubs[at]
}

// meant tells whether --hub allows for a hub.
func (c *console) meant(hub string) bool { return c.hub == "" || c.hub == hub }

// statusJSON prints documents that have a list of hubs each, without those that are not meant.
func (c *console) statusJSON(docs ...[]byte) error {
	for _, doc := range docs {
		if c.hub != "" {
			var err error
			if doc, err = onlyHub(doc, c.hub); err != nil {
				return err
			}
		}
		if err := c.printJSON(doc); err != nil {
			return err
		}
	}
	return nil
}

// onlyHub returns a document with its list of hubs reduced to those of one name, and all else as it was.
func onlyHub(doc []byte, name string) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := decodeAnswer(doc, &fields); err != nil {
		return nil, err
	}
	var hubs []json.RawMessage
	if err := decodeAnswer(fields["hubs"], &hubs); err != nil {
		return nil, err
	}
	kept := []json.RawMessage{}
	for _, raw := range hubs {
		var h struct {
			Hub string `json:"hub"`
		}
		if err := decodeAnswer(raw, &h); err != nil {
			return nil, err
		}
		if h.Hub == name {
			kept = append(kept, raw)
		}
	}
	var list bytes.Buffer
	if err := json.NewEncoder(&list).Encode(kept); err != nil {
		return nil, err
	}
	fields["hubs"] = list.Bytes()
	return json.Marshal(fields)
}

// rooms lists the rooms whose names begin with prefix.
func (c *console) rooms(ctx context.Context, prefix string) error {
	path, err := c.hubPath(ctx, "rooms")
	if err != nil {
		return err
	}
	query := url.Values{}
	if prefix != "" {
		query.Set("prefix", prefix)
	}
	if c.json {
		return c.api.pages(ctx, path, query, c.printJSON)
	}
	t := newTable("ROOM", "USERS", "CONNECTIONS")
	var n int64
	err = c.api.pages(ctx, path, query, func(doc []byte) error {
		var page roomsAnswer
		if err := decodeAnswer(doc, &page); err != nil {
			return err
		}
		for _, r := range page.Rooms {
			t.row(visibleName(r.Room), r.Count, r.Connections)
		}
		n += int64(len(page.Rooms))
		return nil
	})
	if err != nil {
		return err
	}
	if err := t.print(c.out); err != nil {
		return err
	}
	return c.printf("%s\n", counted(n, "room"))
}

// members lists who is in a room.
func (c *console) members(ctx context.Context, room string) error {
	path, err := c.hubPath(ctx, "rooms", room)
	if err != nil {
		return err
	}
	if c.json {
		return c.api.pages(ctx, path, url.Values{}, c.printJSON)
	}
	t := newTable("USER", "STATUS", "CONNECTIONS", "SINCE", "DEVICE", "STATE")
	var last membersAnswer
	err = c.api.pages(ctx, path, url.Values{}, func(doc []byte) error {
		last = membersAnswer{}
		if err := decodeAnswer(doc, &last); err != nil {
			return err
		}
		for _, m := range last.Members {
			t.row(visibleName(m.User), orDash(m.Status), m.Conns, age(c.now, m.Since), cut(orDash(m.Device), 40), cut(visibleField(m.State), 80))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := t.print(c.out); err != nil {
		return err
	}
	if last.Degraded {
		c.note("Redis is out of reach: members on other instances may be missing, or gone")
	}
	return c.printf("%s, %s\n", counted(last.Count, "user"), counted(last.Connections, "connection"))
}
