// Package sqltest starts real PostgreSQL servers for tests, and lets a test kill them.
package sqltest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/caddyrooms/caddy-rooms/internal/freeport"
)

// Postgres is a PostgreSQL on a free port of the loopback interface, with a superuser and a database that are both named postgres. It belongs to
// one test.
type Postgres struct {
	Addr string

	t    testing.TB
	bin  string
	dir  string
	run  *syscall.SysProcAttr // as whom: the server refuses to be root
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

// StartPostgres runs a server until the test ends. Without the program the test is skipped, with what to do about it; in CI (the environment
// variable CI is set) it fails.
func StartPostgres(t testing.TB) *Postgres {
	t.Helper()
	bin, err := findPostgres()
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	// Not t.TempDir(), into which only the user who runs the test may look.
	dir, err := os.MkdirTemp("", "rooms-postgres")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &Postgres{Addr: freeport.Addr(t), t: t, bin: bin, dir: dir}
	if os.Getuid() == 0 {
		p.run = someoneElse(t, dir)
	}
	data := filepath.Join(dir, "data")
	initdb := p.command("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale", "C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	p.Run()
	t.Cleanup(p.Kill)
	return p
}

// findPostgres returns where the programs of PostgreSQL are: Debian has them outside of PATH.
func findPostgres() (string, error) {
	if path, err := exec.LookPath("postgres"); err == nil {
		return filepath.Dir(path), nil
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres") // the pattern is well formed
	if len(found) == 0 {
		return "", errors.New("PostgreSQL is not installed: on Debian or Ubuntu, apt-get install postgresql")
	}
	slices.Sort(found)
	return filepath.Dir(found[len(found)-1]), nil
}

// someoneElse gives dir to the user whom Debian makes for the server, or to nobody.
func someoneElse(t testing.TB, dir string) *syscall.SysProcAttr {
	t.Helper()
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		t.Fatalf("PostgreSQL does not run as root: %v", err)
	}
	uid, _ := strconv.ParseUint(u.Uid, 10, 32) // they are numbers on Unix
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	if err := os.Chown(dir, int(uid), int(gid)); err != nil {
		t.Fatal(err)
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

func (p *Postgres) command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), filepath.Join(p.bin, name), args...)
	cmd.Dir, cmd.SysProcAttr = p.dir, p.run
	return cmd
}

// Run starts the server again after Kill, with what it had.
func (p *Postgres) Run() {
	p.t.Helper()
	host, port, _ := net.SplitHostPort(p.Addr) // it was made of the two
	log, err := os.Create(filepath.Join(p.dir, "log"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	p.cmd = p.command("postgres", "-D", filepath.Join(p.dir, "data"), "-h", host, "-p", port, "-k", "", "-F", "-c", "shared_buffers=16MB")
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.done = make(chan struct{})
	if err := p.cmd.Start(); err != nil {
		p.t.Fatalf("starting postgres: %v", err)
	}
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait() // killed on purpose
		close(done)
	}(p.cmd, p.done)
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := p.ping()
		if err == nil {
			return
		}
		select {
		case <-p.done:
		case <-time.After(20 * time.Millisecond):
			if time.Now().Before(deadline) {
				continue
			}
		}
		text, _ := os.ReadFile(log.Name())
		p.t.Fatalf("postgres did not answer on %s: %v\n%s", p.Addr, err, text)
	}
}

func (p *Postgres) ping() error {
	db, err := sql.Open("pgx", p.URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return db.PingContext(ctx)
}

// Kill ends the server at once, with all its processes (SIGQUIT), and waits for it to be gone.
func (p *Postgres) Kill() {
	_ = p.cmd.Process.Signal(syscall.SIGQUIT) // an error means it has ended already
	<-p.done
}

// URL is a database of the server as a Caddyfile has it.
func (p *Postgres) URL(database string) string {
	return fmt.Sprintf("postgres://postgres@%s/%s?sslmode=disable", p.Addr, database)
}

// Create makes an empty database.
func (p *Postgres) Create(database string) {
	p.t.Helper()
	p.Exec("CREATE DATABASE " + database)
}

// Exec runs a statement as superuser in the database postgres.
func (p *Postgres) Exec(statement string) {
	p.t.Helper()
	db, err := sql.Open("pgx", p.URL("postgres"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(context.Background(), statement); err != nil {
		p.t.Fatal(err)
	}
}
