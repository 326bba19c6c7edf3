// Package caddyfile_test adapts Caddyfiles with the directives rooms and rooms_api. A golden file has a Caddyfile, a line of dashes, and
// the JSON that the Caddyfile adapts to or the error that it must give. To write what comes after the line anew:
//
//	go test ./caddyfile_test -update
package caddyfile_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddyrooms/caddy-rooms/module"
	_ "github.com/caddyrooms/caddy-rooms/sqlite"
)

var update = flag.Bool("update", false, "write the golden files anew")

const separator = "----------\n"

func TestAdapt(t *testing.T) {
	files, err := filepath.Glob("*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			golden, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			caddyfile, want, ok := bytes.Cut(golden, []byte(separator))
			if !ok {
				t.Fatalf("no line %q", separator)
			}
			got := adapt(t, caddyfile)
			if *update {
				if err := os.WriteFile(file, bytes.Join([][]byte{caddyfile, got}, []byte(separator)), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// adapt returns the indented JSON of a Caddyfile, or the text of the error, each with a newline at its end.
func adapt(t *testing.T, input []byte) []byte {
	t.Helper()
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(input, nil)
	if err != nil {
		return []byte(err.Error() + "\n")
	}
	for _, w := range warnings {
		t.Errorf("warning: %s", w)
	}
	var parsed any
	if err := json.Unmarshal(config, &parsed); err != nil {
		t.Fatal(err)
	}
	if !checkHandlers(t, parsed) {
		t.Error("no rooms handler in the JSON")
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, config, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return append(indented.Bytes(), '\n')
}

// checkHandlers finds the rooms handlers in adapted JSON, and checks that each loads strictly, as Caddy does it, and
// marshals to what it was. It returns whether there is any.
func checkHandlers(t *testing.T, v any) (found bool) {
	t.Helper()
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			found = checkHandlers(t, e) || found
		}
	case map[string]any:
		handlers := map[any]any{"rooms": new(module.Handler), "rooms_api": new(module.API)}
		if h, ok := handlers[v["handler"]]; ok {
			delete(v, "handler") // Caddy takes it out before it loads a module
			checkRoundTrip(t, v, h)
			return true
		}
		for _, e := range v {
			found = checkHandlers(t, e) || found
		}
	}
	return found
}

func checkRoundTrip(t *testing.T, config map[string]any, h any) {
	t.Helper()
	want, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.StrictUnmarshalJSON(want, h); err != nil {
		t.Fatalf("%s does not load: %v", want, err)
	}
	marshaled, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	var again map[string]any
	if err := json.Unmarshal(marshaled, &again); err != nil {
		t.Fatal(err)
	}
	if got, err := json.Marshal(again); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s loads as %s (%v)", want, got, err)
	}
}
