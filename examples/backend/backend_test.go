// Package backend_test runs the backend example as people do, with its own command, and uses it as two people would: each in a browser,
// on an instance of their own.
package backend_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/caddyrooms/caddy-rooms/internal/browsertest"
	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/freeport"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
	"github.com/caddyrooms/caddy-rooms/internal/token"
)

func TestMain(m *testing.M) { caddytest.Main(m) }

const (
	tokenSecret   = "the secret of the tokens in this test"
	apiSecret     = "the secret of the API in this test"
	sessionSecret = "the secret of the sessions in this test"
)

func TestBackend(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a Caddy and starts a browser")
	}
	example := start(t, "GRACE=1s", "TTL=5s", "TOKEN_SECONDS=10")
	browser := browsertest.Start(t)

	ann := open(t, browser, example.urls[0], "ann")
	bob := open(t, browser, example.urls[1], "bob")
	ann.Sees(t, here("ann", "bob"))
	bob.Sees(t, here("ann", "bob"))

	// What one says the other hears. Who says it has it on the page already, and does not hear it.
	ann.say(t, "hello <b>bob</b>")
	bob.Sees(t, shows("ann", "hello <b>bob</b>", 1))
	bob.say(t, "hello ann")
	ann.Sees(t, shows("bob", "hello ann", 1))
	bob.Sees(t, sent("hello ann"))
	ann.Sees(t, sent("hello <b>bob</b>"))
	ann.hasHeard(t, "hello ann")
	bob.hasHeard(t, "hello <b>bob</b>")

	// What is said again, because an answer got lost, is said once.
	for range 2 {
		ann.Run(t, `ask("/say", { id: "an-id-of-ann", text: "once", conn: me.conn })`)
	}
	ann.say(t, "twice")
	bob.Sees(t, shows("ann", "twice", 1))
	bob.hasHeard(t, "hello <b>bob</b>", "once", "twice")

	// Who comes later reads it, in the order in which it was said.
	cid := open(t, browser, example.urls[1], "cid")
	cid.Sees(t, fmt.Sprintf(`[...document.querySelectorAll("#messages .text")].map((e) => e.textContent).join("|") === %q`, "hello <b>bob</b>|hello ann|once|twice"))

	// Who signs out is sent away everywhere, and may come back where he has signed in by himself.
	phone := open(t, browser, example.urls[0], "cid")
	cid.signOut(t)
	phone.Sees(t, `document.querySelector("#state").dataset.state === "closed"`)
	ann.Sees(t, here("ann", "bob"))

	// What was said meanwhile comes before what is said since, however late it is read.
	bob.say(t, "missed")
	bob.Sees(t, sent("missed"))
	phone.Run(t, `{
		const real = window.fetch, released = new Promise((resolve) => { window.release = resolve; });
		window.fetch = async (path, options) => {
			if (path === "/messages") await released;
			return real(path, options);
		};
	}`)
	phone.Do(t, "connecting again", chromedp.Click(chromedp.CSS("#reconnect")))
	phone.Sees(t, ready)
	ann.say(t, "live")
	phone.Sees(t, shows("ann", "live", 1))
	phone.Run(t, `release()`)
	phone.Sees(t, `[...document.querySelectorAll("#messages .text")].slice(-2).map((e) => e.textContent).join("|") === "missed|live"`)
	phone.signOut(t)
	ann.Sees(t, here("ann", "bob"))

	// The page may listen, and no more.
	ann.Run(t, `socket.send(JSON.stringify({ type: "publish", id: "by-itself", room: "lobby", data: { text: "behind the back" } }))`)
	ann.Sees(t, `heard.some((frame) => frame.id === "by-itself" && frame.type === "error" && frame.code === "forbidden")`)
	ann.Run(t, `socket.send(JSON.stringify({ type: "join", id: "elsewhere", room: "cellar" }))`)
	ann.Sees(t, `heard.some((frame) => frame.id === "elsewhere" && frame.type === "error" && frame.code === "forbidden")`)

	// The application knows who is where.
	for _, p := range []*page{ann, bob} {
		p.asksOnline(t, fmt.Sprintf(`where() === "ann@%s bob@%s"`, ann.node(t), bob.node(t)))
	}

	// A connection outlives its token.
	ann.Run(t, `window.first = { socket, expires }`)
	ann.Sees(t, `first.socket === socket && socket.readyState === WebSocket.OPEN && expires > first.expires`)

	refusedTokens(t, open(t, browser, example.urls[1], "eve"))
	crowd(t, bob, ann)

	// An instance dies. The other one tells that its people are gone when its time is over, and the application asks the other one.
	node := bob.node(t)
	example.kill(t, 0)
	ann.Sees(t, `["waiting", "connecting"].includes(document.querySelector("#state").dataset.state) && document.querySelector("#send").disabled`)
	bob.Sees(t, here("bob", "eve"))
	bob.asksOnline(t, fmt.Sprintf(`where() === "bob@%[1]s eve@%[1]s"`, node))
	bob.say(t, "is anybody there?")
	bob.Sees(t, sent("is anybody there?"))

	// It is back, and so is its page, with what was said meanwhile.
	example.restart(t, 0)
	ann.Sees(t, ready+" && "+here("ann", "bob", "eve"))
	ann.Sees(t, shows("bob", "is anybody there?", 1))
	ann.say(t, "I am")
	bob.Sees(t, shows("ann", "I am", 1))
}

