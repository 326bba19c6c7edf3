package archive

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"go.uber.org/zap"
)

// dialect is what differs between databases.
type dialect struct {
	rows string // a table of the rows in the JSON that is parameter 2
	in   string // "is one of their users", behind a column
	lock string // what keeps two instances from making the tables at the same time, as the first statement of a transaction
	find string // whether there is a table rooms_meta
}

var postgres = &dialect{
	rows: `json_to_recordset(CAST($2 AS json)) AS r(u text, d text, t bigint, s text, v bigint)`,
	// An array, as the planner thinks little of a set of unknown size, and reads the whole table for it.
	in:   `= ANY (ARRAY (SELECT r.u FROM json_to_recordset(CAST($2 AS json)) AS r(u text)))`,
	lock: `SELECT pg_advisory_xact_lock(7237128888997146477)`,
	find: `SELECT count(*) FROM information_schema.tables WHERE table_name = 'rooms_meta' AND table_schema = ANY (current_schemas(false))`,
}

var sqlite = &dialect{
	rows: `(SELECT value->>'u' AS u, value->>'d' AS d, value->>'t' AS t, value->>'s' AS s, value->>'v' AS v FROM json_each($2)) AS r`,
	in:   `IN (SELECT value->>'u' FROM json_each($2))`,
	find: `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'rooms_meta'`,
}

// Check tells what is wrong with a data source name, without opening anything. Its errors have nothing of the name in them, which may
// have a password.
func Check(dsn string) error {
	switch scheme(dsn) {
	case "postgres", "postgresql":
		config, err := pgx.ParseConfig(dsn)
		if err != nil {
			return fmt.Errorf("not a URL as postgres://user:password@host:port/database?sslmode=…: %s", reason(err))
		}
		// The end of a password would be taken for the name of a host, and be in every error and log.
		if strings.Contains(config.Host, "@") && !strings.HasPrefix(config.Host, "/") {
			return errors.New("the host has an @ in it: write one in the user or password as %40")
		}
	case "sqlite":
		if path(dsn) == "" {
			return errors.New("sqlite: has no path behind it")
		}
		if path(dsn) == ":memory:" {
			return errors.New("sqlite: keeps nothing in memory (allowed: sqlite:/path)")
		}
		if !slices.Contains(sql.Drivers(), "sqlite") {
			return errors.New("this build has no SQLite: add --with github.com/caddyrooms/caddy-rooms/sqlite to the xcaddy command")
		}
	default:
		return errors.New("unknown kind of database (allowed: postgres://… and sqlite:/path)")
	}
	return nil
}

// reason returns what pgx says behind the name that it repeats.
func reason(err error) string {
	text := err.Error()
	if i := strings.LastIndex(text, "`: "); i >= 0 {
		return text[i+len("`: "):]
	}
	return "it can't be parsed"
}

func scheme(dsn string) string {
	s, _, _ := strings.Cut(dsn, ":")
	return s
}

func path(dsn string) string {
	_, p, _ := strings.Cut(dsn, ":")
	return strings.TrimPrefix(p, "//")
}

// Open returns an archive in the database that dsn names: postgres://…, as libpq and pgx understand it, or sqlite:/path. It connects to
// nothing: that begins with [Archive.Start].
func Open(dsn string, opts Options) (*Archive, error) {
	if err := Check(dsn); err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	a := &Archive{
		opts: opts, log: opts.Logger, wake: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{}),
		rows: map[string]*row{}, removed: map[string]bool{}, beats: map[string]beat{},
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	if scheme(dsn) == "sqlite" {
		// The driver is opened with the first connection, so only a driver that is not there is an error here, and that was checked.
		pragmas := url.Values{"_pragma": {"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(NORMAL)"}}
		db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path(dsn)}).EscapedPath()+"?"+pragmas.Encode())
		if err != nil {
			return nil, err
		}
		a.db, a.dialect = db, sqlite
	} else {
		config, err := pgx.ParseConfig(dsn)
		if err != nil {
			return nil, errors.New(reason(err)) // it was checked
		}
		if config.ConnectTimeout == 0 {
			config.ConnectTimeout = timeout
		}
		a.db, a.dialect = stdlib.OpenDB(*config), postgres
	}
	// One that writes and some that read.
	a.db.SetMaxOpenConns(4)
	a.db.SetMaxIdleConns(2)
	return a, nil
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Dropped == nil {
		o.Dropped = func() {}
	}
	if o.flush <= 0 {
		o.flush = defaultFlush
	}
	if o.beat <= 0 {
		o.beat = defaultBeat
	}
	if o.retry <= 0 {
		o.retry = defaultRetry
	}
	if o.rows <= 0 {
		o.rows = defaultRows
	}
	return o
}
