package archive

import (
	"context"
	"encoding/json"
	"time"
)

// Every statement may be run again without a further effect. Users are taken in the order of their ids, so that two instances that write
// the same rows don't wait for each other in a circle.

// merge is how a row of rooms_user takes in another one: what happened later counts.
const merge = `
	ON CONFLICT (hub, user_id) DO UPDATE SET
		device = CASE WHEN excluded.last_seen_ms >= rooms_user.last_seen_ms AND excluded.last_seen_ms > 0
			THEN excluded.device ELSE rooms_user.device END,
		last_seen_ms = CASE WHEN excluded.last_seen_ms > rooms_user.last_seen_ms
			THEN excluded.last_seen_ms ELSE rooms_user.last_seen_ms END,
		status = CASE WHEN excluded.status_version > rooms_user.status_version
			THEN excluded.status ELSE rooms_user.status END,
		status_version = CASE WHEN excluded.status_version > rooms_user.status_version
			THEN excluded.status_version ELSE rooms_user.status_version END`

// jsonRow is a row of a parameter.
type jsonRow struct {
	User    string `json:"u"`
	Device  string `json:"d"`
	Time    int64  `json:"t"`
	Status  string `json:"s"`
	Version uint64 `json:"v"`
}

// exec runs a statement whose first parameter is the hub and whose second is rows, in JSON.
func (a *Archive) exec(ctx context.Context, statement string, rows []jsonRow, args ...any) error {
	if len(rows) == 0 {
		return nil
	}
	text, err := json.Marshal(rows)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err = a.db.ExecContext(ctx, statement, append([]any{a.opts.Hub, string(text)}, args...)...)
	return err
}

func (a *Archive) writeUsers(ctx context.Context, rows []jsonRow) error {
	return a.exec(ctx, `
		INSERT INTO rooms_user (hub, user_id, last_seen_ms, device, status, status_version)
		SELECT CAST($1 AS text), r.u, r.t, r.d, r.s, r.v FROM `+a.dialect.rows+` WHERE true ORDER BY r.u`+merge, rows)
}

func (a *Archive) writeOnline(ctx context.Context, rows []jsonRow) error {
	return a.exec(ctx, `
		INSERT INTO rooms_online (hub, instance, user_id, device, since_ms)
		SELECT CAST($1 AS text), CAST($3 AS text), r.u, r.d, r.t FROM `+a.dialect.rows+` WHERE true ORDER BY r.u
		ON CONFLICT (hub, instance, user_id) DO UPDATE SET device = excluded.device, since_ms = excluded.since_ms`, rows, a.instance)
}

func (a *Archive) writeGone(ctx context.Context, rows []jsonRow) error {
	return a.exec(ctx, `
		DELETE FROM rooms_online WHERE hub = $1 AND instance = $3 AND user_id `+a.dialect.in, rows, a.instance)
}

// execAll runs statements of the same parameters, which begin with the hub, one after the other.
func (a *Archive) execAll(ctx context.Context, args []any, statements ...string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for _, s := range statements {
		if _, err := a.db.ExecContext(ctx, s, append([]any{a.opts.Hub}, args...)...); err != nil {
			return err
		}
	}
	return nil
}

// endSome makes the first users of an instance offline, last seen at its last sign of life. When there are none it forgets the instance, and
// returns false: last, so that what fails before is done again. All users at once might not be done within the timeout, ever.
func (a *Archive) endSome(ctx context.Context, instance string) (more bool, err error) {
	// Up to which user, as another instance may do the same: it must not be that one has written users as last seen, and the next ones are
	// taken away.
	last, err := a.lastOf(ctx, instance)
	if err != nil {
		return false, err
	}
	if last == "" {
		return false, a.execAll(ctx, []any{instance}, `DELETE FROM rooms_instance WHERE hub = $1 AND instance = $2`)
	}
	return true, a.execAll(ctx, []any{instance, last}, `
		INSERT INTO rooms_user (hub, user_id, last_seen_ms, device, status, status_version)
		SELECT o.hub, o.user_id, i.heartbeat_ms, o.device, '', 0
		FROM rooms_online o JOIN rooms_instance i ON i.hub = o.hub AND i.instance = o.instance
		WHERE o.hub = $1 AND o.instance = $2 AND o.user_id <= $3 ORDER BY o.user_id`+merge,
		`DELETE FROM rooms_online WHERE hub = $1 AND instance = $2 AND user_id <= $3`)
}

// lastOf returns the last of the first users of an instance; "" when there are none.
func (a *Archive) lastOf(ctx context.Context, instance string) (user string, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err = a.db.QueryRowContext(ctx, `
		SELECT COALESCE(max(f.user_id), '') FROM (
			SELECT user_id FROM rooms_online WHERE hub = $1 AND instance = $2 ORDER BY user_id LIMIT $3) AS f`,
		a.opts.Hub, instance, batchRows).Scan(&user)
	return user, err
}

// renew gives a sign of life of this instance. It returns false when it is not known, or no more.
func (a *Archive) renew(ctx context.Context) (known bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	res, err := a.db.ExecContext(ctx, `UPDATE rooms_instance SET heartbeat_ms = $3 WHERE hub = $1 AND instance = $2`,
		a.opts.Hub, a.instance, time.Now().UnixMilli())
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// enlist makes this instance known, with nobody online on it.
func (a *Archive) enlist(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	now := time.Now().UnixMilli()
	_, err := a.db.ExecContext(ctx, `
		INSERT INTO rooms_instance (hub, instance, started_ms, heartbeat_ms) VALUES ($1, $2, $3, $4)
		ON CONFLICT (hub, instance) DO UPDATE SET heartbeat_ms = excluded.heartbeat_ms`, a.opts.Hub, a.instance, now, now)
	if err != nil {
		return err
	}
	return a.execAll(ctx, []any{a.instance}, `DELETE FROM rooms_online WHERE hub = $1 AND instance = $2`)
}

// heartbeats returns the last sign of life of each instance.
func (a *Archive) heartbeats(ctx context.Context) (map[string]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	rows, err := a.db.QueryContext(ctx, `SELECT instance, heartbeat_ms FROM rooms_instance WHERE hub = $1`, a.opts.Hub)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	found := map[string]int64{}
	for rows.Next() {
		var instance string
		var at int64
		if err := rows.Scan(&instance, &at); err != nil {
			return nil, err
		}
		found[instance] = at
	}
	return found, rows.Err()
}

// cutShort returns the statuses of those of rows who are online on another instance, and have set it while they were.
func (a *Archive) cutShort(ctx context.Context, rows []jsonRow) ([]jsonRow, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	text, err := json.Marshal(rows)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	//nolint:gosec // what is concatenated is a constant
	found, err := a.db.QueryContext(ctx, `
		SELECT DISTINCT u.user_id, u.status, u.status_version
		FROM rooms_user u JOIN rooms_online o ON o.hub = u.hub AND o.user_id = u.user_id
		WHERE u.hub = $1 AND o.instance <> $3 AND u.status <> '' AND u.status_version >= (o.since_ms + 1) * 1000
		AND u.user_id `+a.dialect.in, a.opts.Hub, string(text), a.instance)
	if err != nil {
		return nil, err
	}
	defer func() { _ = found.Close() }()
	var statuses []jsonRow
	for found.Next() {
		var r jsonRow
		if err := found.Scan(&r.User, &r.Status, &r.Version); err != nil {
			return nil, err
		}
		statuses = append(statuses, r)
	}
	return statuses, found.Err()
}