// refusedTokens connects with tokens of others' making.
func refusedTokens(t *testing.T, eve *page) {
	t.Helper()
	claims := map[string]any{"sub": "eve", "rooms": map[string]any{"lobby": []string{"join", "presence"}}}
	expired := map[string]any{"sub": "eve", "rooms": claims["rooms"], "exp": time.Now().Add(-time.Hour).Unix()}
	mint := func(secret string, claims map[string]any) string {
		raw, err := token.Mint([]byte(secret), claims, 0)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	for _, c := range []struct{ name, token, want string }{
		{"expired", mint(tokenSecret, expired), refused},
		{"signed with another secret", mint("a secret that somebody has made up", claims), refused},
		{"none", mint(tokenSecret, claims)[:20], refused},
		{"valid", mint(tokenSecret, claims), ready},
	} {
		t.Log("a token that is " + c.name)
		eve.Run(t, fmt.Sprintf(`{
			const real = window.real ??= window.fetch;
			window.fetch = async (path, options) => path === "/token" ? Response.json({ user: "eve", token: %q, expires_in: 300 }) : real(path, options);
			connect();
		}`, c.token))
		eve.Sees(t, c.want)
	}
}

// crowd says more in the room than it is allowed to hear: who says it is told so in the API's own words, and may try again.
func crowd(t *testing.T, bob, ann *page) {
	t.Helper()
	const many = 30
	bob.Run(t, fmt.Sprintf(`for (let i = 1; i <= %d; i++) say("crowd " + i)`, many))
	bob.Sees(t, `[...document.querySelectorAll('#messages [data-delivery="failed"] .note')].some((e) => e.textContent.includes('limit "crowd" of 20 per 10s reached'))`)
	bob.Sees(t, fmt.Sprintf(`(() => {
		document.querySelector('#messages [data-delivery="failed"] .note button')?.click();
		return [...document.querySelectorAll('#messages [data-delivery="sent"] .text')].filter((e) => e.textContent.startsWith("crowd ")).length === %d;
	})()`, many))
	for i := 1; i <= many; i++ {
		ann.Sees(t, shows("bob", "crowd "+strconv.Itoa(i), 1))
	}
}

func TestRunEnds(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a Caddy")
	}
	t.Run("with its instances", func(t *testing.T) {
		example := start(t)
		example.kill(t, 0)
		example.waitOutput(t, "instance "+example.port(0)+" has ended")
		example.kill(t, 1)
		example.ended(t, 1)
		example.waitOutput(t, "no instance is left")
	})
	t.Run("by a signal", func(t *testing.T) {
		example := start(t)
		if err := example.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		example.ended(t, 143)
		for i := range example.urls {
			if conn, err := net.Dial("tcp", "127.0.0.1:"+example.port(i)); err == nil {
				conn.Close()
				t.Errorf("instance %d still listens", i)
			}
		}
	})
	t.Run("when a port is in use", func(t *testing.T) {
		needPython(t)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		cmd := exec.Command("./run")
		cmd.Env = append(os.Environ(), "PORTS="+port, "REDIS_URL=redis://127.0.0.1:1", "CADDY=true")
		out, err := cmd.CombinedOutput()
		if want := "port " + port + " is in use: name others"; cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), want) {
			t.Errorf("ended with %v and %q, want 1 and %q", err, out, want)
		}
	})
}

func TestRunRefusesOnePortForTwo(t *testing.T) {
	needPython(t)
	first, second := port(freeport.Addr(t)), port(freeport.Addr(t))
	cmd := exec.Command("./run")
	cmd.Env = append(os.Environ(), "PORTS="+first+" "+second+" "+first, "REDIS_URL=redis://127.0.0.1:1", "CADDY=true")
	out, err := cmd.CombinedOutput()
	if want := "PORTS names " + first + " twice"; cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), want) {
		t.Errorf("ended with %v and %q, want 1 and %q", err, out, want)
	}
}

