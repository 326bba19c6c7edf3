package main

import (
	"context"
	"embed"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// workshop has the programs that are measured, and a folder for what they write. Nothing changes in it once it is open.
type workshop struct {
	dir    string
	caddy  string // the program
	self   string // this program
	redis  string // the program; "": there is none
	socket string // the folder of server.js, with what it needs; "": it can't be run
}

//go:embed socketio
var socketFiles embed.FS

// openWorkshop builds Caddy, and prepares what the groups need. It tells on progress what is missing, and therefore not measured.
func openWorkshop(ctx context.Context, progress *log.Logger, groups []group) (w *workshop, err error) {
	w = new(workshop)
	if w.dir, err = os.MkdirTemp("", "caddy-rooms-bench"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.self, err = os.Executable(); err != nil {
		return nil, err
	}
	w.caddy = filepath.Join(w.dir, "caddy")
	build := exec.CommandContext(ctx, "go", "build", "-o", w.caddy, "github.com/caddyrooms/caddy-rooms/cmd/caddy")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building cmd/caddy: %w\n%s", err, out)
	}
	needed := func(what string) bool {
		return slices.ContainsFunc(groups, func(g group) bool {
			return slices.ContainsFunc(g.trials, func(t trial) bool { return t.needs == what })
		})
	}
	if needed("redis") {
		if w.redis, err = exec.LookPath("redis-server"); err != nil {
			progress.Print("without redis-server (on Debian or Ubuntu: apt-get install redis-server) nothing is measured with Redis, nor Socket.IO")
			return w, nil
		}
	}
	if needed("socket.io") {
		if err := w.installSocketIO(ctx); err != nil {
			progress.Printf("Socket.IO is not measured: %v", err)
			w.socket = ""
		}
	}
	return w, nil
}

// installSocketIO needs Node with npm, and their registry or what npm has kept of it.
func (w *workshop) installSocketIO(ctx context.Context) error {
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			return err
		}
	}
	if err := os.CopyFS(w.dir, socketFiles); err != nil {
		return err
	}
	w.socket = filepath.Join(w.dir, "socketio")
	install := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	install.Dir = w.socket
	if out, err := install.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	return nil
}

// has tells whether a trial that needs what can be made.
func (w *workshop) has(what string) bool {
	switch what {
	case "redis":
		return w.redis != ""
	case "socket.io":
		return w.socket != ""
	}
	return true
}

func (w *workshop) close() { _ = os.RemoveAll(w.dir) }
