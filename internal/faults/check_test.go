package faults

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// base begins every key of the hub that is tested, unless the trial says otherwise.
const base = "rooms:{default}"

// truth is who should be where: the open connections, as the test itself knows them.
type truth struct {
	conns map[string]map[string]string // room -> connection -> user
	users map[string]map[string]int    // room -> user -> connections
	all   map[string]map[string]bool   // user -> connections
}

func (c *cluster) truth() truth {
	want := truth{map[string]map[string]string{}, map[string]map[string]int{}, map[string]map[string]bool{}}
	for _, cl := range c.all() {
		if want.conns[cl.room] == nil {
			want.conns[cl.room], want.users[cl.room] = map[string]string{}, map[string]int{}
		}
		if want.all[cl.user] == nil {
			want.all[cl.user] = map[string]bool{}
		}
		want.conns[cl.room][cl.conn] = cl.user
		want.users[cl.room][cl.user]++
		want.all[cl.user][cl.conn] = true
	}
	return want
}

// check returns how Redis, the instances and the clients differ from the truth. While a lost connection is held through its grace, they do.
func (c *cluster) check() error {
	want := c.truth()
	for _, cl := range c.all() {
		select {
		case <-cl.ended:
			cl.mu.Lock()
			defer cl.mu.Unlock()
			return fmt.Errorf("%s in %s was disconnected: %w; bye %+v", cl.user, cl.room, cl.reason, cl.bye)
		default:
		}
	}
	if err := c.checkViews(want); err != nil {
		return err
	}
	if err := c.checkStore(want); err != nil {
		return err
	}
	return c.checkInstances(want)
}

// checkViews compares what the clients were told with the truth.
func (c *cluster) checkViews(want truth) error {
	for _, cl := range c.all() {
		cl.mu.Lock()
		got := slices.Sorted(maps.Keys(cl.view))
		cl.mu.Unlock()
		if users := slices.Sorted(maps.Keys(want.users[cl.room])); !slices.Equal(got, users) {
			return fmt.Errorf("by what %s in %s was told, %s", cl.user, cl.room, differ(got, users))
		}
	}
	return nil
}

// checkStore reads all that Redis has of the hub.
func (c *cluster) checkStore(want truth) error {
	ctx, cancel := c.context()
	defer cancel()
	s, err := c.read(ctx)
	if err != nil {
		return err
	}
	running := 0
	for _, n := range c.nodes {
		if n.Running() {
			running++
		}
	}
	live := s.leases
	if len(live) != running || !slices.Equal(live, s.counters) {
		return fmt.Errorf("leases of %v and counters of %v, with %d instances running", live, s.counters, running)
	}
	roomsOf, usersOf := map[string]map[string]bool{}, map[string]map[string]bool{}
	for _, iid := range live {
		roomsOf[iid], usersOf[iid] = map[string]bool{}, map[string]bool{}
	}
	owner := func(row string) (iid, conn string, err error) {
		iid, conn, _ = strings.Cut(row, ".")
		if !slices.Contains(live, iid) {
			return "", "", fmt.Errorf("row %s is of an instance without a lease", row)
		}
		return iid, conn, nil
	}
	for name, rows := range s.members {
		got := map[string]string{}
		for row, value := range rows {
			iid, conn, err := owner(row)
			if err != nil {
				return fmt.Errorf("room %s: %w", name, err)
			}
			got[conn] = strings.Split(value, "\n")[2] // version, since, user, status, device, state
			roomsOf[iid][name] = true
		}
		if !maps.Equal(got, want.conns[name]) {
			return fmt.Errorf("room %s in Redis: %s", name, differ(slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want.conns[name]))))
		}
	}
	for name := range want.conns {
		if s.members[name] == nil {
			return fmt.Errorf("Redis has no room %s", name)
		}
	}
	if occupied := slices.Sorted(maps.Keys(s.members)); !slices.Equal(s.rooms, occupied) {
		return fmt.Errorf("the rooms in Redis: %s", differ(s.rooms, occupied))
	}
	if len(s.counts) != len(s.members) {
		return fmt.Errorf("Redis counts users in %d rooms, and has %d", len(s.counts), len(s.members))
	}
	for name, counts := range s.counts {
		users := map[string]string{}
		for u, n := range want.users[name] {
			users[u] = fmt.Sprint(n)
		}
		if !maps.Equal(counts, users) {
			return fmt.Errorf("room %s: Redis counts %v, open are %v", name, counts, users)
		}
	}
	for u, fields := range s.users {
		got := map[string]bool{}
		for field := range fields {
			if field == "@" || field == "~" {
				continue
			}
			iid, conn, err := owner(field)
			if err != nil {
				return fmt.Errorf("user %s: %w", u, err)
			}
			got[conn] = true
			usersOf[iid][u] = true
		}
		if !maps.Equal(got, want.all[u]) {
			return fmt.Errorf("user %s has the connections %v in Redis, open are %v", u, got, want.all[u])
		}
	}
	online := slices.Sorted(maps.Keys(want.all))
	for what, got := range map[string][]string{"known": slices.Sorted(maps.Keys(s.users)), "online": s.online, "seen": s.seen} {
		if !slices.Equal(got, online) {
			return fmt.Errorf("users %s in Redis: %s", what, differ(got, online))
		}
	}
	if err := indexes("rooms", s.roomsOf, roomsOf); err != nil {
		return err
	}
	return indexes("users", s.usersOf, usersOf)
}