// TestRunNamesWhatIsMissing runs the command where some programs are not installed.
func TestRunNamesWhatIsMissing(t *testing.T) {
	for _, c := range []struct {
		there []string
		want  string
	}{
		{nil, "python3 is not there: on Debian or Ubuntu, apt-get install python3"},
		{[]string{"python3"}, "redis-server is not there: on Debian or Ubuntu, apt-get install redis-server"},
		{[]string{"python3", "redis-server"}, "go is not there: see https://go.dev/dl"},
	} {
		t.Run("with "+strings.Join(c.there, " and "), func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range append([]string{"bash", "dirname"}, c.there...) {
				path := "/bin/false" // for those that only have to be there
				if name == "bash" || name == "dirname" {
					var err error
					if path, err = exec.LookPath(name); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command("./run")
			cmd.Env = []string{"PATH=" + dir, "PORTS=" + port(freeport.Addr(t))}
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), c.want) {
				t.Errorf("ended with %v and %q, want 1 and %q", err, out, c.want)
			}
		})
	}
}

// Conditions of the page, in JavaScript.
const (
	ready   = `(document.querySelector("#state").dataset.state === "open" && !document.querySelector("#send").disabled)`
	refused = `(document.querySelector("#state").dataset.state === "closed" && document.querySelector("#state-text").textContent.includes("token"))`
)

// here is that exactly these are shown as members, in this order.
func here(users ...string) string {
	return fmt.Sprintf(`([...document.querySelectorAll("#members li")].map((e) => e.dataset.user).join(" ") === %q && document.querySelector("#count").textContent === "%d")`,
		strings.Join(users, " "), len(users))
}

func shows(user, text string, n int) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#messages li")].filter((e) => e.dataset.user === %q && e.querySelector(".text").textContent === %q).length === %d`, user, text, n)
}

func sent(text string) string {
	return fmt.Sprintf(`[...document.querySelectorAll('#messages [data-delivery="sent"] .text')].filter((e) => e.textContent === %q).length === 1`, text)
}

// page is one tab in which somebody has signed in.
type page struct{ *browsertest.Page }

// open signs somebody in, after a try with a name that is none, and keeps the frames that the page hears in heard.
func open(t *testing.T, browser context.Context, url, user string) *page {
	t.Helper()
	p := &page{browsertest.Open(t, browser, url, user)}
	p.Do(t, "signing in with a bad name",
		chromedp.SendKeys(chromedp.CSS("#name"), user+"!"),
		chromedp.Click(chromedp.CSS("#enter")))
	p.Sees(t, `document.querySelector("#sign-in-said").textContent.startsWith("A name is")`)
	p.Run(t, `{
		window.heard = [];
		const { set } = Object.getOwnPropertyDescriptor(WebSocket.prototype, "onmessage");
		Object.defineProperty(WebSocket.prototype, "onmessage", { set(handler) {
			set.call(this, (event) => { heard.push(JSON.parse(event.data)); handler(event); });
		} });
		document.querySelector("#name").value = "";
	}`)
	p.Do(t, "signing in",
		chromedp.SendKeys(chromedp.CSS("#name"), user),
		chromedp.Click(chromedp.CSS("#enter")))
	p.Sees(t, ready)
	return p
}

func (p *page) signOut(t *testing.T) {
	t.Helper()
	p.Do(t, "signing out", chromedp.Click(chromedp.CSS("#sign-out")))
	p.Sees(t, `document.querySelector("#state").dataset.state === "signed-out" && document.querySelector("#sign-in").open`)
}

// say types text and sends it, when that is possible.
func (p *page) say(t *testing.T, text string) {
	t.Helper()
	p.Sees(t, ready)
	p.Do(t, "saying "+text, chromedp.SendKeys(chromedp.CSS("#text"), text+"\r"))
}

// hasHeard tells whether exactly these messages have come over the WebSocket.
func (p *page) hasHeard(t *testing.T, want ...string) {
	t.Helper()
	if got := p.Reads(t, `heard.filter((frame) => frame.type === "message").map((frame) => frame.data.text)`); !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
}

// node returns the name of the instance that the page is connected to.
func (p *page) node(t *testing.T) string {
	t.Helper()
	return p.Reads(t, "[me.node]")[0]
}

// asksOnline asks the application who is where, until its answer is as wanted. In the condition, where() is like "ann@node bob@node".
func (p *page) asksOnline(t *testing.T, condition string) {
	t.Helper()
	p.Run(t, `window.where = () => [...document.querySelectorAll("#online li")].map((e) => e.dataset.user + "@" + e.dataset.nodes).join(" ")`)
	p.Sees(t, fmt.Sprintf(`(() => {
		document.querySelector("#ask-online:enabled")?.click();
		return %s;
	})()`, condition))
}

