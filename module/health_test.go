package module

import (
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/hub"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

func TestReadiness(t *testing.T) {
	of := func(state hub.State, status string) shownHealth { return shownHealth{Status: status, state: state} }
	open, draining, starting := hub.StateOpen, hub.StateDraining, hub.StateStarting
	for name, test := range map[string]struct {
		hubs          []shownHealth
		exiting, live bool
		want          string
	}{
		"no hub":                         {live: true, want: "ready"},
		"before the first configuration": {want: "starting"},
		"a hub that starts":              {hubs: []shownHealth{of(starting, "starting")}, want: "starting"},
		"a hub":                          {hubs: []shownHealth{of(open, "ready")}, live: true, want: "ready"},
		"one of two is degraded":         {hubs: []shownHealth{of(open, "ready"), of(open, "degraded")}, live: true, want: "degraded"},
		"one of two looks for Redis":     {hubs: []shownHealth{of(open, "degraded"), of(open, "starting")}, live: true, want: "starting"},
		"a hub is added":                 {hubs: []shownHealth{of(open, "ready"), of(starting, "starting")}, live: true, want: "ready"},
		"a hub is removed":               {hubs: []shownHealth{of(draining, "draining"), of(open, "ready")}, live: true, want: "ready"},
		"the only hub is removed":        {hubs: []shownHealth{of(draining, "draining")}, live: true, want: "ready"},
		"the only hub is replaced":       {hubs: []shownHealth{of(draining, "draining"), of(starting, "starting")}, live: true, want: "starting"},
		"exit":                           {hubs: []shownHealth{of(open, "ready")}, exiting: true, live: true, want: "draining"},
		"exit, all hubs gone":            {exiting: true, want: "draining"},
	} {
		if got := readiness(test.hubs, test.exiting, test.live); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

// ready returns what the instance says of itself, and of its first hub.
func ready(t *testing.T, c *caddytest.Caddy, query string) (status int, answer, first roomstest.Object) {
	t.Helper()
	status, answer, _ = ask(t, c, http.MethodGet, "/rooms/health/ready"+query, "")
	if hubs := answer["hubs"].([]any); len(hubs) > 0 {
		first = hubs[0].(roomstest.Object)
	}
	return status, answer, first
}

// waitReady waits until the instance says that it is in a status, and checks what the HTTP status is then, also for who is strict.
func waitReady(t *testing.T, c *caddytest.Caddy, want string, code, strict int) (first roomstest.Object) {
	t.Helper()
	c.Wait("the instance to be "+want, func() bool {
		status, answer, hub := ready(t, c, "")
		first = hub
		if answer["status"] == want && status != code {
			t.Fatalf("%d with %v", status, answer)
		}
		return answer["status"] == want
	})
	if status, answer, _ := ready(t, c, "?strict"); status != strict || answer["status"] != want {
		t.Errorf("strict: %d with %v, want %d", status, answer, strict)
	}
	return first
}

func hasProblem(hub roomstest.Object, words string) bool {
	for _, p := range hub["problems"].([]any) {
		if strings.Contains(p.(string), words) {
			return true
		}
	}
	return false
}

func TestReadyInMemory(t *testing.T) {
	c := caddytest.StartText(t, adminConfig)
	dial(t, c, "ann").Join("lobby")
	status, answer, _ := ready(t, c, "?strict=true")
	if status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	same(t, "ready", answer, `{"status":"ready","hubs":[
		{"hub":"default","status":"ready","redis":"none","delivery":"within this process","connections":1,"problems":[]},
		{"hub":"health","status":"ready","redis":"none","delivery":"within this process","connections":0,"problems":[]}]}`)
	same(t, "live", look(t, c, "/rooms/health/live"), `{"status":"live"}`)
}

func TestReadyWithoutAHub(t *testing.T) {
	c := caddytest.StartText(t, ":{$PORT} {\n\trespond hello\n}")
	same(t, "ready", look(t, c, "/rooms/health/ready?strict"), `{"status":"ready","hubs":[]}`)
	same(t, "hubs", look(t, c, "/rooms/"), `{"hubs":[]}`)
}

// TestReadyWithoutRedis lets Redis die and come back, and be silent and speak again.
func TestReadyWithoutRedis(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	link := redistest.StartProxy(t, redis.Addr)
	c := caddytest.StartText(t, clusterConfig, "REDIS=redis://secretuser:secretpassword@"+link.Addr)
	// The server knows no such user.
	h := waitReady(t, c, "degraded", http.StatusOK, http.StatusServiceUnavailable)
	if h["redis"] != "out of reach, going on without it" || !hasProblem(h, link.URL()+" is out of reach (WRONGPASS") || hasProblem(h, "secret") {
		t.Errorf("without a login: %v", h)
	}
	if err := redis.Client().Do(t.Context(), "ACL", "SETUSER", "secretuser", "on", ">secretpassword", "+@all", "~*", "&*").Err(); err != nil {
		t.Fatal(err)
	}
	well := func() {
		t.Helper()
		same(t, "ready", waitReady(t, c, "ready", http.StatusOK, http.StatusOK), `{"hub":"default","status":"ready","redis":"connected",
			"delivery":"messages of all instances arrive","problems":[]}`, "connections")
	}
	alone := func(words string) {
		t.Helper()
		// The subscriptions may be lost before the rest is.
		c.Wait("Redis to be given up", func() bool { _, _, h := ready(t, c, ""); return h["redis"] == "out of reach, going on without it" })
		h := waitReady(t, c, "degraded", http.StatusOK, http.StatusServiceUnavailable)
		if h["status"] != "degraded" || h["delivery"] != "within this instance only" || !hasProblem(h, words) {
			t.Errorf("without Redis: %v", h)
		}
	}
	well()
	ann := dial(t, c, "ann")
	ann.Join("lobby")
	well()

	link.Cut()
	alone(link.URL() + " is out of reach")
	same(t, "user", look(t, c, "/rooms/default/users/ann"), `{"user":"ann","online":true,"source":"memory","status":"online","devices":[],"conns":1,
		"connections":[{"conn":"`+ann.Conn+`","rooms":["lobby"]}],"degraded":true}`, "since", "last_seen")
	same(t, "user who is not here", look(t, c, "/rooms/default/users/bob"), `{"user":"bob","online":false,"source":"memory","connections":[],"degraded":true}`)
	same(t, "room", look(t, c, "/rooms/default/rooms/lobby"), `{"room":"lobby","count":1,"connections":1,
		"members":[{"user":"ann","status":"online","state":{},"conns":1}],"next":null,"degraded":true}`, "since")
	same(t, "publish", post(t, c, "/rooms/default/publish", `{"room":"lobby","data":1}`), `{"room":"lobby","degraded":true}`)
	link.Restore()
	well()

	link.Freeze()
	alone(link.URL() + " is out of reach")
	link.Thaw()
	well()
}

// TestReadyWithoutSubscriptions has a Redis that may be written to but not listened to.
func TestReadyWithoutSubscriptions(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	admin := redis.Client()
	if err := admin.Do(t.Context(), "ACL", "SETUSER", "limited", "on", ">secret", "+@all", "-subscribe", "~*", "&*").Err(); err != nil {
		t.Fatal(err)
	}
	c := caddytest.StartText(t, clusterConfig, "REDIS=redis://limited:secret@"+redis.Addr)
	c.WaitLog("redis refuses subscriptions")
	h := waitReady(t, c, "degraded", http.StatusOK, http.StatusServiceUnavailable)
	if h["redis"] != "connected" || h["delivery"] != "messages of other instances may not arrive" || !hasProblem(h, "NOPERM") ||
		!hasProblem(h, "channels that begin with rooms:{default}") {
		t.Errorf("without subscriptions: %v", h)
	}
	same(t, "a room of which nothing is heard", look(t, c, "/rooms/default/rooms/lobby"),
		`{"room":"lobby","count":0,"connections":0,"members":[],"next":null,"degraded":true}`)
	if err := admin.Do(t.Context(), "ACL", "SETUSER", "limited", "+subscribe").Err(); err != nil {
		t.Fatal(err)
	}
	waitReady(t, c, "ready", http.StatusOK, http.StatusOK)
}

func TestReadyAtExit(t *testing.T) {
	c := caddytest.StartText(t, "{\n\tshutdown_delay 3s\n}\n"+adminConfig)
	l := tail(t, c, "lobby")
	c.Signal(syscall.SIGTERM)
	waitReady(t, c, "draining", http.StatusServiceUnavailable, http.StatusServiceUnavailable)
	c.Wait("the hub to drain, too", func() bool { _, _, h := ready(t, c, ""); return h["status"] == "draining" })
	same(t, "live", look(t, c, "/rooms/health/live"), `{"status":"live"}`)
	if line, err := l.lines.ReadBytes('\n'); err == nil {
		t.Errorf("a tail at exit says %q", line)
	}
	if status, answer, _ := ask(t, c, http.MethodGet, "/rooms/default/tail/lobby", ""); status != http.StatusServiceUnavailable {
		t.Errorf("a tail at exit: %d %v", status, answer)
	}
	c.Stop()
}

// TestReadyAroundReloads removes hubs by a reload, and gives one another Redis. A client that does not answer keeps the old one for a while.
func TestReadyAroundReloads(t *testing.T) {
	redis := redistest.Start(t)
	text := func(c *caddytest.Caddy, handlers string) string {
		_, port, _ := strings.Cut(c.Addr, ":")
		return "{\n\tadmin " + c.Admin + "\n}\n:" + port + " {\n" + handlers + "\n\trespond hello\n}"
	}
	reload := func(c *caddytest.Caddy, handlers string) {
		t.Helper()
		if status, answer := c.Reload(text(c, handlers)); status != http.StatusOK {
			t.Fatalf("reload: %d %s", status, answer)
		}
	}
	const chat, news = "rooms /ws chat {\n anonymous\n drain 3s\n}\n", "rooms /news news {\n anonymous\n drain 3s\n}\n"
	c := caddytest.StartText(t, ":{$PORT} {\n"+chat+news+"}")
	roomstest.Dial(t, c.URL("/ws"), nil).Join("lobby")
	roomstest.Dial(t, c.URL("/news"), nil).Join("lobby")

	// Of two hubs one goes on.
	reload(c, chat)
	if status, answer, _ := ready(t, c, ""); status != http.StatusOK || answer["status"] != "ready" {
		t.Errorf("with a hub that goes on: %d %v", status, answer)
	}
	same(t, "hubs", look(t, c, "/rooms/"), `{"hubs":[{"hub":"chat","state":"open"},{"hub":"news","state":"draining"}]}`,
		"node", "connections", "rooms", "members")

	// Of two of one name, the new one is asked.
	reload(c, strings.Replace(chat, "drain 3s", "drain 3s\n redis "+redis.URL(), 1))
	two := look(t, c, "/rooms/")["hubs"].([]any)
	same(t, "hubs", two[:2], `[{"hub":"chat","redis":"`+redis.URL()+`","state":"open"},{"hub":"chat","state":"draining"}]`, "node", "connections", "rooms", "members")
	same(t, "rooms", look(t, c, "/rooms/chat/rooms"), `{"rooms":[],"next":null}`)
	guest := roomstest.Dial(t, c.URL("/ws"), nil)
	guest.Join("lobby")
	c.Wait("the hub to be ready", func() bool { status, _, _ := ready(t, c, "?strict"); return status == http.StatusOK })

	// None goes on.
	reload(c, "")
	if status, answer, first := ready(t, c, ""); status != http.StatusOK || answer["status"] != "ready" || first["status"] != "draining" {
		t.Errorf("with a hub that was removed: %d %v", status, answer)
	}
	c.Wait("the hubs to be gone", func() bool { return len(look(t, c, "/rooms/")["hubs"].([]any)) == 0 })
	same(t, "ready", look(t, c, "/rooms/health/ready"), `{"status":"ready","hubs":[]}`)
}
