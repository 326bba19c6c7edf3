package module

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// TestTokenSecretIsReplaced reloads with another way to check who comes: connections stay, but for those whose token nobody would take now.
func TestTokenSecretIsReplaced(t *testing.T) {
	other, third := strings.Repeat("another-secret-", 3), strings.Repeat("yet-another-", 3)
	file := filepath.Join(t.TempDir(), "secret")
	write := func(secret string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const config = `:{$PORT} {
	rooms /ws {
		token {
			TOKEN
		}
		EXTRA
	}
	rooms /more {
		token {
			secret {env.SECRET}
		}
		max_rooms 5
	}
}`
	first, both := "secret {env.SECRET}", "leeway 1s\n secret {env.SECRET} {file."+file+"}"
	text := func(token, extra string) string {
		return strings.NewReplacer("TOKEN", token, "EXTRA", extra).Replace(config)
	}
	c := caddytest.StartText(t, text(first, ""), "SECRET="+tokenSecret)
	_, port, _ := strings.Cut(c.Addr, ":")
	reload := func(token, extra string) {
		t.Helper()
		text := "{\n\tadmin " + c.Admin + "\n}\n" + strings.ReplaceAll(text(token, extra), "{$PORT}", port)
		if status, answer := c.Reload(text); status != 200 {
			t.Fatalf("reload: %d %s", status, answer)
		}
	}
	connect := func(path, raw string) *roomstest.Client {
		t.Helper()
		client := roomstest.Connect(t, c.URL(path), nil, bearer(raw))
		client.Welcome()
		return client
	}
	revoked := func(client *roomstest.Client) {
		t.Helper()
		if bye := client.Next("bye"); bye["code"] != 4001.0 || bye["reason"] != "revoked" || bye["reconnect_in"] != nil {
			t.Errorf("bye %v", bye)
		}
	}

	ann, dan := connect("/ws", mint(t, claims{"sub": "ann"})), connect("/more", mint(t, claims{"sub": "dan"}))
	write(other)
	reload(both, "origins https://example.com")
	bob := connect("/ws", mintWith(t, other, claims{"sub": "bob"}))
	ann.Quiet()

	write(third)
	reload(both, "origins https://example.com\n max_rooms 7")
	revoked(bob)
	eve := connect("/ws", mint(t, claims{"sub": "eve"}))
	eve.Send(`{"type":"auth","id":1,"token":%q}`, mintWith(t, other, claims{"sub": "eve"}))
	eve.Refused("unauthorized")
	ann.Quiet()

	reload("secret {file."+file+"}", "")
	revoked(ann)
	revoked(eve)
	dan.Quiet()

	// Who has come by another authority comes again.
	fay := connect("/ws", mintWith(t, third, claims{"sub": "fay"}))
	reload("issuer us\n secret {file."+file+"}", "")
	if bye := fay.Next("bye"); bye["code"] != 4200.0 {
		t.Errorf("bye %v", bye)
	}
	dan.Quiet()
}
