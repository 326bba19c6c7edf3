package archive

import (
	"context"
	"database/sql"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
	"github.com/caddyrooms/caddy-rooms/internal/sqltest"
	"github.com/caddyrooms/caddy-rooms/presence"
	_ "github.com/caddyrooms/caddy-rooms/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// eventually waits for ok; it fails the test where that takes impossibly long.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in 30s: %s", what)
		}
	}
}

type nobody struct{}

func (nobody) PresenceChanged(string, presence.Change) {}

// database is one that tests can take away.
type database struct {
	dsn        string
	down, back func()
}

// databases runs a test with each kind.
func databases(t *testing.T, test func(t *testing.T, d database)) {
	t.Run("postgres", func(t *testing.T) {
		p := sqltest.StartPostgres(t)
		test(t, database{p.URL("postgres"), p.Kill, p.Run})
	})
	t.Run("sqlite", func(t *testing.T) {
		d := database{dsn: "sqlite:" + filepath.Join(t.TempDir(), "rooms ?%.db")}
		var lock *sql.Conn
		d.down = func() {
			a, err := Open(d.dsn, Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { a.db.Close() })
			if lock, err = a.db.Conn(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := lock.ExecContext(t.Context(), `BEGIN IMMEDIATE`); err != nil {
				t.Fatal(err)
			}
		}
		d.back = func() {
			if _, err := lock.ExecContext(t.Context(), `ROLLBACK`); err != nil {
				t.Fatal(err)
			}
			lock.Close()
		}
		test(t, d)
	})
}

// instance is a store in memory with an archive, as one of several processes that share a database.
type instance struct {
	*presence.Memory
	t       testing.TB
	archive *Archive
}

func (d database) open(t testing.TB, opts Options) *Archive {
	t.Helper()
	opts.Hub = "rooms:test"
	if opts.flush == 0 {
		opts.flush = 10 * time.Millisecond
	}
	if opts.beat == 0 {
		opts.beat = 100 * time.Millisecond
	}
	opts.retry = 10 * time.Millisecond
	a, err := Open(d.dsn, opts)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (d database) start(t testing.TB, opts Options) *instance {
	t.Helper()
	i := &instance{presence.NewMemory(presence.Options{}, nobody{}), t, d.open(t, opts)}
	i.SetArchive(i.archive)
	t.Cleanup(func() { i.stop() })
	return i
}

// stop ends it as a process does that has the time.
func (i *instance) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if a := i.SetArchive(nil); a != nil {
		if err := a.Close(ctx); err != nil {
			i.t.Errorf("close: %v", err)
		}
	}
	_ = i.Memory.Close(ctx, 0) // or it is closed already
}

// kill ends it as kill -9 does: nothing more is written.
func (i *instance) kill() {
	i.SetArchive(nil)
	i.archive.cancel()
	i.archive.db.Close()
	_ = i.archive.Close(context.Background()) // it says that not all was written
}

func (i *instance) connect(id, user, device string) {
	i.t.Helper()
	if _, _, err := i.Connect(context.Background(), presence.Conn{ID: id, User: user, Device: device}); err != nil {
		i.t.Fatal(err)
	}
}

func (i *instance) status(user, status string) {
	i.t.Helper()
	if _, err := i.SetStatus(context.Background(), user, status); err != nil {
		i.t.Fatal(err)
	}
}

// seen returns what the database says of a user, without what the instance itself has not written yet.
func (i *instance) seen(user string) presence.Seen {
	i.t.Helper()
	s, _, _, err := i.archive.readUser(context.Background(), user)
	if err != nil {
		return presence.Seen{}
	}
	return s
}

// settled waits until everything is written.
func (i *instance) settled() {
	i.t.Helper()
	eventually(i.t, "all written", func() bool {
		up, waiting := i.archive.Health()
		return up && waiting == 0
	})
}

func TestLife(t *testing.T) {
	databases(t, func(t *testing.T, d database) {
		a, b := d.start(t, Options{}), d.start(t, Options{})
		before := time.Now().UnixMilli()
		a.connect("c1", "ann", "phone")
		eventually(t, "ann online at a", func() bool { return b.seen("ann").Online })
		if s := b.seen("ann"); s.Device != "phone" || s.Since < before || s.Since > time.Now().UnixMilli() || s.LastSeen < s.Since || s.AsOf < before {
			t.Errorf("online: %+v", s)
		}
		b.connect("c2", "ann", "desk")
		b.settled()
		a.Disconnect("c1", 0, presence.ReasonLeft)
		eventually(t, "ann gone from a", func() bool { return !b.seen("ann").Online })
		if s := a.seen("ann"); !s.Online || s.Device != "desk" {
			t.Errorf("still at b: %+v", s)
		}
		b.status("ann", "busy")
		b.Disconnect("c2", 0, presence.ReasonLeft)
		eventually(t, "ann gone from b", func() bool { return !a.seen("ann").Online })
		if s := a.seen("ann"); s.Device != "desk" || s.Status != "busy" || s.LastSeen < before || s.LastSeen > time.Now().UnixMilli() {
			t.Errorf("offline: %+v", s)
		}
		if _, known, err := a.Seen(t.Context(), "bob"); known || err != nil {
			t.Errorf("bob: %v, %v", known, err)
		}
	})
}

// TestOwnWritesAreRead asks for what is not written yet.
func TestOwnWritesAreRead(t *testing.T) {
	databases(t, func(t *testing.T, d database) {
		a := d.start(t, Options{flush: time.Hour})
		eventually(t, "start", func() bool { up, _ := a.archive.Health(); return up })
		a.connect("c1", "ann", "phone")
		a.status("ann", "busy")
		a.Disconnect("c1", 0, presence.ReasonLeft)
		s, known, err := a.Seen(t.Context(), "ann")
		if !known || err != nil || s.Online || s.Device != "phone" || s.Status != "busy" || s.LastSeen == 0 || s.AsOf != s.LastSeen {
			t.Errorf("%+v, %v, %v", s, known, err)
		}
	})
}

// TestHeldConnection has been seen last when it was lost, not when its grace ended.
func TestHeldConnection(t *testing.T) {
	databases(t, func(t *testing.T, d database) {
		a := d.start(t, Options{})
		a.connect("c1", "ann", "")
		a.settled()
		lost := time.Now().UnixMilli()
		a.Disconnect("c1", 500*time.Millisecond, presence.ReasonTimeout)
		after := time.Now().UnixMilli()
		eventually(t, "ann gone", func() bool {
			a.settled()
			var n int
			if err := a.archive.db.QueryRow(`SELECT count(*) FROM rooms_online`).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n == 0
		})
		if s := a.seen("ann"); s.LastSeen < lost || s.LastSeen > after {
			t.Errorf("last seen %d, lost between %d and %d", s.LastSeen, lost, after)
		}
	})
}

// TestAnyOrder brings what happened in other orders than it did.
func TestAnyOrder(t *testing.T) {
	databases(t, func(t *testing.T, d database) {
		a := d.start(t, Options{})
		for _, told := range [][]int64{{100, 200, 300}, {300, 100, 200}, {200, 300, 100}} {
			user := fmt.Sprint(told)
			for _, at := range told {
				a.archive.SetStatus(user, fmt.Sprint("s", at), uint64(at))
				a.archive.Went(user, fmt.Sprint("d", at), at)
				a.settled()
			}
			if s := a.seen(user); s.LastSeen != 300 || s.Device != "d300" || s.Status != "s300" {
				t.Errorf("told in order %v: %+v", told, s)
			}
		}
	})
}

// TestTwoWriters have two instances change the same users at the same time.
func TestTwoWriters(t *testing.T) {
	databases(t, func(t *testing.T, d database) {
		a, b := d.start(t, Options{flush: time.Millisecond}), d.start(t, Options{flush: time.Millisecond})
		var racing sync.WaitGroup
		for n, i := range []*instance{a, b} {
			racing.Go(func() {
				for round := range 20 {
					for u := range 50 {
						user := fmt.Sprintf("u%d", u)
						i.archive.Came(user, "", int64(2*round+n))
						i.archive.SetStatus(user, fmt.Sprint(2*round+n), uint64(2*round+n+1))
						i.archive.Went(user, fmt.Sprint(2*round+n), int64(2*round+n))
					}
					i.settled()
				}
			})
		}
		racing.Wait()
		for u := range 50 {
			if s := a.seen(fmt.Sprintf("u%d", u)); s.Online || s.LastSeen != 39 || s.Device != "39" || s.Status != "39" {
				t.Fatalf("u%d: %+v", u, s)
			}
		}
	})
}

// TestKilled has the users of an instance that was killed end as offline, last seen when it gave its last sign, and no others.
func TestKilled(t *testing.T) {
	databases(t, func(t *testing.T, d database) {
		a, b := d.start(t, Options{}), d.start(t, Options{})
		before := time.Now().UnixMilli()
		a.connect("c1", "ann", "phone")
		a.connect("c2", "bob", "")
		b.connect("c3", "bob", "desk")
		a.settled()
		b.settled()
		a.kill()
		eventually(t, "ann offline", func() bool {
			var n int
			err := b.archive.db.QueryRow(`SELECT count(*) FROM rooms_online`).Scan(&n)
			return err == nil && n == 1
		})
		b.settled()
		if s := b.seen("ann"); s.Online || s.LastSeen < before || s.LastSeen > time.Now().UnixMilli() || s.Device != "phone" {
			t.Errorf("ann: %+v", s)
		}
		c := d.start(t, Options{})
		if s := c.seen("bob"); !s.Online || s.Device != "desk" {
			t.Errorf("bob: %+v", s)
		}
		eventually(t, "the dead instance has no row", func() bool {
			var n int
			err := b.archive.db.QueryRow(`SELECT count(*) FROM rooms_instance WHERE instance = $1`, a.archive.instance).Scan(&n)
			return err == nil && n == 0
		})
	})
}

// TestRemovedByRedis has an instance end at once that somebody knows to be dead.
func TestRemovedByRedis(t *testing.T) {
	databases(t, func(t *testing.T, d database) {
		a, b := d.start(t, Options{beat: time.Hour}), d.start(t, Options{beat: time.Hour})
		a.connect("c1", "ann", "phone")
		a.settled()
		a.kill()
		b.archive.Removed(a.archive.instance)
		eventually(t, "ann offline", func() bool { s := b.seen("ann"); return s.LastSeen > 0 && !s.Online })
	})
}

// TestTakenForDead comes back: an instance that was paused writes everyone who is online there again.
func TestTakenForDead(t *testing.T) {
	databases(t, func(t *testing.T, d database) {
		a, b := d.start(t, Options{}), d.start(t, Options{})
		a.connect("c1", "ann", "phone")
		a.settled()
		b.archive.Removed(a.archive.instance)
		gone := false
		eventually(t, "ann offline, and back", func() bool {
			gone = gone || !b.seen("ann").Online
			return gone && b.seen("ann").Online
		})
	})
}

// TestDown changes everything while the database is away; when it is back, nothing is lost.
func TestDown(t *testing.T) {
	databases(t, func(t *testing.T, d database) {
		core, logs := observer.New(zapcore.InfoLevel)
		a := d.start(t, Options{Logger: zap.New(core)})
		a.connect("c1", "ann", "phone")
		a.settled()
		d.down()
		for u := range 3000 {
			a.connect(fmt.Sprint("x", u), fmt.Sprint("user", u), "")
			a.status(fmt.Sprint("user", u), "busy")
			if u%2 == 0 {
				a.Disconnect(fmt.Sprint("x", u), 0, presence.ReasonLeft)
			}
		}
		a.Disconnect("c1", 0, presence.ReasonLeft)
		eventually(t, "noticed", func() bool { up, _ := a.archive.Health(); return !up })
		d.back()
		a.settled()
		b := d.start(t, Options{})
		for u := range 3000 {
			if s := b.seen(fmt.Sprint("user", u)); s.LastSeen == 0 || s.Status != "busy" || s.Online != (u%2 == 1) {
				t.Fatalf("user%d: %+v", u, s)
			}
		}
		if s := b.seen("ann"); s.Online || s.Device != "phone" {
			t.Errorf("ann: %+v", s)
		}
		if n := logs.FilterMessageSnippet("out of reach").Len(); n != 1 {
			t.Errorf("the outage was logged %d times: %v", n, logs.All())
		}
	})
}

// TestStall freezes the database: nobody waits for it.
func TestStall(t *testing.T) {
	p := sqltest.StartPostgres(t)
	proxy := redistest.StartProxy(t, p.Addr)
	d := database{dsn: strings.Replace(p.URL("postgres"), p.Addr, proxy.Addr, 1)}
	a := d.start(t, Options{})
	a.connect("c1", "ann", "phone")
	a.settled()
	proxy.Freeze()
	for u := range 3000 { // were one of these to wait, the test would end in an error after 15 s
		a.connect(fmt.Sprint("x", u), fmt.Sprint("user", u), "")
		a.status(fmt.Sprint("user", u), "busy")
		a.Disconnect(fmt.Sprint("x", u), 0, presence.ReasonLeft)
	}
	if up, waiting := a.archive.Health(); !up || waiting == 0 {
		t.Errorf("up %v, waiting %d: the stall is over, or was none", up, waiting)
	}
	proxy.Thaw()
	a.settled()
	if s := a.seen("user2999"); s.Status != "busy" {
		t.Errorf("after the stall: %+v", s)
	}
}

// TestFewStatements counts what 50,000 changes cost.
func TestFewStatements(t *testing.T) {
	p := sqltest.StartPostgres(t)
	d := database{dsn: p.URL("postgres")}
	a := d.start(t, Options{flush: time.Second, beat: time.Hour})
	eventually(t, "start", func() bool { up, _ := a.archive.Health(); return up })
	count := func() (n int) {
		// Each statement is a transaction of its own. The statistics of a session are complete when it has ended.
		a.archive.db.SetMaxIdleConns(0)
		defer a.archive.db.SetMaxIdleConns(2)
		db, err := sql.Open("pgx", p.URL("template1"))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if err := db.QueryRow(`SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'postgres'`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	stable := func() (n int) {
		n = -1
		eventually(t, "statistics", func() bool {
			before := n
			n = count()
			time.Sleep(100 * time.Millisecond)
			return n == before
		})
		return n
	}
	before := stable()
	for u := range 25_000 {
		id, user := fmt.Sprint("c", u), fmt.Sprint("user", u)
		a.connect(id, user, "phone")
		if u%2 == 0 {
			a.status(user, "busy")
		} else {
			a.Disconnect(id, 0, presence.ReasonLeft)
		}
	}
	a.settled()
	if n := stable() - before; n > 250 || n < 25 {
		t.Errorf("%d statements for 50,000 changes", n)
	} else {
		t.Logf("%d statements for 50,000 changes", n)
	}
	// Whoever is only there costs nothing.
	before = stable()
	for u := range 1000 {
		a.Touch(fmt.Sprint("c", 2*u))
	}
	a.settled()
	if n := stable() - before; n != 0 {
		t.Errorf("%d statements for heartbeats", n)
	}
}

// TestBound has more change than may wait: what can be found out again is, the rest is counted.
func TestBound(t *testing.T) {
	databases(t, func(t *testing.T, d database) {
		const most = 2000
		var dropped atomic.Int32
		a := d.start(t, Options{beat: time.Hour, rows: most, Dropped: func() { dropped.Add(1) }})
		eventually(t, "start", func() bool { up, _ := a.archive.Health(); return up })
		d.down()
		for u := range most {
			a.archive.SetStatus(fmt.Sprint("user", u), "busy", 1)
		}
		a.connect("c1", "ann", "phone")
		a.connect("c2", "bob", "phone")
		a.Disconnect("c2", 0, presence.ReasonLeft)
		if _, waiting := a.archive.Health(); waiting != most || dropped.Load() != 1 {
			t.Errorf("%d wait, %d dropped, want bob", waiting, dropped.Load())
		}
		d.back()
		b := d.start(t, Options{})
		eventually(t, "ann written all the same", func() bool { return b.seen("ann").Online })
		if s := b.seen("bob"); s.Online {
			t.Errorf("bob: %+v", s)
		}
	})
}

// TestStop writes all before the end, and leaves nobody online.
func TestStop(t *testing.T) {
	databases(t, func(t *testing.T, d database) {
		a, b := d.start(t, Options{flush: time.Hour, beat: time.Hour}), d.start(t, Options{})
		eventually(t, "start", func() bool { up, _ := a.archive.Health(); return up })
		before := time.Now().UnixMilli()
		for u := range 1500 {
			a.connect(fmt.Sprint("c", u), fmt.Sprint("user", u), "phone")
		}
		a.Disconnect("c0", 0, presence.ReasonLeft)
		a.stop()
		for u := range 1500 {
			if s := b.seen(fmt.Sprint("user", u)); s.Online || s.LastSeen < before || s.Device != "phone" {
				t.Fatalf("user%d: %+v", u, s)
			}
		}
	})
}

// TestSuccessor has an archive follow another one in the same database, as after a change of the password: the end of the one does not undo
// what the other has begun, also if a third comes meanwhile.
func TestSuccessor(t *testing.T) {
	databases(t, func(t *testing.T, d database) {
		hourly := Options{beat: time.Hour} // so none takes another for dead, however slow the machine
		a, b := d.start(t, hourly), d.start(t, hourly)
		for u := range 100 {
			a.connect(fmt.Sprint("c", u), fmt.Sprint("user", u), "phone")
		}
		a.settled()
		second, third := d.open(t, hourly), d.open(t, hourly)
		a.SetArchive(second)
		a.SetArchive(third)
		for range 10 { // it has the time to write, if it would
			<-time.After(10 * time.Millisecond)
			if up, _ := third.Health(); up {
				t.Fatal("written before the first has ended")
			}
		}
		for _, before := range []*Archive{a.archive, second} {
			if err := before.Close(t.Context()); err != nil {
				t.Errorf("close: %v", err)
			}
		}
		a.archive = third
		eventually(t, "written", func() bool { up, _ := third.Health(); return up })
		a.settled()
		for u := range 100 {
			if s := b.seen(fmt.Sprint("user", u)); !s.Online || s.Device != "phone" {
				t.Fatalf("user%d: %+v", u, s)
			}
		}
	})
}

// TestStatusInAnotherDatabase has an archive follow one in another database: it gets the status that was set before.
func TestStatusInAnotherDatabase(t *testing.T) {
	databases(t, func(t *testing.T, d database) {
		a := d.start(t, Options{})
		a.connect("c1", "ann", "phone")
		a.status("ann", "busy")
		a.settled()
		other, err := Open(d.dsn, Options{Hub: "rooms:other"}) // has nothing of the first either
		if err != nil {
			t.Fatal(err)
		}
		if err := a.SetArchive(other).Close(t.Context()); err != nil {
			t.Errorf("close: %v", err)
		}
		a.archive = other
		var status string
		eventually(t, "written", func() bool {
			const query = `SELECT status FROM rooms_user WHERE hub = 'rooms:other' AND user_id = 'ann'`
			return other.db.QueryRowContext(t.Context(), query).Scan(&status) == nil
		})
		if status != "busy" {
			t.Errorf("status %q, want busy", status)
		}
	})
}

// TestStopWithoutDatabase ends in time, and says so.
func TestStopWithoutDatabase(t *testing.T) {
	databases(t, func(t *testing.T, d database) {
		a := d.start(t, Options{})
		a.connect("c1", "ann", "phone")
		a.settled()
		d.down()
		a.connect("c2", "bob", "phone")
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := a.SetArchive(nil).Close(ctx); err == nil {
			t.Error("no error")
		}
		d.back()
	})
}

// panics is a store that panics so many times when it is asked.
type panics struct{ left atomic.Int64 }

func (p *panics) OnlineHere() iter.Seq[presence.Here] {
	if p.left.Add(-1) >= 0 {
		panic("on purpose")
	}
	return slices.Values([]presence.Here{{User: "ann", Device: "phone", Since: 1}})
}

func (p *panics) RestoreStatus(string, string, uint64) {}

// TestPanicKeepsRows takes the dialect away while rows are written.
func TestPanicKeepsRows(t *testing.T) {
	a := database{dsn: "sqlite:" + filepath.Join(t.TempDir(), "rooms.db")}.open(t, Options{})
	defer a.Close(t.Context())
	a.prepared, a.nextBeat, a.dialect = true, time.Now().Add(time.Hour), nil
	a.Came("ann", "phone", 1)
	if a.writeUntilClosed() {
		t.Fatal("it has ended")
	}
	if a.rows["ann"] == nil {
		t.Error("the row is lost")
	}
	if !a.resync {
		t.Error("who is online is not written again")
	}
}

// TestPanicAtTheEnd closes an archive whose writer panics whatever it does.
func TestPanicAtTheEnd(t *testing.T) {
	a := database{dsn: "sqlite:" + filepath.Join(t.TempDir(), "rooms.db")}.open(t, Options{})
	var store panics
	store.left.Store(1 << 62)
	defer store.left.Store(0)
	a.Start("me", &store, nil)
	eventually(t, "the panic", func() bool { return store.left.Load() < 1<<62 })
	ended := make(chan error, 1)
	go func() { ended <- a.Close(t.Context()) }()
	eventually(t, "the end", func() bool { return len(ended) == 1 })
}

// TestManyDead ends an instance in parts, of which each is done for good.
func TestManyDead(t *testing.T) {
	databases(t, func(t *testing.T, d database) {
		a := d.start(t, Options{beat: time.Hour})
		a.settled()
		exec := func(statement string, args ...any) {
			t.Helper()
			if _, err := a.archive.db.ExecContext(t.Context(), statement, args...); err != nil {
				t.Fatal(err)
			}
		}
		count := func(statement string) (n int) {
			t.Helper()
			if err := a.archive.db.QueryRowContext(t.Context(), statement).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		exec(`INSERT INTO rooms_instance VALUES ('rooms:test', 'dead', 1, 7000), ('rooms:test', 'other', 1, 1)`)
		exec(`INSERT INTO rooms_online VALUES ('rooms:test', 'other', 'user1', 'pc', 1)`)
		const most = 2*batchRows + 1
		exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ` + fmt.Sprint(most) + `)
			INSERT INTO rooms_online SELECT 'rooms:test', 'dead', 'user' || i, 'phone', 1 FROM n`)
		left := `SELECT count(*) FROM rooms_online WHERE instance = 'dead'`
		for part, want := range []int{batchRows + 1, 1, 0} {
			if more, err := a.archive.endSome(t.Context(), "dead"); err != nil || !more {
				t.Fatalf("part %d: more %v, %v", part, more, err)
			}
			if n := count(left); n != want {
				t.Errorf("part %d: %d are left, want %d", part, n, want)
			}
		}
		if more, err := a.archive.endSome(t.Context(), "dead"); err != nil || more {
			t.Errorf("at the end: more %v, %v", more, err)
		}
		if n := count(`SELECT count(*) FROM rooms_user WHERE last_seen_ms = 7000 AND device = 'phone'`); n != most {
			t.Errorf("%d were seen last with the instance, want %d", n, most)
		}
		if n := count(`SELECT count(*) FROM rooms_instance WHERE instance = 'dead'`); n != 0 {
			t.Error("the instance is there still")
		}
		if n := count(`SELECT count(*) FROM rooms_online`); n != 1 {
			t.Errorf("%d rows of another instance, want 1", n)
		}
	})
}

// TestReadWhileWritten reads a user while what waits of him is written: at no time is it in neither place.
func TestReadWhileWritten(t *testing.T) {
	a := database{dsn: "sqlite:" + filepath.Join(t.TempDir(), "rooms.db")}.start(t, Options{flush: time.Nanosecond}).archive
	for i := range int64(500) {
		a.Went("ann", "phone", i+1)
		for range 4 {
			if s, _, err := a.User(t.Context(), "ann"); err != nil || s.LastSeen != i+1 {
				t.Fatalf("last seen %d, want %d; %v", s.LastSeen, i+1, err)
			}
		}
	}
}

// hereFunc is a store of which is online here whom a function yields.
type hereFunc func(yield func(presence.Here) bool)

func (f hereFunc) OnlineHere() iter.Seq[presence.Here] { return iter.Seq[presence.Here](f) }

func (hereFunc) RestoreStatus(string, string, uint64) {}

// TestSignsAmidRows has more to write than there is time for until others take the instance for dead.
func TestSignsAmidRows(t *testing.T) {
	a := database{dsn: "sqlite:" + filepath.Join(t.TempDir(), "rooms.db")}.open(t, Options{beat: time.Nanosecond})
	defer a.db.Close()
	if err := a.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	silence := func() {
		t.Helper()
		if _, err := a.db.ExecContext(t.Context(), `UPDATE rooms_instance SET heartbeat_ms = 1`); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string) {
		t.Helper()
		if beats, err := a.heartbeats(t.Context()); err != nil || beats["me"] <= 1 {
			t.Errorf("%s: no sign of life: %v, %v", what, beats, err)
		}
	}
	a.instance, a.store = "me", hereFunc(func(yield func(presence.Here) bool) {
		for i := range 2 * batchRows {
			switch i {
			case batchRows / 2:
				silence()
			case batchRows + 1:
				check("amid those who are online")
			}
			if !yield(presence.Here{User: fmt.Sprint("user", i), Since: 1}) {
				return
			}
		}
	})
	if err := a.assert(t.Context()); err != nil {
		t.Fatal(err)
	}
	silence()
	a.Went("ann", "phone", 1)
	if err := a.writeAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("amid changes")
}

// TestEverythingLost starts anew after all that had a status in memory has gone with kill -9.
func TestEverythingLost(t *testing.T) {
	databases(t, func(t *testing.T, d database) {
		a := d.start(t, Options{beat: time.Minute})
		a.connect("c0", "cem", "phone")
		a.status("cem", "old")
		a.Disconnect("c0", 0, presence.ReasonLeft)
		a.connect("c1", "ann", "phone")
		a.connect("c2", "bob", "phone")
		a.connect("c3", "cem", "phone")
		since := time.Now().UnixMilli()
		eventually(t, "a moment later", func() bool { return time.Now().UnixMilli() > since+1 })
		a.status("ann", "busy")
		a.settled()
		a.kill()
		b := d.start(t, Options{beat: time.Minute})
		for i, user := range []string{"ann", "bob", "cem"} {
			b.connect(fmt.Sprint("d", i), user, "phone")
		}
		eventually(t, "ann busy", func() bool { u, _, _ := b.User(t.Context(), "ann"); return u.Status == "busy" })
		b.settled()
		for _, user := range []string{"bob", "cem"} {
			if u, _, _ := b.User(t.Context(), user); u.Status != "online" {
				t.Errorf("%s: %+v", user, u)
			}
		}
	})
}

// TestPermissions has a user of the database who may make no tables: that is told, and works once somebody has made them.
func TestPermissions(t *testing.T) {
	p := sqltest.StartPostgres(t)
	p.Exec(`REVOKE CREATE ON SCHEMA public FROM PUBLIC`)
	p.Exec(`CREATE ROLE app LOGIN PASSWORD 'hunter2'`)
	d := database{dsn: strings.Replace(p.URL("postgres"), "postgres@", "app:hunter2@", 1)}
	core, logs := observer.New(zapcore.InfoLevel)
	a := d.start(t, Options{Logger: zap.New(core)})
	a.connect("c1", "ann", "phone")
	eventually(t, "told", func() bool {
		return logs.FilterMessage("presence database is out of reach, trying again every second").Len() == 1
	})
	if said := fmt.Sprint(logs.All()[0].ContextMap()); !strings.Contains(said, "permission denied for schema public") || strings.Contains(said, "hunter2") {
		t.Errorf("told %s", said)
	}
	for _, s := range schema {
		p.Exec(s)
	}
	p.Exec(`INSERT INTO rooms_meta VALUES (1)`)
	p.Exec(`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app`)
	a.settled()
	if s := a.seen("ann"); s.LastSeen == 0 {
		t.Errorf("%+v", s)
	}
	p.Exec(`UPDATE rooms_meta SET version = 2`)
	b := d.start(t, Options{Logger: zap.New(core)})
	eventually(t, "the version is told", func() bool {
		for _, e := range logs.All() {
			if strings.Contains(fmt.Sprint(e.ContextMap()), "the tables are of version 2, this program knows version 1") {
				return true
			}
		}
		return false
	})
	p.Exec(`UPDATE rooms_meta SET version = 1`)
	b.settled()
}

// TestHubsApart keeps two hubs in one database from seeing each other.
func TestHubsApart(t *testing.T) {
	databases(t, func(t *testing.T, d database) {
		a := d.start(t, Options{})
		a.connect("c1", "ann", "phone")
		a.settled()
		other, err := Open(d.dsn, Options{Hub: "rooms:other"})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close(t.Context())
		if s, known, err := other.User(t.Context(), "ann"); known || err != nil {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

func TestCheck(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://u:p@localhost/db":          "",
		"postgresql://localhost":               "",
		"sqlite:/tmp/x.db":                     "",
		"sqlite:x.db":                          "",
		"sqlite:":                              "sqlite: has no path behind it",
		"sqlite::memory:":                      "sqlite: keeps nothing in memory (allowed: sqlite:/path)",
		"mysql://localhost":                    "unknown kind of database (allowed: postgres://… and sqlite:/path)",
		"":                                     "unknown kind of database (allowed: postgres://… and sqlite:/path)",
		"postgres://u:hunter2@localhost:port/": "not a URL as postgres://user:password@host:port/database?sslmode=…: ",
		"postgres://u:hunter2@h/db?sslmode=x":  "not a URL as postgres://user:password@host:port/database?sslmode=…: ",
		"postgres://u:p@hunter2@localhost/db":  "the host has an @ in it: write one in the user or password as %40",
		"postgres://u:p%40hunter2@h/db":        "",
		"postgres://u@/db?host=/run/@here":     "",
	} {
		got := ""
		if err := Check(dsn); err != nil {
			got = err.Error()
		}
		if want == "" && got != "" || !strings.HasPrefix(got, want) || strings.Contains(got, "hunter2") {
			t.Errorf("%q: %q, want %q", dsn, got, want)
		}
	}
}

// TestClocks watches instances whose clocks are far off: only that they go counts.
func TestClocks(t *testing.T) {
	a := &Archive{opts: Options{beat: 15 * time.Second}, instance: "me", beats: map[string]beat{}, removed: map[string]bool{}}
	now := time.Now()
	hours := func(n int) int64 { return now.Add(time.Duration(n) * time.Hour).UnixMilli() }
	for i := range 10 {
		sign := int64(i)
		if i > 5 {
			sign = 5 // dies
		}
		a.look(map[string]int64{"me": 1, "ahead": hours(1) + int64(i), "behind": hours(-1) + int64(i), "dies": hours(0) + sign},
			now.Add(time.Duration(i)*15*time.Second))
		if i == 8 && a.removed["dies"] {
			t.Error("taken for dead after 45 seconds")
		}
	}
	if len(a.removed) != 1 || !a.removed["dies"] {
		t.Errorf("taken for dead: %v", a.removed)
	}
	// After an outage everyone gets the time to be seen.
	clear(a.removed)
	a.look(map[string]int64{"me": 1, "ahead": hours(1) + 9, "behind": hours(-1) + 9}, now.Add(time.Hour))
	if len(a.removed) != 0 {
		t.Errorf("taken for dead after an outage: %v", a.removed)
	}
}