// indexes compares the sets that instances keep of their rooms and users with what they have there.
func indexes(what string, got, want map[string]map[string]bool) error {
	for iid, set := range got {
		if !maps.Equal(set, want[iid]) {
			return fmt.Errorf("the %s of %s in Redis: %s", what, iid, differ(slices.Sorted(maps.Keys(set)), slices.Sorted(maps.Keys(want[iid]))))
		}
	}
	for iid, set := range want {
		if len(set) > 0 && got[iid] == nil {
			return fmt.Errorf("Redis has no index of the %s of %s", what, iid)
		}
	}
	return nil
}

// stored is what Redis has of a hub.
type stored struct {
	leases, counters, rooms, online, seen []string
	members, counts, users                map[string]map[string]string // by room, room, user
	roomsOf, usersOf                      map[string]map[string]bool   // by instance
}

// read reads what Redis has of the hub, key by key.
func (c *cluster) read(ctx context.Context) (*stored, error) {
	s := &stored{
		members: map[string]map[string]string{}, counts: map[string]map[string]string{}, users: map[string]map[string]string{},
		roomsOf: map[string]map[string]bool{}, usersOf: map[string]map[string]bool{},
	}
	keys, err := c.store.Keys(ctx, c.base+":*").Result()
	if err != nil {
		return nil, err
	}
	pipe := c.store.Pipeline()
	var take []func()
	hash := func(key string, into map[string]map[string]string, name string) {
		cmd := pipe.HGetAll(ctx, key)
		take = append(take, func() { into[name] = cmd.Val() })
	}
	set := func(key string, into map[string]map[string]bool, name string) {
		cmd := pipe.SMembers(ctx, key)
		take = append(take, func() {
			into[name] = map[string]bool{}
			for _, m := range cmd.Val() {
				into[name][m] = true
			}
		})
	}
	sorted := func(cmd *redis.StringSliceCmd, into *[]string) {
		take = append(take, func() { *into = slices.Sorted(slices.Values(cmd.Val())) })
	}
	for _, key := range keys {
		kind, name, _ := strings.Cut(strings.TrimPrefix(key, c.base+":"), ":")
		switch kind {
		case "L":
			sorted(pipe.ZRange(ctx, key, 0, -1), &s.leases)
		case "W":
			sorted(pipe.HKeys(ctx, key), &s.counters)
		case "rooms":
			sorted(pipe.ZRange(ctx, key, 0, -1), &s.rooms)
		case "on":
			sorted(pipe.ZRange(ctx, key, 0, -1), &s.online)
		case "seen":
			sorted(pipe.ZRange(ctx, key, 0, -1), &s.seen)
		case "m":
			hash(key, s.members, name)
		case "u":
			hash(key, s.counts, name)
		case "us":
			hash(key, s.users, name)
		case "ri":
			set(key, s.roomsOf, name)
		case "ui":
			set(key, s.usersOf, name)
		case "x", "d", "rl", "idem", "mod": // sequences, who has left, limits, and requests with a key end by themselves; what moderators have decided stays
		default:
			return nil, fmt.Errorf("unexpected key %s", key)
		}
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, err
	}
	for _, f := range take {
		f()
	}
	return s, nil
}

// checkInstances asks every instance who is in each of its rooms.
func (c *cluster) checkInstances(want truth) error {
	type place struct {
		node any
		room string
	}
	one := map[place]*client{}
	for _, cl := range c.all() {
		one[place{cl.node, cl.room}] = cl
	}
	asked := slices.Collect(maps.Values(one))
	var mu sync.Mutex
	var problem error
	each(len(asked), func(i int) {
		cl := asked[i]
		ctx, cancel := c.context()
		defer cancel()
		conns, degraded, err := cl.members(ctx)
		switch {
		case err != nil:
		case degraded:
			err = fmt.Errorf("the answer is degraded")
		case !maps.Equal(conns, want.users[cl.room]):
			err = fmt.Errorf("answered %v, open are %v", conns, want.users[cl.room])
		}
		if err != nil {
			mu.Lock()
			problem = fmt.Errorf("members of %s, asked by %s: %w", cl.room, cl.user, err)
			mu.Unlock()
		}
	})
	return problem
}

// differ tells how two sorted lists differ.
func differ(got, want []string) string {
	var missing, surplus []string
	for _, w := range want {
		if _, in := slices.BinarySearch(got, w); !in {
			missing = append(missing, w)
		}
	}
	for _, g := range got {
		if _, in := slices.BinarySearch(want, g); !in {
			surplus = append(surplus, g)
		}
	}
	return fmt.Sprintf("%d of %d missing %.100q, %d too many %.100q", len(missing), len(want), missing, len(surplus), surplus)
}
