package hub

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/caddyrooms/caddy-rooms/presence"
)

// UserEverywhere is User with the connections on all instances: at most limit of them, and no more than fit an answer of an instance, in the order of
// their ids, after one of them.
func (h *Hub) UserEverywhere(ctx context.Context, id, after string, limit int) (UserInfo, error) {
	u, err := h.userInfo(ctx, id)
	if err != nil {
		return u, err
	}
	answers, degraded := h.ask(ctx, Order{Do: tellUser, User: id, After: after, Limit: limit})
	u.Degraded = u.Degraded || degraded
	for _, a := range answers {
		for _, c := range a.Listed {
			c.Node = a.Node
			u.Connections = append(u.Connections, c)
		}
		if a.Next != "" && (u.Next == "" || a.Next < u.Next) {
			u.Next = a.Next // what is behind may not be all that there is
		}
	}
	u.Connections = slices.DeleteFunc(u.Connections, func(c Connection) bool { return u.Next != "" && c.ID > u.Next })
	slices.SortFunc(u.Connections, func(a, b Connection) int { return cmp.Compare(a.ID, b.ID) })
	if len(u.Connections) > limit {
		u.Connections = u.Connections[:limit]
		u.Next = u.Connections[limit-1].ID
	}
	return u, nil
}

// RoomsEverywhere is Rooms with the rooms and connections of all instances. Degraded tells that these are only the ones known here.
func (h *Hub) RoomsEverywhere(ctx context.Context, prefix, after string, limit int) (rooms []RoomInfo, next string, degraded bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, h.opts.Timeout)
	defer cancel()
	counts, next, err := h.backend.Store.Rooms(ctx, prefix, after, limit)
	if degraded, err = onlyHere(err); err != nil {
		return nil, "", false, err
	}
	rooms = make([]RoomInfo, len(counts))
	for i, c := range counts {
		rooms[i] = RoomInfo{Room: c.Room, Count: c.Users, Connections: c.Conns}
	}
	return rooms, next, degraded, nil
}

// RoomEverywhere counts who is in a room, on all instances. Degraded as in RoomsEverywhere.
func (h *Hub) RoomEverywhere(ctx context.Context, room string) (info RoomInfo, degraded bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, h.opts.Timeout)
	defer cancel()
	c, err := h.backend.Store.RoomCount(ctx, room)
	if degraded, err = onlyHere(err); err != nil {
		return info, false, err
	}
	return RoomInfo{Room: room, Count: c.Users, Connections: c.Conns}, degraded, nil
}

// Stats is how much there is in a hub on all instances.
type Stats struct {
	Users    int
	Rooms    int
	Nodes    []NodeStats // sorted by name
	Degraded bool        // some instances did not say
}

// NodeStats is how much of it is on one instance.
type NodeStats struct {
	Node string
	Occupancy
}

// Stats counts what is in the hub, on all instances.
func (h *Hub) Stats(ctx context.Context) (Stats, error) {
	store, cancel := context.WithTimeout(ctx, h.opts.Timeout)
	defer cancel()
	var s Stats
	users, err := h.backend.Store.OnlineCount(store)
	usersHere, err := onlyHere(err)
	if err != nil {
		return s, err
	}
	rooms, err := h.backend.Store.CountRooms(store)
	roomsHere, err := onlyHere(err)
	if err != nil {
		return s, err
	}
	answers, degraded := h.ask(ctx, Order{Do: tellAll})
	s.Users, s.Rooms, s.Degraded = users, rooms, degraded || usersHere || roomsHere
	for _, a := range answers {
		s.Nodes = append(s.Nodes, NodeStats{a.Node, a.Occupancy})
	}
	slices.SortFunc(s.Nodes, func(a, b NodeStats) int { return cmp.Compare(a.Node, b.Node) })
	return s, nil
}

// onlyHere tells whether an answer of the store, which came with err, is only what this instance knows, and returns an error for which there is
// no answer at all.
func onlyHere(err error) (degraded bool, fatal error) {
	if errors.Is(err, presence.ErrInvalid) || errors.Is(err, presence.ErrClosed) {
		return false, err
	}
	return err != nil, nil
}
