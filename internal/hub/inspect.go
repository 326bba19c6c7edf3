package hub

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/presence"
)

// State is where a hub is in its life.
type State uint8

// The states. Of several hubs of one name, the one with the lowest is the one that clients come to.
const (
	StateOpen State = iota
	StateDraining
	StateStarting // not bound yet: nothing may be asked of it but its name
)

func (s State) String() string { return [...]string{"open", "draining", "starting"}[s] }

// State returns where the hub is in its life.
func (h *Hub) State() State {
	switch {
	case h.draining.Load():
		return StateDraining
	case h.running.Load():
		return StateOpen
	}
	return StateStarting
}

// Node returns the instance's readable name.
func (h *Hub) Node() string { return h.opts.Node }

// Occupancy is how much there is in a hub on this instance.
type Occupancy struct {
	Connections int
	Rooms       int // with somebody connected here
	Members     int // connections in rooms
}

// Occupancy counts what is in the hub. It costs nothing, however much that is.
func (h *Hub) Occupancy() Occupancy {
	return Occupancy{Connections: h.Connections(), Rooms: int(h.occupied.Load()), Members: int(h.members.Load())}
}

func (h *Hub) allRooms() []*room {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return slices.Collect(maps.Values(h.rooms))
}

// connections returns how many connections are in the room here.
func (r *room) connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.members.list)
}

// RoomInfo is how many are in a room.
type RoomInfo struct {
	Room        string
	Count       int // users, on all instances
	Connections int // on this instance
}

// Rooms returns at most limit rooms with somebody connected here whose names begin with prefix, in the order of their names, after one of
// them; next is where the following page starts, empty at the end.
func (h *Hub) Rooms(prefix, after string, limit int) (rooms []RoomInfo, next string) {
	all := slices.DeleteFunc(h.allRooms(), func(r *room) bool { return r.name <= after || !strings.HasPrefix(r.name, prefix) })
	slices.SortFunc(all, func(a, b *room) int { return cmp.Compare(a.name, b.name) })
	for _, r := range all {
		n := r.connections()
		switch {
		case n == 0:
			continue
		case len(rooms) == limit:
			return rooms, rooms[limit-1].Room
		}
		info := RoomInfo{Room: r.name, Connections: n}
		h.backend.Store.View(r.name, func(v presence.View, _ bool) { info.Count = v.Page("", 0).Count })
		rooms = append(rooms, info)
	}
	return rooms, ""
}

// RoomMembers returns at most limit users in a room, on all instances, in the order of their ids, after one of them, and how many connections
// are in it here. It waits for the shared store if nobody here has entered the room before.
func (h *Hub) RoomMembers(name, after string, limit int) (page presence.Snapshot, connections int, err error) {
	// The caller's own context would end the wait also for who joins the room meanwhile.
	ctx, cancel := h.context()
	defer cancel()
	r := h.enter(ctx, name)
	defer r.exit()
	hears := h.hears(ctx, name)
	open := h.backend.Store.View(name, func(v presence.View, _ bool) { page = v.Page(after, limit) })
	if !open {
		return page, 0, ErrClosing
	}
	page.Degraded = page.Degraded || !hears
	return page, r.connections(), nil
}

// Connection is a connection.
type Connection struct {
	ID     string
	User   string
	Device string
	Node   string `json:"-"` // whose it is
	Since  time.Time
	Rooms  []string // sorted; not nil
}

func (s *Session) connection() Connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	rooms := slices.AppendSeq([]string{}, s.rooms.Keys())
	slices.Sort(rooms)
	return Connection{ID: s.id, User: s.user, Device: s.device, Node: s.hub.opts.Node, Since: s.opened, Rooms: rooms}
}

// ConnectionsOf returns at most limit connections in the order of their ids, after one of them: those of a user or in a room, unless these are
// empty. next is where the following page starts, empty at the end.
func (h *Hub) ConnectionsOf(user, room, after string, limit int) (connections []Connection, next string) {
	all := h.sessionsOf(user)
	if user == "" {
		h.eachSession(func(s *Session) { all = append(all, s) })
	}
	found := slices.DeleteFunc(all, func(s *Session) bool { return s.id <= after || room != "" && !s.isIn(room) })
	slices.SortFunc(found, func(a, b *Session) int { return cmp.Compare(a.id, b.id) })
	if len(found) > limit {
		found = found[:limit]
		next = found[limit-1].id
	}
	for _, s := range found {
		connections = append(connections, s.connection())
	}
	return connections, next
}

// Source is where something is known from.
type Source string

// Memory is this instance's own, Redis that of all instances, Database what outlives both.
const (
	SourceMemory   Source = "memory"
	SourceRedis    Source = "redis"
	SourceDatabase Source = "database"
)

// UserInfo is a user on all instances.
type UserInfo struct {
	presence.OnlineUser        // of who is not Online: LastSeen and Status if Source is the database, else nothing
	Device              string // the last one of who is not Online, if Source is the database
	Online              bool
	Connections         []Connection // the first of them
	Next                string       // where the following page of connections starts; empty: these are all
	Source              Source
	Degraded            bool  // the shared store is out of reach, or does not have everything again
	AsOf                int64 // of what the database knows of other instances while Degraded: when it was true, Unix milliseconds; else 0
}

// User returns what is known of a user, with at most limit connections of this instance.
func (h *Hub) User(ctx context.Context, id string, limit int) (UserInfo, error) {
	u, err := h.userInfo(ctx, id)
	if err == nil {
		u.Connections, u.Next = h.ConnectionsOf(id, "", "", limit)
	}
	return u, err
}

// userInfo returns what is known of a user, without connections.
func (h *Hub) userInfo(ctx context.Context, id string) (u UserInfo, err error) {
	ask, cancel := context.WithTimeout(ctx, h.opts.Timeout)
	defer cancel()
	u.Source = SourceMemory
	if h.backend.Shared {
		u.Source = SourceRedis
	}
	u.OnlineUser, u.Online, err = h.backend.Store.User(ask, id)
	if u.Degraded, err = onlyHere(err); err != nil {
		return u, err
	}
	if u.Degraded {
		u.Source = SourceMemory
	}
	if !u.Online {
		h.addSeen(ctx, &u, id)
	}
	return u, nil
}

// addSeen adds what the database knows of a user who is not online, or, while the shared store is degraded, not here.
func (h *Hub) addSeen(ctx context.Context, u *UserInfo, id string) {
	ctx, cancel := context.WithTimeout(ctx, h.opts.Timeout)
	defer cancel()
	seen, known, err := h.backend.Store.Seen(ctx, id)
	if err != nil {
		h.logger.Debug("reading the presence database", zap.Error(err))
	}
	if err != nil || !known {
		return
	}
	u.Source = SourceDatabase
	u.OnlineUser = presence.OnlineUser{User: id, Status: seen.Status, LastSeen: seen.LastSeen}
	u.Device = seen.Device
	if !u.Degraded {
		return // that he is not online is certain
	}
	u.AsOf = seen.AsOf
	if seen.Online {
		u.Online, u.Since = true, seen.Since
		u.Status = cmp.Or(seen.Status, presence.DefaultStatus)
	}
}
