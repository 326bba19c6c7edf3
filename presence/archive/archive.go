// Package archive keeps in an SQL database what shall outlive a presence store and its Redis: who is online on which instance, and when
// each user was last seen, on which device and with which status.
//
// PostgreSQL is built in. SQLite works in programs that have a driver of that name, as those have which import
// github.com/caddyrooms/caddy-rooms/sqlite.
//
// Only transitions are written: a user's first connection on an instance, the end of the last one, an explicit status. They are gathered
// and written by one goroutine, in statements of up to a thousand rows, so that no one ever waits for the database. Each instance writes
// who is online on itself only, and everything else is merged by the time at which it happened: the order in which rows come does not
// matter. An instance shows that it lives by one row, which the others watch; no clock is compared with another.
package archive

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/presence"
)

// Options are the settings of an archive. Hub is required.
type Options struct {
	// Hub is what the rows of this archive are marked with: those of others in the same database are not touched.
	Hub string
	// Logger gets what an operator must know; default: nothing is logged.
	Logger *zap.Logger
	// Dropped is called for each row that is lost because too many wait for the database. It must not block; default: nothing is called.
	Dropped func()

	flush time.Duration // rows are gathered for so long; default 2s
	beat  time.Duration // between two signs of life of the instance; default 15s. After three without, others take it for dead.
	retry time.Duration // before the database is tried again; default 1s
	rows  int           // that may wait to be written; default 100,000
}

// Archive is a [presence.Archive] in a database. Its methods may be called from any goroutine.
type Archive struct {
	opts    Options
	log     *zap.Logger
	dialect *dialect
	db      *sql.DB

	store    presence.Archived // set by Start
	instance string            // set by Start
	after    <-chan struct{}   // set by Start; nil, or closed when the archive before writes no more
	ctx      context.Context   // ends when Close gives up
	cancel   context.CancelFunc
	wake     chan struct{} // of capacity 1: there is something to write
	closing  chan struct{} // closed by Close
	done     chan struct{} // closed when the writer has ended
	closed   sync.Once

	mu      sync.Mutex
	rows    map[string]*row // to be written, by user; guarded by mu
	writing map[string]*row // are being written, by user; guarded by mu, the rows by nothing as nobody changes them
	removed map[string]bool // instances that have died; guarded by mu
	resync  bool            // who is online here is to be written anew; guarded by mu
	up      bool            // the last exchange went well; guarded by mu
	lossy   bool            // a row was dropped since all were written; guarded by mu
	beats   map[string]beat // the signs of life of instances, by name; guarded by mu
	looked  time.Time       // when they were last looked at; guarded by mu

	// The writer's own.

	prepared bool // the tables are there
	warned   bool // that the database is out of reach, since it was last in reach
	nextBeat time.Time
}

var _ presence.Archive = (*Archive)(nil)

// Bounds of what is written and kept.
const (
	batchRows  = 1000 // in one statement
	maxRemoved = 1000 // instances; those beyond are found by their silence
	timeout    = 15 * time.Second
)

// row is what is to be written of a user. A part without time is not news.
type row struct {
	seen   int64 // Unix milliseconds; 0: none of what follows but status is news
	device string
	here   presenceHere
	since  int64 // Unix milliseconds, when here

	status  string
	version uint64 // of status; 0: none
}

// presenceHere is what is to be written of a user on this instance.
type presenceHere uint8

const (
	unchanged presenceHere = iota
	online
	gone
)

// Start implements presence.Archive.
func (a *Archive) Start(instance string, store presence.Archived, after <-chan struct{}) {
	a.instance, a.store, a.after = instance, store, after
	a.resync = true
	go a.write()
}

// Done implements presence.Archive.
func (a *Archive) Done() <-chan struct{} { return a.done }

// Came implements presence.Archive.
func (a *Archive) Came(user, device string, at int64) {
	a.change(user, true, func(r *row) {
		if r.seen <= at || r.here != online {
			r.device = device
		}
		r.seen, r.here, r.since = max(r.seen, at), online, at
	})
}

// Went implements presence.Archive.
func (a *Archive) Went(user, device string, at int64) {
	a.change(user, false, func(r *row) {
		r.seen, r.device, r.here = max(r.seen, at), device, gone
	})
}

// SetStatus implements presence.Archive.
func (a *Archive) SetStatus(user, status string, version uint64) {
	a.change(user, false, func(r *row) {
		if version > r.version {
			r.status, r.version = status, version
		}
	})
}

// Removed implements presence.Archive.
func (a *Archive) Removed(instance string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.removed) < maxRemoved {
		a.removed[instance] = true
		a.signal()
	}
}

// change makes a change to the row of a user. When there is no room for another one, what can be found out again is left out, and written
// with everyone who is online here when there is.
func (a *Archive) change(user string, again bool, f func(*row)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.rows[user]
	if r == nil {
		switch {
		case len(a.rows)+len(a.writing) < a.opts.rows:
		case again:
			a.resync = true
			return
		default:
			a.opts.Dropped()
			a.lossy, a.resync = true, true // the row of who has gone is taken away with those of nobody
			return
		}
		r = new(row)
		a.rows[user] = r
	}
	f(r)
	a.signal()
}

func (a *Archive) signal() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Health implements presence.Archive.
func (a *Archive) Health() (up bool, waiting int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.up, len(a.rows) + len(a.writing)
}

// Close implements presence.Archive.
func (a *Archive) Close(ctx context.Context) error {
	var err error
	a.closed.Do(func() {
		close(a.closing)
		stop := context.AfterFunc(ctx, a.cancel)
		defer stop()
		if a.store != nil {
			<-a.done
		}
		a.cancel()
		a.mu.Lock()
		left := len(a.rows) + len(a.writing)
		a.mu.Unlock()
		if left > 0 || ctx.Err() != nil {
			err = errors.Join(errUnsaved, ctx.Err())
		}
		err = errors.Join(err, a.db.Close())
	})
	return err
}

var errUnsaved = errors.New("archive: not all was written before the end")
