package presence

import (
	"context"
	"slices"

	"github.com/redis/go-redis/v9"
)

// Instances implements Store.
func (m *Memory) Instances(context.Context) ([]string, error) {
	if err := m.open(); err != nil {
		return nil, err
	}
	return []string{nodeOf(m.boot)}, nil
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
