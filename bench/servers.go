package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/freeport"
)

// server is a process that is measured, and the Redis that it uses.
type server struct {
	options // what tells where it is: URL, PID, Admin, Redis, API, Secret, Speech
	process *process
	store   *process // nil without Redis
}

func (s *server) stop() {
	s.process.kill()
	if s.store != nil {
		s.store.kill()
	}
}

// launcher starts a server and returns when it serves.
type launcher func(ctx context.Context, w *workshop) (*server, error)

// caddyServer returns the launcher of a Caddy with the directive rooms, in which lines are written.
func caddyServer(scheme string, withRedis bool, lines ...string) launcher {
	return func(ctx context.Context, w *workshop) (*server, error) {
		s := &server{options: options{Speech: "rooms"}}
		directives := lines
		if withRedis {
			if err := w.startRedis(ctx, s); err != nil {
				return nil, err
			}
			directives = append(slices.Clip(lines), "redis redis://"+s.Redis)
		}
		addr, err1 := freeport.Find()
		endpoint, err2 := freeport.Find()
		if err := errors.Join(err1, err2); err != nil {
			return s.give(err)
		}
		s.URL, s.Admin = "ws://"+addr+"/ws", admin(endpoint)
		s.API, s.Secret = scheme+"://"+addr+"/api", benchSecret
		if scheme == "https" {
			s.URL = "wss://" + addr + "/ws"
		}
		dir, err := os.MkdirTemp(w.dir, "caddy")
		if err != nil {
			return s.give(err)
		}
		file := filepath.Join(dir, "Caddyfile")
		if err := os.WriteFile(file, []byte(caddyfile(scheme, addr, endpoint, directives)), 0o600); err != nil {
			return s.give(err)
		}
		cmd := exec.CommandContext(ctx, w.caddy, "run", "--config", file)
		cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
		s.process, err = start(cmd, s.serves)
		return s.give(err)
	}
}

// benchSecret is of the HTTP API of servers that live for one measurement.
const benchSecret = "of-nobody-but-the-benchmark"

func caddyfile(scheme, addr, endpoint string, directives []string) string {
	certificate := ""
	if scheme == "https" {
		certificate = "tls internal"
	}
	return fmt.Sprintf(`{
	admin %s
	persist_config off
	skip_install_trust
	auto_https disable_redirects
}
%s://%s {
	%s
	rooms /ws {
		anonymous
		%s
	}
	rooms_api /api/* {
		secret %q
	}
}
`, endpoint, scheme, addr, certificate, strings.Join(directives, "\n\t\t"), benchSecret)
}

// bareServer returns the launcher of the bare loop.
func bareServer(args ...string) launcher {
	return func(ctx context.Context, w *workshop) (*server, error) {
		s := &server{options: options{Speech: "rooms"}}
		addr, err := freeport.Find()
		if err != nil {
			return nil, err
		}
		s.URL = "ws://" + addr
		if len(args) > 0 && args[0] == "-tls" {
			s.URL = "wss://" + addr
		}
		s.process, err = start(exec.CommandContext(ctx, w.self, append([]string{"bare", "-addr", addr}, args...)...), s.serves)
		return s.give(err)
	}
}

// socketIOServer starts socketio/server.js, with the Redis adapter.
func socketIOServer(ctx context.Context, w *workshop) (*server, error) {
	s := &server{options: options{Speech: "socket.io"}}
	if err := w.startRedis(ctx, s); err != nil {
		return nil, err
	}
	addr, err := freeport.Find()
	if err != nil {
		return s.give(err)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return s.give(err)
	}
	s.URL = "ws://" + addr
	cmd := exec.CommandContext(ctx, "node", "server.js", host, port, "redis://"+s.Redis)
	cmd.Dir = w.socket
	s.process, err = start(cmd, s.serves)
	return s.give(err)
}

// startRedis starts the Redis of a server.
func (w *workshop) startRedis(ctx context.Context, s *server) error {
	addr, err := freeport.Find()
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, w.redis, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", w.dir)
	s.Redis = addr
	s.store, err = start(cmd, func(ctx context.Context) error {
		_, err := redisCPU(ctx, addr)
		return err
	})
	return err
}

// serves tells by its error whether the server takes connections.
func (s *server) serves(ctx context.Context) error {
	o := s.options
	c, err := dial(ctx, &o, new(meter))
	if err == nil {
		c.close()
	}
	return err
}

// give returns the server, or ends what has been started of it.
func (s *server) give(err error) (*server, error) {
	if err == nil {
		s.PID = s.process.cmd.Process.Pid
		return s, nil
	}
	if s.process != nil {
		s.process.kill()
	}
	if s.store != nil {
		s.store.kill()
	}
	return nil, err
}

// process is a program that was started.
type process struct {
	cmd  *exec.Cmd
	log  bytes.Buffer  // owned by cmd until done
	done chan struct{} // closed when it has ended
}

// start runs cmd and returns when ready has no error any more.
func start(cmd *exec.Cmd, ready func(context.Context) error) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	go func() {
		_ = cmd.Wait() // it is killed, or its log tells
		close(p.done)
	}()
	for {
		err := ready(ctx)
		if err == nil {
			return p, nil
		}
		select {
		case <-p.done:
			return nil, fmt.Errorf("%s has ended:\n%s", filepath.Base(cmd.Path), p.log.String())
		case <-ctx.Done():
			p.kill()
			return nil, fmt.Errorf("%s does not serve after %s: %w\n%s", filepath.Base(cmd.Path), patience, err, p.log.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// kill ends the process and waits for that.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // an error means that it has ended already
	<-p.done
}
