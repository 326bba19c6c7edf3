package caddytest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Edit replaces a piece of the program's source.
type Edit struct {
	File     string // relative to the root of the repository
	Old, New string // File has Old once
}

// Mutant builds the program with edits made to its source, and returns its path: a test that passes with it, too, does not hold what
// was edited away.
func Mutant(t testing.TB, edits ...Edit) string {
	t.Helper()
	dir := t.TempDir()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for i, e := range edits {
		path := filepath.Join(root(t), e.File)
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(source), e.Old); n != 1 {
			t.Fatalf("%s has %d times what is to be replaced: %s", e.File, n, e.Old)
		}
		mutated := filepath.Join(dir, fmt.Sprint(i, filepath.Ext(e.File)))
		if err := os.WriteFile(mutated, []byte(strings.Replace(string(source), e.Old, e.New, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[path] = mutated
	}
	b, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, b, 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "caddy")
	args := []string{"build", "-overlay", overlayFile, "-o", program}
	if race { // as Binary, whose packages are built then
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "github.com/caddyrooms/caddy-rooms/cmd/caddy")...).CombinedOutput()
	if err != nil {
		t.Fatalf("building a mutant: %v\n%s", err, out)
	}
	return program
}
