package faults

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
	"github.com/caddyrooms/caddy-rooms/internal/sqltest"
	_ "github.com/caddyrooms/caddy-rooms/sqlite"
)

// The times of the presence database in the trials that are not full, where no one can set them: the program is built with these.
const (
	fastFlush = 200 * time.Millisecond
	fastSign  = 3 * time.Second
)

// sign is how often an instance shows the database that it lives.
func sign() time.Duration {
	if full {
		return 15 * time.Second
	}
	return fastSign
}

// TestDatabase has Redis, the database and instances fail, alone and together: the database says who is online, and when the others were seen
// last, and nobody waits for it.
func TestDatabase(t *testing.T) {
	alone(t)
	var d databases
	d.postgres = sqltest.StartPostgres(t)
	d.program = caddytest.Binary(t)
	if !full {
		d.program = caddytest.Mutant(t, caddytest.Edit{
			File: "presence/archive/writer.go",
			Old:  "defaultFlush = 2 * time.Second\n\tdefaultBeat  = 15 * time.Second\n",
			New: fmt.Sprintf("defaultFlush = %d * time.Millisecond\n\tdefaultBeat  = %d * time.Millisecond\n",
				fastFlush.Milliseconds(), fastSign.Milliseconds()),
		})
	}
	both := []string{"postgres", "sqlite"}
	for _, trial := range []struct {
		name  string
		kinds []string
		run   func(t *testing.T, l *ledger)
	}{
		{"Redis flushed", both[:1], redisFlushedBeforeADatabase},
		{"Redis restarted empty", both[1:], redisRestartedBeforeADatabase},
		{"Redis down", both, redisDownBeforeADatabase},
		{"database down", both, databaseDown},
		{"database stalled", both[:1], databaseStalled},
		{"both down", both[:1], redisAndDatabaseDown},
		{"instance killed", both, instanceKilledBeforeADatabase},
		{"all killed and Redis flushed", both, everythingKilledButTheDatabase},
		{"hopping", both, hopping},
		{"stop", both, stopWritesEverything},
		{"reload", both, reloadOfTheDatabase},
		{"memory", both, memoryKilledBeforeADatabase},
		{"wrong", both[:1], wrongDatabase},
	} {
		for _, kind := range trial.kinds {
			t.Run(trial.name+" "+kind, func(t *testing.T) {
				alone(t)
				trial.run(t, d.ledger(t, kind))
			})
		}
	}
}

// databases makes databases for trials. Any goroutine may use it.
type databases struct {
	postgres *sqltest.Postgres
	program  string

	mu sync.Mutex
	n  int // databases of postgres
}

// ledger is a presence database, and the cluster that has it. It belongs to the goroutine of its test.
type ledger struct {
	*cluster
	*databases
	dsn        string
	db         *sql.DB
	proxy      *redistest.Proxy // before PostgreSQL; nil: SQLite
	down, back func()           // take it away: connections are refused, or nothing can be written
}

// ledger makes a database, without a cluster.
func (d *databases) ledger(t *testing.T, kind string) *ledger {
	t.Helper()
	l := &ledger{databases: d}
	var err error
	if kind == "sqlite" {
		path := filepath.Join(t.TempDir(), "rooms.db")
		l.dsn = "sqlite:" + path
		if l.db, err = sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)"); err != nil {
			t.Fatal(err)
		}
		var lock *sql.Conn
		l.down = func() {
			if lock, err = l.db.Conn(t.Context()); err == nil {
				_, err = lock.ExecContext(t.Context(), `BEGIN IMMEDIATE`)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		l.back = func() {
			if _, err := lock.ExecContext(t.Context(), `ROLLBACK`); err != nil {
				t.Fatal(err)
			}
			_ = lock.Close()
		}
	} else {
		d.mu.Lock()
		d.n++
		name := fmt.Sprint("trial", d.n)
		d.mu.Unlock()
		d.postgres.Create(name)
		l.proxy = redistest.StartProxy(t, d.postgres.Addr)
		l.dsn = strings.Replace(d.postgres.URL(name), d.postgres.Addr, l.proxy.Addr, 1)
		if l.db, err = sql.Open("pgx", d.postgres.URL(name)); err != nil {
			t.Fatal(err)
		}
		l.down, l.back = l.proxy.Cut, l.proxy.Restore
	}
	t.Cleanup(func() { _ = l.db.Close() })
	return l
}

