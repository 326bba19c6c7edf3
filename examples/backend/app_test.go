package backend_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/freeport"
)

// TestApplicationIsSmall holds the application to what the example says of it.
func TestApplicationIsSmall(t *testing.T) {
	source, err := os.ReadFile("app.py")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(source, []byte("\n")); n >= 100 {
		t.Errorf("app.py has %d lines, want fewer than 100", n)
	}
	needPython(t)
	out, err := exec.Command("python3", "-c", `
import ast, sys
for node in ast.walk(ast.parse(open("app.py").read())):
    names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) else []
    print(*[name for name in names if name.split(".")[0] not in sys.stdlib_module_names], end="")
`).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("app.py imports what is not of the standard library: %s (%v)", out, err)
	}
}

func TestApplicationRefuses(t *testing.T) {
	a := startApplication(t, "127.0.0.1:1")
	field, body := a.signIn(t)
	cookie, attributes, _ := strings.Cut(field, ";")
	if attributes != " Path=/; HttpOnly; SameSite=Strict" || strings.Contains(body, "session") {
		t.Fatalf("signing in answers with Set-Cookie %q and %s", field, body)
	}
	session := func(expires time.Time) string {
		text := fmt.Sprintf("ann.%d", expires.Unix())
		mac := hmac.New(sha256.New, []byte(sessionSecret))
		mac.Write([]byte(text))
		return "backend_session=" + text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	const kind = "application/json"
	for name, c := range map[string]struct {
		method, path, kind, cookie, body string
		status                           int
		detail                           string
	}{
		"a token":              {"GET", "/token", "", cookie, "", 200, ""},
		"a token among others": {"GET", "/token", "", `theme="a; b"; ` + cookie + "; lang=en", "", 200, ""},
		"a token for nobody":   {"GET", "/token", "", "", "", 401, "Sign in first."},
		"another name":         {"GET", "/token", "", strings.Replace(cookie, "ann", "bob", 1), "", 401, "Sign in first."},
		"a longer session":     {"GET", "/token", "", strings.Replace(cookie, ".", ".9", 1), "", 401, "Sign in first."},
		"a session in time":    {"GET", "/token", "", session(time.Now().Add(time.Hour)), "", 200, ""},
		"a session that ended": {"GET", "/token", "", session(time.Now().Add(-time.Minute)), "", 401, "Sign in first."},
		"no signature":         {"GET", "/token", "", cookie[:strings.LastIndex(cookie, ".")+1], "", 401, "Sign in first."},
		"a name for markup":    {"POST", "/sign-in", kind, "", `{"name":"<b>"}`, 400, "A name is 1 to 20 lower case letters and digits."},
		"a form of elsewhere":  {"POST", "/say", "text/plain", cookie, `{"id":"12345678","text":"hi"}`, 415, "Send JSON."},
		"a body that is cut":   {"POST", "/say", kind, cookie, `{"id":`, 400, "Send a JSON object."},
		"a body of a list":     {"POST", "/say", kind, cookie, `[1]`, 400, "Send a JSON object."},
		"a body of nothing":    {"POST", "/say", kind, cookie, `null`, 400, "Send a JSON object."},
		"a message of nobody":  {"POST", "/say", kind, "", `{"id":"12345678","text":"hi"}`, 401, "Sign in first."},
		"a message of nothing": {"POST", "/say", kind, cookie, `{"id":"12345678","text":""}`, 400, "A message has a text of 1 to 2000 characters and an id."},
		"a message without id": {"POST", "/say", kind, cookie, `{"text":"hi"}`, 400, "A message has a text of 1 to 2000 characters and an id."},
		"its source":           {"GET", "/app.py", "", cookie, "", 404, "Nothing is here."},
	} {
		t.Run(name, func(t *testing.T) {
			status, detail := a.ask(t, c.method, c.path, c.kind, c.cookie, c.body)
			if status != c.status || detail != c.detail {
				t.Errorf("answered with %d and %q, want %d and %q", status, detail, c.status, c.detail)
			}
		})
	}
}

func TestApplicationMintsTokens(t *testing.T) {
	a := startApplication(t, "127.0.0.1:1")
	field, _ := a.signIn(t)
	cookie, _, _ := strings.Cut(field, ";")
	r, err := http.NewRequest("GET", "http://"+a.addr+"/token", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Cookie", cookie)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Token     string
		ExpiresIn int64 `json:"expires_in"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	parsed, err := jwt.ParseSigned(answer.Token, []jose.SignatureAlgorithm{jose.HS256})
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := parsed.Claims([]byte(tokenSecret), &claims); err != nil {
		t.Fatal(err)
	}
	expires, _ := claims["exp"].(float64)
	if left := time.Until(time.Unix(int64(expires), 0)); answer.ExpiresIn != 300 || left < time.Minute || left > 5*time.Minute {
		t.Errorf("the token expires in %s, said to be %d s, want 300 s", left, answer.ExpiresIn)
	}
	delete(claims, "exp")
	if got := fmt.Sprint(claims); got != "map[rooms:map[lobby:[join presence]] sub:ann]" {
		t.Errorf("the token has %s", got)
	}
}

// TestApplicationAsksTheNextInstance puts servers in the place of the instances' APIs.
func TestApplicationAsksTheNextInstance(t *testing.T) {
	refuses := func(status int) string {
		return fmt.Sprintf(`{"status":%d,"detail":"this is %d"}`, status, status)
	}
	for name, c := range map[string]struct {
		first, second int // status of the answers; 0: no answer, 1: one that is broken
		status        int
		detail        string
		asked         int // how many instances are
	}{
		"the first":             {200, 200, 200, "", 1},
		"the first is away":     {0, 200, 200, "", 2},
		"the first breaks":      {1, 200, 200, "", 2},
		"the first can't":       {503, 200, 200, "", 2},
		"none can":              {503, 503, 503, "this is 503", 2},
		"too much":              {429, 200, 429, "this is 429", 1},
		"not there":             {404, 200, 404, "this is 404", 1},
		"with the wrong secret": {401, 200, 502, "this is 401", 1},
	} {
		t.Run(name, func(t *testing.T) {
			var addresses []string
			asked := make(chan string, 4) // the key and the body of each request
			for _, status := range []int{c.first, c.second} {
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					asked <- r.Header.Get("Idempotency-Key") + string(body)
					if r.Method+r.URL.Path != "POST/rooms/lobby/messages" || r.Header.Get("Authorization") != "Bearer "+apiSecret {
						t.Errorf("asked for %s %s with Authorization %q", r.Method, r.URL, r.Header.Get("Authorization"))
					}
					switch status {
					case 0:
						panic(http.ErrAbortHandler)
					case 1:
						io.WriteString(w, `{"room":"lob`)
					case 200:
						io.WriteString(w, `{"room":"lobby"}`)
					default:
						w.WriteHeader(status)
						io.WriteString(w, refuses(status))
					}
				}))
				t.Cleanup(server.Close)
				addresses = append(addresses, server.Listener.Addr().String())
			}
			a := startApplication(t, addresses...)
			field, _ := a.signIn(t)
			cookie, _, _ := strings.Cut(field, ";")
			status, detail := a.ask(t, "POST", "/say", "application/json", cookie, `{"id":"12345678","text":"hi","conn":"abc"}`)
			if status != c.status || detail != c.detail || len(asked) != c.asked {
				t.Fatalf("answered with %d and %q after asking %d, want %d and %q after %d", status, detail, len(asked), c.status, c.detail, c.asked)
			}
			first := <-asked
			if !strings.HasPrefix(first, "ann-12345678{") || !strings.Contains(first, `"exclude_conn": "abc"`) {
				t.Errorf("asked for %s", first)
			}
			if c.asked > 1 {
				if second := <-asked; second != first {
					t.Errorf("asked the first for %s, the second for %s", first, second)
				}
			}
		})
	}
	a := startApplication(t, freeport.Addr(t))
	field, _ := a.signIn(t)
	cookie, _, _ := strings.Cut(field, ";")
	if status, detail := a.ask(t, "GET", "/online", "", cookie, ""); status != 503 || !strings.HasPrefix(detail, "no answer from the rooms: ") {
		t.Errorf("answered with %d and %q while no instance is there", status, detail)
	}
}

