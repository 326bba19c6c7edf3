package module

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

const reloadConfig = `:{$PORT} {
	rooms /ws {
		user {http.request.uri.query.user}
		EXTRA
	}
}`

func TestSocketsSurviveReload(t *testing.T) {
	config := func(port, extra string) string {
		return strings.NewReplacer("EXTRA", extra, "{$PORT}", port).Replace("{\n\tadmin ADMIN\n}\n" + reloadConfig)
	}
	c := caddytest.StartText(t, strings.ReplaceAll(reloadConfig, "EXTRA", ""))
	_, port, _ := strings.Cut(c.Addr, ":")
	with := func(extra string) string { return strings.Replace(config(port, extra), "ADMIN", c.Admin, 1) }
	ann, bob := dial(t, c, "ann"), dial(t, c, "bob")
	ann.Join("lobby")
	bob.Join("lobby")
	ann.Next("presence")
	for i := range 10 {
		extra := ""
		if i%2 == 1 {
			extra = "max_rooms 5"
		}
		if status, answer := c.Reload(with(extra)); status != 200 {
			t.Fatalf("reload: %d %s", status, answer)
		}
		ann.Send(`{"type":"publish","id":1,"room":"lobby"}`)
		ann.Next("ack")
		bob.Next("message")
	}

	// A new rule binds open sockets.
	if status, answer := c.Reload(with("room * {\n publish none\n }")); status != 200 {
		t.Fatalf("reload: %d %s", status, answer)
	}
	ann.Send(`{"type":"publish","id":1,"room":"lobby"}`)
	ann.Refused("forbidden")

	// A configuration that is refused changes nothing.
	for name, text := range map[string]string{
		"syntax":         with("nonsense"),
		"contradiction":  strings.Replace(with("redis redis://127.0.0.1:1"), "rooms /ws", "rooms /other\n\trooms /ws", 1),
		"another module": with("") + "\nhttps://localhost:1 {\n\ttls /not/there.crt /not/there.key\n}\n",
	} {
		if status, answer := c.Reload(text); status == 200 {
			t.Errorf("%s: a bad configuration was loaded: %s", name, answer)
		} else if name == "contradiction" && !strings.Contains(answer, "not the same redis") {
			t.Errorf("%s: %s", name, answer)
		}
	}
	ann.Send(`{"type":"publish","id":1,"room":"lobby"}`)
	ann.Refused("forbidden")

	// Without the directive the hub goes, and says so.
	if status, answer := c.Reload("{\n\tadmin " + c.Admin + "\n}\n:" + port + " {\n\trespond hello\n}"); status != 200 {
		t.Fatalf("reload: %d %s", status, answer)
	}
	for _, client := range []*roomstest.Client{ann, bob} {
		if bye := client.Next("bye"); bye["code"] != 4200.0 {
			t.Errorf("bye = %v", bye)
		}
	}
}

func TestCloseOnReload(t *testing.T) {
	text := strings.ReplaceAll(reloadConfig, "EXTRA", "close_on_reload")
	c := caddytest.StartText(t, text)
	_, port, _ := strings.Cut(c.Addr, ":")
	ann := dial(t, c, "ann")
	text = "{\n\tadmin " + c.Admin + "\n}\n" + strings.ReplaceAll(text, "{$PORT}", port) + "\n# changed"
	text = strings.Replace(text, "close_on_reload", "close_on_reload\n\t\tmax_rooms 7", 1)
	if status, answer := c.Reload(text); status != 200 {
		t.Fatalf("reload: %d %s", status, answer)
	}
	if bye := ann.Next("bye"); bye["code"] != 4200.0 {
		t.Errorf("bye = %v", bye)
	}
}

func TestStopSaysWhenToComeBack(t *testing.T) {
	redis := redistest.Start(t)
	c := caddytest.StartText(t, strings.ReplaceAll(reloadConfig, "EXTRA", "redis "+redis.URL()+"\n\t\tdrain 500ms"))
	c.WaitLog("redis connected")
	ann := dial(t, c, "ann")
	ann.Join("lobby")
	done := make(chan struct{})
	go func() { c.Stop(); close(done) }()
	if bye := ann.Next("bye"); bye["code"] != 4200.0 || bye["reconnect_in"] == nil {
		t.Errorf("bye = %v", bye)
	}
	if code := ann.Closed(); code != 4200 {
		t.Errorf("closed with %d", code)
	}
	<-done
}

func TestTwoHandlersShareAHub(t *testing.T) {
	c := caddytest.StartText(t, `:{$PORT} {
	rooms /a {
		user {http.request.uri.query.user}
	}
	rooms /b {
		anonymous
		room lobby {
			publish none
		}
	}
	rooms /c other {
		anonymous
	}
}`)
	ann, guest, stranger := roomstest.Dial(t, c.URL("/a?user=ann"), nil), roomstest.Dial(t, c.URL("/b"), nil), roomstest.Dial(t, c.URL("/c"), nil)
	ann.Join("lobby")
	if p := guest.Join("lobby"); p["count"] != 2.0 {
		t.Errorf("guest joined %v", p)
	}
	if p := stranger.Join("lobby"); p["count"] != 1.0 {
		t.Errorf("the other hub has %v", p)
	}
	ann.Next("presence")
	guest.Send(`{"type":"publish","id":1,"room":"lobby"}`)
	guest.Refused("forbidden")
	ann.Send(`{"type":"publish","id":1,"room":"lobby"}`)
	ann.Next("ack")
	guest.Next("message")
	stranger.Quiet()
}

// TestConfigurationRefusedAtTheEnd loads a configuration that Caddy refuses when everything in it has started already: by what fetches a
// configuration from elsewhere. It changes nothing either.
func TestConfigurationRefusedAtTheEnd(t *testing.T) {
	c := caddytest.StartText(t, strings.ReplaceAll(reloadConfig, "EXTRA", ""))
	ann := dial(t, c, "ann")
	ann.Join("lobby")
	var config roomstest.Object
	if err := json.Unmarshal([]byte(get(t, c, "/config/")), &config); err != nil {
		t.Fatal(err)
	}
	apps, _ := json.Marshal(config["apps"])
	load := func(more, handler string) (status int) {
		t.Helper()
		text := fmt.Sprintf(`{"admin":{"listen":%q%s},"apps":%s}`, c.Admin, more, strings.Replace(string(apps), `"handler":"rooms"`, `"handler":"rooms"`+handler, 1))
		resp, err := http.Post("http://"+c.Admin+"/load", "application/json", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	const closed = `,"rooms":[{"pattern":"elsewhere"}]`
	if status := load(`,"config":{"load":{"module":"nonsense"}}`, closed); status != http.StatusBadRequest {
		t.Fatalf("a configuration that can't be loaded gives %d", status)
	}
	ann.Quiet()
	ann.Send(`{"type":"publish","id":1,"room":"lobby"}`)
	ann.Next("ack")
	ann.Send(`{"type":"leave","id":2,"room":"lobby"}`)
	ann.Next("ack")
	ann.Join("lobby")
	// What is right is taken still.
	if status := load("", closed); status != http.StatusOK {
		t.Fatalf("reload: %d", status)
	}
	if left := ann.Next("left"); left["reason"] != "forbidden" {
		t.Errorf("got %v", left)
	}
}
