// Package caddytest runs the real program, cmd/caddy, in processes of its own, for tests that start, reload, stop and kill it.
package caddytest

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/freeport"
)

// Patience is how long what must happen is waited for. It is never waited out when things work.
const Patience = 60 * time.Second

var (
	build  sync.Once
	binary string
	failed string
)

// Binary returns the path of the program, built once in the life of the test's own process. Main must have been called.
func Binary(t testing.TB) string {
	t.Helper()
	build.Do(func() {
		dir, err := os.MkdirTemp("", "caddy-rooms")
		if err != nil {
			failed = err.Error()
			return
		}
		binary = filepath.Join(dir, "caddy")
		args := []string{"build", "-o", binary}
		if race {
			args = append(args, "-race")
		}
		out, err := exec.Command("go", append(args, "github.com/caddyrooms/caddy-rooms/cmd/caddy")...).CombinedOutput()
		if err != nil {
			failed = err.Error() + "\n" + string(out)
		}
	})
	if failed != "" {
		t.Fatalf("building cmd/caddy: %s", failed)
	}
	return binary
}

// Main runs the tests of a package that uses Binary, and removes the program afterwards.
func Main(m *testing.M) {
	code := m.Run()
	if binary != "" {
		_ = os.RemoveAll(filepath.Dir(binary))
	}
	os.Exit(code)
}

// Caddy is one process. It belongs to the test that started it, and ends with it.
type Caddy struct {
	Addr  string // host:port that {$PORT} leads to
	Admin string // host:port of the admin endpoint

	t    testing.TB
	prog string
	file string
	dir  string
	env  []string
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
	log  Output
}

// Start runs a Caddy with the Caddyfile at path, from the root of the repository, and returns when it serves. In it, {$PORT} is a free port.
// env are further variables, as name=value.
func Start(t testing.TB, path string, env ...string) *Caddy {
	t.Helper()
	return start(t, Binary(t), path, env...)
}

func start(t testing.TB, program, path string, env ...string) *Caddy {
	t.Helper()
	c := &Caddy{t: t, prog: program, file: path, dir: t.TempDir(), Addr: freeport.Addr(t), Admin: freeport.Addr(t)}
	_, port, _ := net.SplitHostPort(c.Addr)
	c.env = append(os.Environ(), "PORT="+port, "CADDY_ADMIN="+c.Admin, "XDG_CONFIG_HOME="+c.dir, "XDG_DATA_HOME="+c.dir,
		"GORACE=exitcode=66 halt_on_error=0")
	c.env = append(c.env, env...)
	t.Cleanup(func() {
		c.Kill()
		if log := c.Log(); strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic") {
			t.Error("the server's log has a data race or a panic")
			t.Log(log)
		} else if t.Failed() {
			t.Logf("the server's log:\n%s", log)
		}
	})
	c.Run()
	return c
}

// StartText runs a Caddy with the Caddyfile text.
func StartText(t testing.TB, text string, env ...string) *Caddy {
	t.Helper()
	return Start(t, write(t, text), env...)
}

// StartProgram is StartText with another program than that of Binary.
func StartProgram(t testing.TB, program, text string, env ...string) *Caddy {
	t.Helper()
	return start(t, program, write(t, text), env...)
}

func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Run starts the process, again after Stop or Kill, and returns when it serves.
func (c *Caddy) Run() {
	c.t.Helper()
	const inForce = "serving initial configuration"
	before := strings.Count(c.Log(), inForce)
	c.cmd = exec.Command(c.prog, "run", "--adapter", "caddyfile", "--config", c.file)
	c.cmd.Dir, c.cmd.Env, c.cmd.Stderr = root(c.t), c.env, &c.log
	if err := c.cmd.Start(); err != nil {
		c.t.Fatalf("starting caddy: %v", err)
	}
	c.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait() // ended on purpose, or told below
		close(done)
	}(c.cmd, c.done)
	c.Wait("the server", func() bool {
		select {
		case <-c.done:
			c.t.Fatalf("caddy ended at once:\n%s", c.Log())
		default:
		}
		conn, err := net.Dial("tcp", c.Addr)
		if err != nil {
			return false
		}
		_ = conn.Close()
		// It listens a moment before the configuration is in force.
		return strings.Count(c.Log(), inForce) > before
	})
}

// Wait polls for what happens outside of the test.
func (c *Caddy) Wait(what string, done func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(Patience); !done(); {
		if time.Now().After(deadline) {
			c.t.Fatalf("waited in vain for %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// WaitLog waits until the log has text.
func (c *Caddy) WaitLog(text string) {
	c.t.Helper()
	c.Wait("the log to have "+text, func() bool { return strings.Contains(c.Log(), text) })
}

// URL returns the WebSocket URL of a path.
func (c *Caddy) URL(path string) string { return "ws://" + c.Addr + path }

// Reload makes text the running configuration, as caddy reload does, and returns the status and the answer.
func (c *Caddy) Reload(text string) (status int, answer string) {
	c.t.Helper()
	resp, err := http.Post("http://"+c.Admin+"/load", "text/caddyfile", strings.NewReader(text))
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	_, _ = b.ReadFrom(resp.Body)
	return resp.StatusCode, b.String()
}

// Command runs the program with args, like "stop", for this process's admin endpoint, and returns the exit code and all output.
func (c *Caddy) Command(args ...string) (code int, output string) {
	c.t.Helper()
	cmd := exec.Command(c.prog, args...)
	cmd.Dir, cmd.Env = c.dir, c.env
	b, err := cmd.CombinedOutput()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		c.t.Fatalf("running caddy %s: %v", strings.Join(args, " "), err)
	}
	return cmd.ProcessState.ExitCode(), string(b)
}

// Stop asks the process to end, as a service manager does, and waits until it has.
func (c *Caddy) Stop() {
	c.t.Helper()
	c.Signal(syscall.SIGTERM)
	c.Ended()
}

// Ended waits until the process has ended by itself, and returns its exit code, which is -1 after a signal.
func (c *Caddy) Ended() (code int) {
	c.t.Helper()
	select {
	case <-c.done:
	case <-time.After(Patience):
		c.t.Fatal("caddy does not end")
	}
	return c.cmd.ProcessState.ExitCode()
}

// Kill ends the process without letting it say goodbye.
func (c *Caddy) Kill() {
	_ = c.cmd.Process.Kill() // an error means that it has ended already
	<-c.done
}

// Running tells whether the process was started and not ended by Stop or Kill.
func (c *Caddy) Running() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// Signal sends a signal.
func (c *Caddy) Signal(s os.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.t.Fatalf("sending %s to caddy: %v", s, err)
	}
}

// Log returns what the process, and those before it, have logged.
func (c *Caddy) Log() string { return c.log.String() }

// root returns the root of the repository.
func root(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatalf("looking for the root of the repository: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// Output is what processes have written. Any goroutine may use it.
type Output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