// TestApplicationNeedsNoConnection is for those who say something without a page.
func TestApplicationNeedsNoConnection(t *testing.T) {
	asked := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked <- string(body)
		io.WriteString(w, `{"room":"lobby"}`)
	}))
	defer server.Close()
	a := startApplication(t, server.Listener.Addr().String())
	field, _ := a.signIn(t)
	cookie, _, _ := strings.Cut(field, ";")
	if status, detail := a.ask(t, "POST", "/say", "application/json", cookie, `{"id":"12345678","text":"hi"}`); status != 200 {
		t.Fatalf("answered with %d and %q", status, detail)
	}
	if body := <-asked; strings.Contains(body, "exclude_conn") {
		t.Errorf("asked for %s", body)
	}
}

// application is app.py in a process of its own, without a Caddy in front of it.
type application struct{ addr string }

// startApplication runs app.py until the test ends.
func startApplication(t *testing.T, apis ...string) *application {
	t.Helper()
	needPython(t)
	a := &application{addr: freeport.Addr(t)}
	var log bytes.Buffer
	cmd := exec.Command("python3", "app.py")
	cmd.Stderr = &log
	cmd.Env = append(os.Environ(), "APP_PORT="+port(a.addr), "API_ADDRESSES="+strings.Join(apis, " "), "API_SECRET="+apiSecret, "TOKEN_SECRET="+tokenSecret,
		"SESSION_SECRET="+sessionSecret)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // an error means that it has ended already
		_ = cmd.Wait()         // killed on purpose
		if t.Failed() || strings.Contains(log.String(), "Traceback") {
			t.Errorf("the log of app.py:\n%s", log.String())
		}
	})
	for deadline := time.Now().Add(caddytest.Patience); ; <-time.After(10 * time.Millisecond) {
		if conn, err := net.Dial("tcp", a.addr); err == nil {
			conn.Close()
			return a
		} else if time.Now().After(deadline) {
			t.Fatalf("app.py does not listen: %v", err)
		}
	}
}

// ask returns the status, and what is wrong.
func (a *application) ask(t *testing.T, method, path, kind, cookie, body string) (status int, detail string) {
	t.Helper()
	r, err := http.NewRequest(method, "http://"+a.addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", kind)
	r.Header.Set("Cookie", cookie)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Detail string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, answer.Detail
}

// signIn returns the Set-Cookie field for ann.
func (a *application) signIn(t *testing.T) (field, body string) {
	t.Helper()
	resp, err := http.Post("http://"+a.addr+"/sign-in", "application/json", strings.NewReader(`{"name":"ann"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 200 {
		t.Fatalf("signing in answers %d: %s", resp.StatusCode, b)
	}
	return resp.Header.Get("Set-Cookie"), string(b)
}

// needPython skips the test without Python; in CI (the environment variable CI is set) it fails.
func needPython(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("python3"); errors.Is(err, exec.ErrNotFound) {
		const advice = "python3 is not installed: on Debian or Ubuntu, apt-get install python3"
		if os.Getenv("CI") != "" {
			t.Fatal(advice)
		}
		t.Skip(advice)
	}
}
