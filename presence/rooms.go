package presence

import (
	"context"
	"maps"
	"slices"
	"strings"
)

// RoomCount is how many are in a room, over all instances. Those held through their grace are.
type RoomCount struct {
	Room  string
	Users int
	Conns int
}

// roomsHere returns a page of the rooms of this instance's replicas, as Store.Rooms does.
func (b *base) roomsHere(prefix, after string, limit int) (page []RoomCount, next string) {
	b.mu.Lock()
	var names []string
	for name := range b.rooms {
		if name > after && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	b.mu.Unlock()
	slices.Sort(names)
	limit = pageSize(limit)
	for _, name := range names {
		c := b.countHere(name)
		if c.Conns == 0 {
			continue
		}
		if len(page) == limit {
			return page, page[limit-1].Room
		}
		page = append(page, c)
	}
	return page, ""
}

// countHere returns how many are in a room by this instance's replica; nobody when it has none.
func (b *base) countHere(name string) RoomCount {
	c := RoomCount{Room: name}
	if r, err := b.lockRoom(name); err == nil {
		c.Users, c.Conns = len(r.users), len(r.conns)
		b.unlock(r)
	}
	return c
}

// open returns ErrClosed of a store that was closed.
func (b *base) open() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	return nil
}

// Rooms implements Store.
func (m *Memory) Rooms(_ context.Context, prefix, after string, limit int) (rooms []RoomCount, next string, err error) {
	if err := m.open(); err != nil {
		return nil, "", err
	}
	rooms, next = m.roomsHere(prefix, after, limit)
	return rooms, next, nil
}

// countRoomsHere returns how many rooms have members by this instance's replicas.
func (b *base) countRoomsHere() (n int) {
	b.mu.Lock()
	names := slices.Collect(maps.Keys(b.rooms))
	b.mu.Unlock()
	for _, name := range names {
		if b.countHere(name).Conns > 0 {
			n++
		}
	}
	return n
}

// CountRooms implements Store.
func (m *Memory) CountRooms(context.Context) (int, error) {
	if err := m.open(); err != nil {
		return 0, err
	}
	return m.countRoomsHere(), nil
}

// RoomCount implements Store.
func (m *Memory) RoomCount(_ context.Context, room string) (RoomCount, error) {
	if err := checkName("room", room); err != nil {
		return RoomCount{}, err
	}
	if err := m.open(); err != nil {
		return RoomCount{}, err
	}
	return m.countHere(room), nil
}
