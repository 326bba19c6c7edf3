package presence

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

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
	s.mu.Lock()
	iid := s.iid
	s.mu.Unlock()
	users, _, err = s.readUsers(ctx, ids, iid)
	return users, next, err
}

// User implements Store.
func (s *Redis) User(ctx context.Context, id string) (u OnlineUser, online bool, err error) {
	if err := checkName("user", id); err != nil {
		return OnlineUser{}, false, err
	}
	if err := s.open(); err != nil {
		return OnlineUser{}, false, err
	}
	s.mu.Lock()
	iid, whole := s.iid, s.writable() && !s.healing && !time.Now().Before(s.whole)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	users, leased, err := s.readUsers(ctx, []string{id}, iid)
	if len(users) == 1 {
		return users[0], true, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u, online = s.here(id)
	if err == nil && (online || !whole || !leased) {
		err = errRebuilding // what is not there yet says nothing
	}
	return u, online, err
}

// readUsers returns those of some users who are online, and whether an instance had a lease afterwards: without, Redis may have lost everyone.
func (s *Redis) readUsers(ctx context.Context, ids []string, iid string) (users []OnlineUser, leased bool, err error) {
	pipe := s.client.Pipeline()
	seen := pipe.ZMScore(ctx, s.keys.seen(), ids...)
	fields := make([]*redis.MapStringStringCmd, len(ids))
	for i, id := range ids {
		fields[i] = pipe.HGetAll(ctx, s.keys.user(id))
	}
	lease := pipe.ZScore(ctx, s.keys.leases(), iid)
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, false, fmt.Errorf("presence: reading who is online: %w", err)
	}
	users = make([]OnlineUser, 0, len(ids))
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
	return users, lease.Err() == nil, nil
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