// example is the command of the example, with two instances of Caddy. It belongs to the test that started it, and ends with it.
type example struct {
	urls []string // of the instances
	pids []int
	env  []string
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended

	output caddytest.Output
}

var instance = regexp.MustCompile(`^(http://localhost:\d+)  \(process (\d+), admin localhost:\d+\)$`)

// start runs the command, and returns when it serves. env are further variables.
func start(t *testing.T, env ...string) *example {
	t.Helper()
	needPython(t)
	redis := redistest.Start(t)
	dir := t.TempDir()
	e := &example{cmd: exec.Command("./run"), done: make(chan struct{})}
	e.env = append(os.Environ(), "TMPDIR="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir, "GORACE=log_path="+dir+"/race",
		"CADDY="+caddytest.Binary(t), "REDIS_URL="+redis.URL(), "PORTS="+port(freeport.Addr(t))+" "+port(freeport.Addr(t)),
		"APP_PORT="+port(freeport.Addr(t)), "TOKEN_SECRET="+tokenSecret, "API_SECRET="+apiSecret)
	e.env = append(e.env, env...)
	e.cmd.Env = e.env
	stdout, err := e.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	e.cmd.Stderr = &e.output
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	serves := make(chan struct{})
	go func() {
		defer close(e.done)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			fmt.Fprintln(&e.output, lines.Text())
			if found := instance.FindStringSubmatch(lines.Text()); found != nil {
				pid, _ := strconv.Atoi(found[2]) // these are digits
				e.urls, e.pids = append(e.urls, found[1]), append(e.pids, pid)
			}
			if strings.HasPrefix(lines.Text(), "Ctrl+C") {
				close(serves)
			}
		}
		_ = e.cmd.Wait() // told by ended
	}()
	t.Cleanup(func() { e.stop(t, dir) })
	select {
	case <-serves:
	case <-e.done:
		t.Fatalf("the command ended:\n%s", e.output.String())
	case <-time.After(caddytest.Patience):
		t.Fatalf("the command does not serve:\n%s", e.output.String())
	}
	return e
}

// stop ends the command as Ctrl+C does, and shows the logs in dir if the test has failed.
func (e *example) stop(t *testing.T, dir string) {
	t.Helper()
	if t.Failed() {
		logs, _ := filepath.Glob(dir + "/tmp*/*")
		for _, path := range logs {
			if log, err := os.ReadFile(path); err == nil {
				t.Logf("%s:\n%s", filepath.Base(path), log)
			}
		}
	}
	_ = e.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended already
	select {
	case <-e.done:
	case <-time.After(caddytest.Patience):
		_ = e.cmd.Process.Kill()
		t.Error("the command does not end")
	}
	races, _ := filepath.Glob(dir + "/race*")
	for _, path := range races {
		report, err := os.ReadFile(path)
		t.Errorf("a data race: %s (%v)", report, err)
	}
	if left, _ := filepath.Glob(dir + "/tmp*"); len(left) > 0 {
		t.Errorf("the command leaves %q", left)
	}
}

func (e *example) port(i int) string {
	return e.urls[i][strings.LastIndex(e.urls[i], ":")+1:]
}

// kill ends an instance without letting it say goodbye.
func (e *example) kill(t *testing.T, i int) {
	t.Helper()
	if err := syscall.Kill(e.pids[i], syscall.SIGKILL); err != nil {
		t.Fatalf("killing instance %d: %v", i, err)
	}
}

// restart runs an instance again, by itself.
func (e *example) restart(t *testing.T, i int) {
	t.Helper()
	cmd := exec.Command(caddytest.Binary(t), "run", "--config", "Caddyfile")
	cmd.Env = append(e.env, "PORT="+e.port(i), "API_PORT="+port(freeport.Addr(t)), "ADMIN="+freeport.Addr(t))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // an error means that it has ended already
		_ = cmd.Wait()         // killed on purpose
	})
}

// ended waits until the command has ended, with an exit code.
func (e *example) ended(t *testing.T, code int) {
	t.Helper()
	select {
	case <-e.done:
	case <-time.After(caddytest.Patience):
		t.Fatalf("the command does not end:\n%s", e.output.String())
	}
	if got := e.cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("the command ended with %d, want %d:\n%s", got, code, e.output.String())
	}
}

// waitOutput waits until the command has said text.
func (e *example) waitOutput(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(caddytest.Patience); !strings.Contains(e.output.String(), text); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the command never says %q:\n%s", text, e.output.String())
		}
	}
}

func port(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }
