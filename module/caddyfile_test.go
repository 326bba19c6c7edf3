package module

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// FuzzCaddyfile parses tokens that no Caddyfile parser has looked at first: the parser must not panic, and what it
// accepts is JSON that loads and is valid.
func FuzzCaddyfile(f *testing.F) {
	files, err := filepath.Glob("../caddyfile_test/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		f.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		golden, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		if _, directive, ok := strings.Cut(string(golden), "\trooms"); ok {
			directive, _, _ = strings.Cut(directive, "\n}\n")
			f.Add("rooms" + directive)
		}
	}
	f.Fuzz(func(t *testing.T, input string) {
		tokens, err := caddyfile.Tokenize([]byte(input), "Caddyfile")
		if err != nil {
			t.Skip(err)
		}
		var h Handler
		if h.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)) != nil {
			return
		}
		config, err := json.Marshal(&h)
		if err != nil {
			t.Fatal(err)
		}
		var loaded Handler
		if err := caddy.StrictUnmarshalJSON(config, &loaded); err != nil {
			t.Fatalf("%s does not load: %v", config, err)
		}
		if err := loaded.validateConfig(); err != nil {
			t.Errorf("%s is invalid: %v", config, err)
		}
		again, err := json.Marshal(&loaded)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again, config) {
			t.Errorf("%s loads as %s", config, again)
		}
		loaded.setDefaults()
		if err := loaded.validateConfig(); err != nil {
			t.Errorf("%s is invalid with its defaults: %v", config, err)
		}
	})
}

// Placeholders of the environment and of files, which may be secrets, are left for provision.
func TestPlaceholdersStay(t *testing.T) {
	t.Setenv("REDIS_URL", "redis://resolved")
	h := new(Handler)
	err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser(`rooms {
		redis {env.REDIS_URL} {
			password {file./run/secrets/redis}
		}
	}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := h.Redis.URLs[0]; got != "{env.REDIS_URL}" {
		t.Errorf("url is %q", got)
	}
	if got := h.Redis.Password; got != "{file./run/secrets/redis}" {
		t.Errorf("password is %q", got)
	}
}
