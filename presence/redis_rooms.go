package presence

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// Rooms implements Store.
func (s *Redis) Rooms(ctx context.Context, prefix, after string, limit int) (rooms []RoomCount, next string, err error) {
	if err := s.open(); err != nil {
		return nil, "", err
	}
	rooms, next, err = s.listRooms(ctx, prefix, after, pageSize(limit))
	if err != nil {
		rooms, next = s.roomsHere(prefix, after, limit)
	}
	return rooms, next, err
}

// listRooms reads a page of the rooms of all instances.
func (s *Redis) listRooms(ctx context.Context, prefix, after string, limit int) (rooms []RoomCount, next string, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	a := s.inquiry()
	start, stop := lexRange(prefix, after)
	names, err := s.client.ZRangeArgs(ctx, redis.ZRangeArgs{
		Key: s.keys.rooms(), Start: start, Stop: stop, ByLex: true, Count: int64(limit) + 1,
	}).Result()
	if err != nil {
		return nil, "", fmt.Errorf("presence: reading the rooms: %w", err)
	}
	if len(names) > limit {
		names = names[:limit]
		next = names[limit-1]
	}
	counts := make([]func() RoomCount, len(names))
	if err := a.ask(ctx, func(pipe redis.Pipeliner) {
		for i, name := range names {
			counts[i] = s.roomCount(ctx, pipe, name)
		}
	}); err != nil {
		return nil, "", err
	}
	for _, count := range counts {
		if c := count(); c.Conns > 0 { // else the last one has left meanwhile
			rooms = append(rooms, c)
		}
	}
	return rooms, next, nil
}

// lexRange returns where the names lie that begin with prefix and come after another one, as ZRANGE BYLEX has it.
func lexRange(prefix, after string) (start, stop string) {
	start = "[" + prefix
	if after >= prefix {
		start = "(" + after
	}
	// The first name behind all that begin with the prefix has its last byte one higher, or, if there is no higher one, the one before it.
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			return start, "(" + prefix[:i] + string([]byte{prefix[i] + 1})
		}
	}
	return start, "+"
}

// CountRooms implements Store.
func (s *Redis) CountRooms(ctx context.Context) (int, error) {
	if err := s.open(); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var rooms *redis.IntCmd
	if err := s.inquiry().ask(ctx, func(pipe redis.Pipeliner) { rooms = pipe.ZCard(ctx, s.keys.rooms()) }); err != nil {
		return s.countRoomsHere(), err
	}
	return int(rooms.Val()), nil
}

// RoomCount implements Store.
func (s *Redis) RoomCount(ctx context.Context, room string) (c RoomCount, err error) {
	if err := checkName("room", room); err != nil {
		return RoomCount{}, err
	}
	if err := s.open(); err != nil {
		return RoomCount{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var count func() RoomCount
	if err := s.inquiry().ask(ctx, func(pipe redis.Pipeliner) { count = s.roomCount(ctx, pipe, room) }); err != nil {
		return s.countHere(room), err
	}
	return count(), nil
}

// roomCount asks in a pipeline how many are in a room, and returns what tells it afterwards.
func (s *Redis) roomCount(ctx context.Context, pipe redis.Pipeliner, room string) func() RoomCount {
	users, conns := pipe.HLen(ctx, s.keys.counts(room)), pipe.HLen(ctx, s.keys.members(room))
	return func() RoomCount { return RoomCount{Room: room, Users: int(users.Val()), Conns: int(conns.Val())} }
}
