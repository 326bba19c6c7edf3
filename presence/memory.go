package presence

import (
	"context"
	"maps"
	"slices"
	"time"
)

// Memory is the presence of one process. Every change is made at once; nothing is ever degraded.
type Memory struct {
	base
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty store that tells o what changes. It has no goroutines.
func NewMemory(opts Options, o Observer) *Memory {
	return &Memory{base: newBase(opts.withDefaults(), o)}
}

// Connect implements Store.
func (m *Memory) Connect(_ context.Context, c Conn) (status string, degraded bool, err error) {
	if err := c.check(); err != nil {
		return "", false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	_, u, err := m.connect(c)
	if err != nil {
		return "", false, err
	}
	return u.status, false, nil
}

// SetStatus implements Store.
func (m *Memory) SetStatus(_ context.Context, name, status string) (degraded bool, err error) {
	if err := checkStatus(name, status); err != nil {
		return false, err
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return false, ErrClosed
	}
	// Higher than that of an earlier process, which the archive may have.
	ver := uint64(m.clock().UnixMicro())
	if u := m.users[name]; u != nil {
		ver = max(ver, u.statusVer+1)
	}
	m.archiveStatus(name, status, ver)
	m.mu.Unlock()
	m.setStatus(name, ver, status)
	return false, nil
}

func checkStatus(name, status string) error {
	if err := checkName("user", name); err != nil {
		return err
	}
	return checkName("status", status)
}

// User implements Store.
func (m *Memory) User(_ context.Context, id string) (u OnlineUser, online bool, err error) {
	if err := checkName("user", id); err != nil {
		return OnlineUser{}, false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return OnlineUser{}, false, ErrClosed
	}
	u, online = m.here(id)
	return u, online, nil
}

// Online implements Store.
func (m *Memory) Online(_ context.Context, cursor string, limit int) (users []OnlineUser, next string, err error) {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil, "", ErrClosed
	}
	all := slices.Collect(maps.Keys(m.users))
	m.mu.Unlock()
	slices.Sort(all)
	ids, next := pageOf(all, cursor, pageSize(limit))
	m.mu.Lock()
	defer m.mu.Unlock()
	users = make([]OnlineUser, 0, len(ids))
	for _, id := range ids {
		if u, online := m.here(id); online { // else gone meanwhile
			users = append(users, u)
		}
	}
	return users, next, nil
}

// pageSize holds the size of a page of online users to what is allowed.
func pageSize(limit int) int { return min(max(limit, 1), 1000) }

// OnlineCount implements Store.
func (m *Memory) OnlineCount(context.Context) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return 0, ErrClosed
	}
	return len(m.users), nil
}

// Close implements Store. There is nobody else to tell of the members, so hold has no meaning.
func (m *Memory) Close(context.Context, time.Duration) error {
	if !m.shut() {
		return ErrClosed
	}
	return nil
}
