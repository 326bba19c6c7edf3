package archive

import (
	"context"
	"fmt"
)

// version is that of the tables below.
const version = 1

// The tables. All times are Unix milliseconds.
var schema = []string{
	`CREATE TABLE rooms_meta (version integer NOT NULL)`,
	`CREATE TABLE rooms_user (
		hub text NOT NULL, user_id text NOT NULL,
		last_seen_ms bigint NOT NULL, device text NOT NULL,
		status text NOT NULL, status_version bigint NOT NULL,
		PRIMARY KEY (hub, user_id))`,
	`CREATE INDEX rooms_user_last_seen ON rooms_user (hub, last_seen_ms)`,
	`CREATE TABLE rooms_online (
		hub text NOT NULL, instance text NOT NULL, user_id text NOT NULL,
		device text NOT NULL, since_ms bigint NOT NULL,
		PRIMARY KEY (hub, instance, user_id))`,
	`CREATE INDEX rooms_online_user ON rooms_online (hub, user_id)`,
	`CREATE TABLE rooms_instance (
		hub text NOT NULL, instance text NOT NULL,
		started_ms bigint NOT NULL, heartbeat_ms bigint NOT NULL,
		PRIMARY KEY (hub, instance))`,
}

// prepare makes the tables unless they are there, as they may be where the user of the database must not make any.
func (a *Archive) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tx, err := a.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	if a.dialect.lock != "" {
		if _, err := tx.ExecContext(ctx, a.dialect.lock); err != nil {
			return err
		}
	}
	var tables int
	if err := tx.QueryRowContext(ctx, a.dialect.find).Scan(&tables); err != nil {
		return err
	}
	if tables == 0 {
		for _, statement := range schema {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return fmt.Errorf("creating the tables: %w", err)
			}
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO rooms_meta (version) VALUES ($1)`, version); err != nil {
			return fmt.Errorf("creating the tables: %w", err)
		}
	}
	var have int
	if err := tx.QueryRowContext(ctx, `SELECT version FROM rooms_meta`).Scan(&have); err != nil {
		return fmt.Errorf("reading rooms_meta: %w", err)
	}
	if have != version {
		return fmt.Errorf("the tables are of version %d, this program knows version %d", have, version)
	}
	return tx.Commit()
}
