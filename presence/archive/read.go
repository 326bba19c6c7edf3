package archive

import (
	"context"
	"time"

	"github.com/caddyrooms/caddy-rooms/presence"
)

// User implements presence.Archive.
func (a *Archive) User(ctx context.Context, id string) (presence.Seen, bool, error) {
	// What waits to be written is newer than what is there. It is looked at before: afterwards it may be neither waiting nor in what was read.
	a.mu.Lock()
	var r row
	for _, waiting := range []map[string]*row{a.rows, a.writing} {
		if w := waiting[id]; w != nil {
			r.under(w)
		}
	}
	a.mu.Unlock()
	s, version, known, err := a.readUser(ctx, id)
	if r.seen > 0 {
		known, err = true, nil
	}
	if r.seen > 0 && r.seen >= s.LastSeen {
		s.LastSeen, s.Device = r.seen, r.device
		s.AsOf = max(s.AsOf, r.seen)
	}
	if r.version > 0 && r.version >= version {
		s.Status, version = r.status, r.version
	}
	if s.Online && !setSince(version, s.Since) {
		s.Status = "" // of an earlier time
	}
	return s, known, err
}

// setSince tells whether a status of a version was set after a time.
func setSince(version uint64, since int64) bool { return version/1000 > uint64(max(since, 0)) }

// readUser returns what the database has of a user, with the version of the status.
func (a *Archive) readUser(ctx context.Context, id string) (s presence.Seen, version uint64, known bool, err error) {
	s.User = id
	rows, err := a.db.QueryContext(ctx, `
		SELECT u.last_seen_ms, u.device, u.status, u.status_version, COALESCE(o.instance, ''), COALESCE(o.device, ''), COALESCE(o.since_ms, 0),
			COALESCE(i.heartbeat_ms, 0)
		FROM rooms_user u
		LEFT JOIN rooms_online o ON o.hub = u.hub AND o.user_id = u.user_id
		LEFT JOIN rooms_instance i ON i.hub = o.hub AND i.instance = o.instance
		WHERE u.hub = $1 AND u.user_id = $2`, a.opts.Hub, id)
	if err != nil {
		return s, 0, false, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var instance, device string
		var since, beat, seen int64
		if err := rows.Scan(&seen, &s.Device, &s.Status, &version, &instance, &device, &since, &beat); err != nil {
			return s, 0, false, err
		}
		known = true
		s.LastSeen, s.AsOf = max(s.LastSeen, seen), max(s.AsOf, seen)
		if instance == "" || instance == a.instance {
			continue // who is online here, the store knows better
		}
		if s.LastSeen, s.AsOf = max(s.LastSeen, beat), max(s.AsOf, beat); !a.lives(instance, beat) {
			continue
		}
		if s.Online = true; s.Since == 0 || since < s.Since {
			s.Since = since
		}
		s.Device = device
	}
	return s, version, known, rows.Err()
}

// lives tells whether an instance is taken for alive, whose last sign of life was at a time by its clock.
func (a *Archive) lives(instance string, at int64) bool {
	most := silent * a.opts.beat
	a.mu.Lock()
	b, known := a.beats[instance]
	a.mu.Unlock()
	if known && (b.moved || b.at != at) {
		return b.at != at || time.Since(b.changed) < most
	}
	// It was not watched for long enough, so that its clock must do.
	return time.Since(time.UnixMilli(at)).Abs() < most
}
