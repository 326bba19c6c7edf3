package presence

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Online implements Store.
func (s *Redis) Online(ctx context.Context, cursor string, limit int) (users []OnlineUser, next string, err error) {
	if err := s.open(); err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	start := "-"
	if cursor != "" {
		start = "(" + cursor
	}
	limit = pageSize(limit)
	ids, err := s.client.ZRangeArgs(ctx, redis.ZRangeArgs{
		Key: s.keys.online(), Start: start, Stop: "+", ByLex: true, Count: int64(limit) + 1,
	}).Result()
	if err != nil {
		return nil, "", fmt.Errorf("presence: reading who is online: %w", err)
	}
	if len(ids) > limit {
		ids = ids[:limit]
		next = ids[limit-1]
	}
	if len(ids) == 0 {
		return nil, "", nil
	}
	pipe := s.client.Pipeline()
	read := s.readUsers(ctx, pipe, ids)
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, "", fmt.Errorf("presence: reading who is online: %w", err)
	}
	return read(), next, nil
}

// User implements Store.
func (s *Redis) User(ctx context.Context, id string) (u OnlineUser, online bool, err error) {
	if err := checkName("user", id); err != nil {
		return OnlineUser{}, false, err
	}
	if err := s.open(); err != nil {
		return OnlineUser{}, false, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var read func() []OnlineUser
	err = s.inquiry().ask(ctx, func(pipe redis.Pipeliner) { read = s.readUsers(ctx, pipe, []string{id}) })
	if err == nil || errors.Is(err, errRebuilding) {
		if users := read(); len(users) == 1 {
			return users[0], true, nil
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u, online = s.here(id)
	if err == nil && online {
		err = errRebuilding // it is about to be written
	}
	return u, online, err
}

// readUsers asks in a pipeline for some users, and returns what tells afterwards who of them is online.
func (s *Redis) readUsers(ctx context.Context, pipe redis.Pipeliner, ids []string) func() []OnlineUser {
	seen := pipe.ZMScore(ctx, s.keys.seen(), ids...)
	fields := make([]*redis.MapStringStringCmd, len(ids))
	for i, id := range ids {
		fields[i] = pipe.HGetAll(ctx, s.keys.user(id))
	}
	return func() []OnlineUser {
		users := make([]OnlineUser, 0, len(ids))
		for i, id := range ids {
			f := fields[i].Val()
			if len(f) == 0 {
				continue // gone meanwhile
			}
			_, status, _ := strings.Cut(f["~"], "\n")
			since, _ := strconv.ParseInt(f["@"], 10, 64)
			delete(f, "~")
			delete(f, "@")
			devices := make([]string, 0, len(f))
			for _, d := range f {
				devices = append(devices, d)
			}
			u := onlineUser(id, status, devices)
			u.Since, u.LastSeen = since, int64(seen.Val()[i])
			users = append(users, u)
		}
		return users
	}
}

// OnlineCount implements Store.
func (s *Redis) OnlineCount(ctx context.Context) (int, error) {
	if err := s.open(); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	n, err := s.client.ZCard(ctx, s.keys.online()).Result()
	if err != nil {
		return 0, fmt.Errorf("presence: counting who is online: %w", err)
	}
	return int(n), nil
}
