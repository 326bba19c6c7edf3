package presence

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// UserConn is a connection of a user.
type UserConn struct {
	ID     string
	Node   string // of its instance: Options.Node as it is in Redis
	Device string
}

// connsHere returns the connections of a user on this instance, in the order of their ids.
func (b *base) connsHere(user string) []UserConn {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := b.users[user]
	if u == nil {
		return nil
	}
	conns := make([]UserConn, 0, u.conns.Len())
	for c := range u.conns.Values() {
		conns = append(conns, UserConn{ID: c.ID, Node: nodeOf(b.boot), Device: c.Device})
	}
	sortConns(conns)
	return conns
}

func sortConns(conns []UserConn) {
	slices.SortFunc(conns, func(a, b UserConn) int { return cmp.Compare(a.ID, b.ID) })
}

// Connections implements Store.
func (m *Memory) Connections(_ context.Context, user string) ([]UserConn, error) {
	if err := checkName("user", user); err != nil {
		return nil, err
	}
	if err := m.open(); err != nil {
		return nil, err
	}
	return m.connsHere(user), nil
}

// Instances implements Store.
func (m *Memory) Instances(context.Context) ([]string, error) {
	if err := m.open(); err != nil {
		return nil, err
	}
	return []string{nodeOf(m.boot)}, nil
}

// Connections implements Store.
func (s *Redis) Connections(ctx context.Context, user string) ([]UserConn, error) {
	if err := checkName("user", user); err != nil {
		return nil, err
	}
	if err := s.open(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var fields *redis.MapStringStringCmd
	if err := s.inquiry().ask(ctx, func(pipe redis.Pipeliner) { fields = pipe.HGetAll(ctx, s.keys.user(user)) }); err != nil {
		return s.connsHere(user), err
	}
	conns := make([]UserConn, 0, len(fields.Val()))
	for field, device := range fields.Val() {
		if iid, id, ok := strings.Cut(field, "."); ok { // else it is what the user is
			conns = append(conns, UserConn{ID: id, Node: nodeOf(bootOf(iid)), Device: device})
		}
	}
	sortConns(conns)
	// A connection of an instance that has a new name is there twice until the former one is removed.
	return slices.CompactFunc(conns, func(a, b UserConn) bool { return a.ID == b.ID }), nil
}

// Instances implements Store.
func (s *Redis) Instances(ctx context.Context) ([]string, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var leases func() (ends map[string]float64, now float64)
	var writers *redis.StringSliceCmd
	if err := s.inquiry().ask(ctx, func(pipe redis.Pipeliner) {
		leases, writers = s.readLeases(ctx, pipe), pipe.HKeys(ctx, s.keys.counters())
	}); err != nil {
		return []string{nodeOf(s.boot)}, err
	}
	ends, now := leases()
	boots := []string{s.boot}
	for _, iid := range writers.Val() {
		if ends[iid] > now {
			boots = append(boots, bootOf(iid))
		}
	}
	slices.Sort(boots)
	var nodes []string
	for _, boot := range slices.Compact(boots) { // one that has a new name has two leases until the former one is given up
		nodes = append(nodes, nodeOf(boot))
	}
	slices.Sort(nodes)
	return nodes, nil
}
