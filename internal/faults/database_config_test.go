package faults

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// reloadOfTheDatabase adds a database by a reload, names it differently, changes it and takes it away. Sockets stay, each database has everyone
// who is online while it is in use, and nobody afterwards.
func reloadOfTheDatabase(t *testing.T, l *ledger) {
	kind, respelled := "postgres", l.dsn+"&application_name=rooms"
	if l.proxy == nil {
		kind, respelled = "sqlite", strings.Replace(l.dsn, "sqlite:", "sqlite://", 1)
	}
	next := l.ledger(t, kind)
	c := start(t, size(600, 60), options{program: l.program})
	l.cluster, next.cluster = c, c
	c.fill()
	uses := 0
	use := func(dsn string) {
		t.Helper()
		for i := range c.nodes {
			c.reload(i, edition{archive: dsn})
		}
		if dsn == "" {
			return
		}
		uses++
		for _, n := range c.nodes {
			n.Wait("the database to be in use", func() bool { return strings.Count(n.Log(), "presence database is in use") == uses })
		}
	}
	use(l.dsn)
	l.settled(l.checkDatabase)
	for range 3 { // as a new password does, while they are in
		use(respelled)
		l.settled(l.checkDatabase)
		stop := l.gaze()
		<-time.After(500 * time.Millisecond) // in which the old one would end, if it had not
		stop()
		use(l.dsn)
		l.settled(l.checkDatabase)
	}
	use(next.dsn)
	next.settled(next.checkDatabase)
	l.settled(l.nobody)
	use("")
	next.settled(next.nobody)
	for _, cl := range c.all() {
		for _, of := range []*ledger{l, next} {
			if e := of.entry(cl.user); e.seen < cl.since.Add(-time.Second).UnixMilli() || e.seen > time.Now().UnixMilli() {
				t.Errorf("%s: %+v", cl.user, e)
				break
			}
		}
	}
	if f := l.find(0, "nobody"); f.Source != "redis" {
		t.Errorf("nobody, without a database: %+v", f)
	}
	c.settled(c.check)
	c.expect(nothing)
	c.finish()
}

// nobody returns an error until the database has nobody online, and no instance.
func (l *ledger) nobody() error {
	var online, instances int
	err := l.db.QueryRowContext(l.Context(), `SELECT (SELECT count(*) FROM rooms_online), (SELECT count(*) FROM rooms_instance)`).Scan(&online, &instances)
	if err == nil && (online > 0 || instances > 0) {
		err = fmt.Errorf("%d online on %d instances", online, instances)
	}
	return err
}

// wrongDatabase starts instances whose databases can't be used: presence works, and one line says why it is not kept, without the password.
func wrongDatabase(t *testing.T, l *ledger) {
	var rules string
	if err := l.db.QueryRowContext(t.Context(), `SHOW hba_file`).Scan(&rules); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		`CREATE ROLE locked LOGIN PASSWORD 'right'`,
		`CREATE ROLE poor LOGIN`,
		`COPY (VALUES ('host all locked all scram-sha-256'), ('host all all all trust')) TO '` + rules + `'`,
		`SELECT pg_reload_conf()`,
	} {
		if _, err := l.db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	as := func(user string) string { return strings.Replace(l.dsn, "postgres@", user+":hunter2@", 1) }
	file := filepath.Join(t.TempDir(), "Caddyfile")
	config := `:{$PORT} {
		rooms /ws {
			user {http.request.uri.query.user}
			presence {
				database {env.DATABASE}
			}
		}
	}`
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ dsn, why string }{
		"wrong password": {as("locked"), "password authentication failed"},
		"no such host":   {"postgres://rooms:hunter2@no-such-host.invalid/rooms", "no-such-host.invalid"},
		"no permission":  {as("poor"), "permission denied for schema public"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(test.dsn, "hunter2") {
				t.Fatal(test.dsn)
			}
			node := caddytest.StartProgram(t, l.program, config, "DATABASE="+test.dsn)
			ann := roomstest.Dial(t, node.URL("/ws?user=ann"), nil)
			ann.Send(`{"type":"join","id":1,"room":"lobby"}`)
			ann.Next("ack")
			node.WaitLog(test.why)
			if f, err := find(t.Context(), node, "ann"); err != nil || !f.Online || f.Source != "memory" {
				t.Errorf("ann: %+v, %v", f, err)
			}
			if f, err := find(t.Context(), node, "bob"); err != nil || f.Online || f.Source != "memory" {
				t.Errorf("bob: %+v, %v", f, err)
			}
			resp, err := http.Get("http://" + node.Admin + "/config/")
			if err != nil {
				t.Fatal(err)
			}
			shown, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			_, adapted := node.Command("adapt", "--adapter", "caddyfile", "--config", file)
			<-time.After(1500 * time.Millisecond) // for another attempt, which says nothing
			for what, text := range map[string]string{"/config/": string(shown), "caddy adapt": adapted, "the log": node.Log()} {
				if strings.Contains(text, "hunter2") {
					t.Errorf("%s has the password", what)
				}
				if what != "the log" && !strings.Contains(text, "{env.DATABASE}") {
					t.Errorf("%s: %s", what, text)
				}
			}
			if n := strings.Count(node.Log(), "presence database"); n != 1 {
				t.Errorf("%d lines of the log are about the database", n)
			}
		})
	}
}
