package presence

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Instances implements Store.
func (m *Memory) Instances(context.Context) ([]string, error) {
	return []string{nodeOf(m.boot)}, m.open()
}

// Instances implements Store.
func (s *Redis) Instances(ctx context.Context) ([]string, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	pipe := s.client.Pipeline()
	now, leases, counters := pipe.Time(ctx), pipe.ZRangeWithScores(ctx, s.keys.leases(), 0, -1), pipe.HKeys(ctx, s.keys.counters())
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("presence: reading the instances: %w", err)
	}
	alive := make(map[string]bool)
	for _, l := range leases.Val() {
		alive[l.Member.(string)] = l.Score > float64(now.Val().UnixMilli())
	}
	var nodes []string
	for _, iid := range counters.Val() { // who has given up its lease has none
		if alive[iid] {
			nodes = append(nodes, nodeOf(bootOf(iid)))
		}
	}
	slices.Sort(nodes)
	return slices.Compact(nodes), nil // one that has lost its lease and taken another is there twice for a while
}

// nodeOf returns the name of the instance whose life has that name.
func nodeOf(boot string) string { return boot[:max(strings.LastIndexByte(boot, '-'), 0)] }