// begin starts a cluster that has the database, with the clients of the scale.
func (l *ledger) begin(t *testing.T, s scale, o options) {
	t.Helper()
	o.program, o.archive = l.program, l.dsn
	l.cluster = start(t, s, o)
	l.fill()
	l.settled(l.checkDatabase)
}

// entry is a user in the database.
type entry struct {
	seen   int64
	status string
	online int // instances
}

// entries reads all users.
func (l *ledger) entries(ctx context.Context) (map[string]entry, error) {
	rows, err := l.db.QueryContext(ctx, `SELECT user_id, last_seen_ms, status,
		(SELECT count(*) FROM rooms_online o WHERE o.hub = u.hub AND o.user_id = u.user_id) FROM rooms_user u`)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	users := map[string]entry{}
	for rows.Next() {
		var id string
		var e entry
		if err := rows.Scan(&id, &e.seen, &e.status, &e.online); err != nil {
			return nil, err
		}
		users[id] = e
	}
	return users, rows.Err()
}

// entry reads a user.
func (l *ledger) entry(user string) entry {
	l.Helper()
	users, err := l.entries(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	return users[user]
}

// checkDatabase returns how the database differs from the truth: who is online on how many instances, and the instances that live.
func (l *ledger) checkDatabase() error {
	ctx, cancel := l.context()
	defer cancel()
	users, err := l.entries(ctx)
	if err != nil {
		return err
	}
	nodes, running := map[string]map[any]bool{}, 0
	for _, cl := range l.all() {
		if nodes[cl.user] == nil {
			nodes[cl.user] = map[any]bool{}
		}
		nodes[cl.user][cl.node] = true
	}
	want, got := map[string]int{}, map[string]int{}
	for user, on := range nodes {
		want[user] = len(on)
	}
	for user, e := range users {
		if e.online > 0 {
			got[user] = e.online
		}
	}
	if !maps.Equal(got, want) {
		return fmt.Errorf("online in the database: %s; on several instances %v, want %v", differ(slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want))),
			several(got), several(want))
	}
	for _, n := range l.nodes {
		if n.Running() {
			running++
		}
	}
	var instances, orphans int
	if err := l.db.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM rooms_instance), (SELECT count(*) FROM rooms_online o
		WHERE NOT EXISTS (SELECT 1 FROM rooms_instance i WHERE i.hub = o.hub AND i.instance = o.instance))`).Scan(&instances, &orphans); err != nil {
		return err
	}
	if instances != running || orphans > 0 {
		return fmt.Errorf("the database has %d instances, %d run; %d rows are of none", instances, running, orphans)
	}
	return nil
}

func several(counts map[string]int) map[string]int {
	counts = maps.Clone(counts)
	maps.DeleteFunc(counts, func(_ string, n int) bool { return n == 1 })
	return counts
}

// found is a user by the admin endpoint.
type found struct {
	Online   bool
	Status   string
	Source   string
	Device   string
	Degraded bool
	Stale    bool
	Since    int64
	LastSeen int64 `json:"last_seen"`
	AsOf     int64 `json:"as_of"`
}

// find asks an instance for a user.
func find(ctx context.Context, node *caddytest.Caddy, user string) (f found, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+node.Admin+"/rooms/default/users/"+user, nil)
	if err != nil {
		return f, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return f, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("user %s: %s %s", user, resp.Status, b)
	}
	if err != nil {
		return f, err
	}
	return f, json.Unmarshal(b, &f)
}

// find asks an instance for a user.
func (l *ledger) find(node int, user string) found {
	l.Helper()
	ctx, cancel := l.context()
	defer cancel()
	f, err := find(ctx, l.nodes[node], user)
	if err != nil {
		l.Fatal(err)
	}
	return f
}

// foundEverywhere returns an error until each instance that runs answers for each open client from Redis.
func (l *ledger) foundEverywhere() error {
	for i := range l.nodes {
		if !l.nodes[i].Running() {
			continue
		}
		for _, cl := range l.all() {
			if f := l.find(i, cl.user); !f.Online || f.Source != "redis" || f.Degraded || f.Stale {
				return fmt.Errorf("instance %d says of %s: %+v", i, cl.user, f)
			}
		}
	}
	return nil
}

// gaze looks at the clients that are open, in the database and by all instances, until it is stopped, which returns how many answers were
// from where. They must be online all the time.
func (l *ledger) gaze() (stop func() map[string]int) {
	ctx, cancel := context.WithCancel(l.Context())
	clients := l.all()
	var mu sync.Mutex
	sources, wrong := map[string]int{}, map[string]int{}
	var looking sync.WaitGroup
	for i, node := range l.nodes {
		looking.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				cl := clients[n%len(clients)]
				f, err := find(ctx, node, cl.user)
				if ctx.Err() != nil {
					return
				}
				mu.Lock()
				sources[f.Source]++
				switch {
				case err != nil:
					wrong[err.Error()]++
				case f.Online && f.Source == "redis" && !f.Degraded && !f.Stale:
				case f.Online && f.Source == "memory" && f.Degraded && !f.Stale && cl.node == node:
				case f.Online && f.Source == "database" && f.Degraded && f.Stale && f.AsOf > 0 && cl.node != node:
				default:
					wrong[fmt.Sprintf("online %t by %s, degraded %t, stale %t, as_of %t, of an own user %t",
						f.Online, f.Source, f.Degraded, f.Stale, f.AsOf > 0, cl.node == node)]++
				}
				mu.Unlock()
				<-time.After(2 * time.Millisecond) // the machine is not only for those who look
			}
		})
	}
	looking.Go(func() {
		for ctx.Err() == nil {
			users, err := l.entries(ctx)
			if ctx.Err() != nil {
				return
			}
			mu.Lock()
			if err != nil {
				wrong[err.Error()]++
			} else {
				for _, cl := range clients {
					if users[cl.user].online == 0 {
						wrong["offline in the database"]++
					}
				}
			}
			mu.Unlock()
			<-time.After(5 * time.Millisecond)
		}
	})
	return func() map[string]int {
		l.Helper()
		cancel()
		looking.Wait()
		for what, n := range wrong {
			l.Errorf("%d times: %s", n, what)
		}
		return sources
	}
}

// status has a client set its status everywhere.
func (l *ledger) status(cl *client, status string) {
	l.Helper()
	ctx, cancel := l.context()
	defer cancel()
	if _, err := cl.ask(ctx, "status", fmt.Sprintf(`"status":%q`, status)); err != nil {
		l.Fatal(err)
	}
}

// live has clients do all there is, and tells that each was answered: joins, messages, statuses and pings. It returns those who came.
func (l *ledger) live(name string) (came []*client) {
	l.Helper()
	for i := range l.nodes {
		cl := l.join(i, fmt.Sprint(name, i), room(0))
		came = append(came, cl)
		l.status(cl, name)
		ctx, cancel := l.context()
		if _, err := cl.ask(ctx, "ping", `"x":0`); err != nil {
			l.Errorf("ping: %v", err)
		}
		cancel()
	}
	if err := l.heard(l.say(), sameNode); err != nil {
		l.Error(err)
	}
	return came
}

// shrink has a tenth of the clients leave, and returns when each was gone, by user.
func (l *ledger) shrink() map[string]time.Time {
	gone := map[string]time.Time{}
	for i, cl := range l.all() {
		if i%10 == 0 {
			l.part(cl, func(cl *client) { cl.leave(1000) })
			gone[cl.user] = time.Now()
		}
	}
	return gone
}

// checkGone fails the trial unless the database has these users offline, last seen about when they left.
func (l *ledger) checkGone(gone map[string]time.Time) {
	l.Helper()
	users, err := l.entries(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	for user, at := range gone {
		e := users[user]
		if off := at.Sub(time.UnixMilli(e.seen)); e.online > 0 || off < -time.Second || off > 5*time.Second {
			l.Errorf("%s: %+v, left %s later", user, e, off)
		}
	}
}
