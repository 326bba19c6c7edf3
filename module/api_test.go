package module

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

const (
	apiSecret    = "0123456789abcdef-new"
	oldAPISecret = "0123456789abcdef-old"
)

// apiConfig is a hub with an API. Users are named by the query.
const apiConfig = `:{$PORT} {
	log
	rooms /ws {
		redis {env.REDIS}
		user {http.request.uri.query.user}
		device {http.request.uri.query.device}
		max_frame 1KiB
	}
	rooms_api /api/* {
		secret {env.NEW_SECRET} {env.OLD_SECRET}
	}
}`

// memoryAPIConfig is the same without Redis.
var memoryAPIConfig = strings.Replace(apiConfig, "\t\tredis {env.REDIS}\n", "", 1)

// backend is a client of the API on one instance. What it asks and gets is held to the OpenAPI document.
type backend struct {
	t        *testing.T
	c        *caddytest.Caddy
	base     string
	header   http.Header
	contract *contract
}

// answer is what a backend gets.
type answer struct {
	status int
	header http.Header
	body   roomstest.Object
	raw    []byte
}

func startAPI(t *testing.T, config string, env ...string) *caddytest.Caddy {
	t.Helper()
	return caddytest.StartText(t, config, append(env, "NEW_SECRET="+apiSecret, "OLD_SECRET="+oldAPISecret)...)
}

// startTwoAPIs is startTwo with an API on each instance.
func startTwoAPIs(t *testing.T, config string) (a, b *caddytest.Caddy, redis *redistest.Server) {
	t.Helper()
	redis = redistest.Start(t)
	a, b = startAPI(t, config, "REDIS="+redis.URL()), startAPI(t, config, "REDIS="+redis.URL())
	a.WaitLog("redis connected")
	b.WaitLog("redis connected")
	return a, b, redis
}

// newBackend returns a client with the secret.
func newBackend(t *testing.T, c *caddytest.Caddy) *backend {
	t.Helper()
	b := &backend{t: t, c: c, base: "/api", header: http.Header{"Authorization": {"Bearer " + apiSecret}}}
	b.contract = newContract(t, b.base, b.send("GET", "/openapi.json", "").raw)
	return b
}

// with returns a client whose requests have other header fields too, or instead. Without a value they have none of it.
func (b *backend) with(field string, values ...string) *backend {
	other := *b
	other.header = b.header.Clone()
	other.header[field] = values
	return &other
}

// send sends a request as it is.
func (b *backend) send(method, path, body string) answer {
	b.t.Helper()
	return b.exchange(method, path, body, true)
}

// exchange sends a request and holds it to the document, unless it is meant to be bad, and the answer in any case.
func (b *backend) exchange(method, path, body string, bad bool) answer {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, "http://"+b.c.Addr+b.base+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	maps.Copy(req.Header, b.header)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	if a.raw, err = io.ReadAll(resp.Body); err != nil {
		b.t.Fatal(err)
	}
	if len(a.raw) == 0 {
		return a // to a HEAD, or from somebody else
	}
	if err := json.Unmarshal(a.raw, &a.body); err != nil {
		b.t.Fatalf("%s %s: %q: %v", method, path, a.raw, err)
	}
	if b.contract != nil && path != "/openapi.json" {
		b.contract.check(b.t, req, []byte(body), resp, a.raw, bad)
	}
	return a
}

// do sends a request that must succeed.
func (b *backend) do(method, path, body string) roomstest.Object {
	b.t.Helper()
	a := b.exchange(method, path, body, false)
	if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/json" {
		b.t.Fatalf("%s %s %s: %d %s", method, path, body, a.status, a.raw)
	}
	return a.body
}

// refused sends a request that must be refused with a status and a code.
func (b *backend) refused(method, path, body string, status int, code, words string) answer {
	b.t.Helper()
	a := b.send(method, path, body)
	what := method + " " + path + " " + body
	if a.status != status || a.header.Get("Content-Type") != "application/problem+json" {
		b.t.Errorf("%.200s: %d %s, want %d", what, a.status, a.raw, status)
		return a
	}
	detail, _ := a.body["detail"].(string)
	if a.body["status"] != float64(status) || a.body["code"] != code || a.body["type"] != problemTypes+code ||
		a.body["title"] != http.StatusText(status) || !strings.Contains(detail, words) {
		b.t.Errorf("%.200s: %s, want %s with %s", what, a.raw, code, words)
	}
	return a
}

func TestAPIAuthorization(t *testing.T) {
	c := startAPI(t, memoryAPIConfig)
	b := newBackend(t, c)
	for _, test := range []struct {
		name   string
		fields []string
		ok     bool
	}{
		{"the secret", []string{"Bearer " + apiSecret}, true},
		{"the old secret", []string{"Bearer " + oldAPISecret}, true},
		{"another case of the scheme", []string{"bearer " + apiSecret}, true},
		{"two spaces", []string{"Bearer  " + apiSecret}, true},
		{"none", nil, false},
		{"empty", []string{""}, false},
		{"no secret", []string{"Bearer"}, false},
		{"an empty secret", []string{"Bearer "}, false},
		{"a wrong secret", []string{"Bearer " + strings.Replace(apiSecret, "0", "1", 1)}, false},
		{"the beginning", []string{"Bearer " + apiSecret[:16]}, false},
		{"more than it", []string{"Bearer " + apiSecret + "x"}, false},
		{"both", []string{"Bearer " + apiSecret + " " + oldAPISecret}, false},
		{"another scheme", []string{"Basic " + apiSecret}, false},
		{"no scheme", []string{apiSecret}, false},
		{"two fields", []string{"Bearer " + apiSecret, "Bearer " + apiSecret}, false},
		{"long", []string{"Bearer " + strings.Repeat("x", 10_000)}, false},
	} {
		with := b.with("Authorization", test.fields...)
		if test.ok {
			with.do("GET", "/health", "")
			continue
		}
		for _, path := range []string{"/health", "/openapi.json", "/nothing", "/"} {
			a := with.refused("GET", path, "", 401, "unauthorized", "no valid secret")
			if a.header.Get("WWW-Authenticate") != "Bearer" {
				t.Errorf("%s: WWW-Authenticate is %q", test.name, a.header.Get("WWW-Authenticate"))
			}
		}
	}
	config, err := http.Get("http://" + c.Admin + "/config/")
	if err != nil {
		t.Fatal(err)
	}
	defer config.Body.Close()
	shown, err := io.ReadAll(config.Body)
	if err != nil || !bytes.Contains(shown, []byte("{env.NEW_SECRET}")) {
		t.Fatalf("%s: %v", shown, err)
	}
	for _, text := range []string{string(shown), c.Log()} {
		if strings.Contains(text, apiSecret) || strings.Contains(text, oldAPISecret) {
			t.Errorf("a secret is in %s", text)
		}
	}
}

func TestAPIConfigRefused(t *testing.T) {
	c := startAPI(t, memoryAPIConfig)
	b := newBackend(t, c)
	empty, short := filepath.Join(t.TempDir(), "empty"), filepath.Join(t.TempDir(), "short")
	for file, text := range map[string]string{empty: " \n", short: "fifteen bytes!!\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const rooms = "rooms /ws {\n anonymous\n}\nrooms /chess chess {\n anonymous\n}\n"
	for _, test := range []struct{ directives, words string }{
		{rooms + "rooms_api /api/* games {\n unprotected\n}", `rooms_api names the hub \"games\", and no rooms handler of the configuration has it (there are: chess, default)`},
		{"rooms_api /api/* {\n unprotected\n}", `the hub \"default\", and no rooms handler of the configuration has it (there are: none)`},
		{rooms + "rooms_api /api/* {\n secret {env.NOT_THERE}\n}", "secret: "},
		{rooms + "rooms_api /api/* {\n secret {file." + empty + "}\n}", "a secret is too short (allowed: 16 bytes or more)"},
		{rooms + "rooms_api /api/* {\n secret {env.NEW_SECRET} {file." + short + "}\n}", "a secret is too short"},
		{rooms + "rooms_api /api/*", "neither secret nor unprotected is there"},
		{rooms + "rooms_api /api/* {\n secret {env.NEW_SECRET}\n unprotected\n}", "both secret and unprotected"},
	} {
		status, words := c.Reload(":{$PORT} {\n" + test.directives + "\n}")
		if status == http.StatusOK || !strings.Contains(words, test.words) {
			t.Errorf("%s: %d %s, want %s", test.directives, status, words, test.words)
		}
		b.do("GET", "/health", "") // the configuration before goes on
	}
}

func TestAPIRoutes(t *testing.T) {
	b := newBackend(t, startAPI(t, memoryAPIConfig))
	for _, test := range []struct {
		request string
		status  int
		code    string
		words   string
		allow   string
	}{
		{"GET /", 404, "not_found", `nothing is at "/api/" (the API begins at /api/, and is described at /api/openapi.json; a slash in a name is %2F)`, ""},
		{"GET /nothing", 404, "not_found", "nothing is at", ""},
		{"GET /health/", 404, "not_found", "nothing is at", ""},
		{"GET //health", 404, "not_found", "nothing is at", ""},
		{"GET /HEALTH", 404, "not_found", "nothing is at", ""},
		{"POST /health", 405, "bad_request", "method POST is not allowed here (allowed: GET, HEAD)", "GET, HEAD"},
		{"OPTIONS /health", 405, "bad_request", "not allowed", "GET, HEAD"},
		{"QUERY /openapi.json", 405, "bad_request", "not allowed", "GET, HEAD"},
		{"GET /health?x=1", 400, "bad_request", `unknown parameter "x" (allowed: strict)`, ""},
		{"GET /health?strict=no", 400, "bad_request", `bad strict "no"`, ""},
		{"GET /openapi.json?x", 400, "bad_request", `unknown parameter "x" (allowed: none)`, ""},
	} {
		method, path, _ := strings.Cut(test.request, " ")
		if a := b.refused(method, path, "", test.status, test.code, test.words); a.header.Get("Allow") != test.allow {
			t.Errorf("%s: Allow is %q", test.request, a.header.Get("Allow"))
		}
	}
	for _, path := range []string{"/health", "/openapi.json", "/%68ealth"} {
		a := b.send("HEAD", path, "")
		if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/json" || len(a.raw) > 0 {
			t.Errorf("HEAD %s: %d %v %s", path, a.status, a.header, a.raw)
		}
	}
	same(t, "health", b.do("GET", "/health?strict", ""), `{"hub":"default","status":"ready","redis":"none","delivery":"within this process","connections":0,"problems":[]}`)

	cross := b.with("Sec-Fetch-Site", "cross-site")
	cross.refused("POST", "/health", "", 403, "forbidden", "cross-origin")
	b.with("Origin", "https://elsewhere.example").refused("POST", "/health", "", 403, "forbidden", "cross-origin")
	b.with("Sec-Fetch-Site", "same-origin").refused("POST", "/health", "", 405, "bad_request", "")
	cross.do("GET", "/health", "") // its page can't read it
}

// TestAPIMounted has the API where it can be put, and the document say so.
func TestAPIMounted(t *testing.T) {
	for _, test := range []struct{ directive, base, server string }{
		{"rooms_api /v1/* {\n unprotected\n}", "/v1", "/v1"},
		{"rooms_api {\n unprotected\n}", "", "/"},
		{"rooms_api /* {\n unprotected\n}", "", "/"},
		{"handle_path /x/y/* {\n rooms_api {\n unprotected\n }\n}", "/x/y", "/x/y"},
		{"handle_path /x/* {\n rooms_api /y/* {\n unprotected\n }\n}", "/x/y", "/x/y"},
	} {
		c := startAPI(t, ":{$PORT} {\n rooms /ws {\n anonymous\n }\n"+test.directive+"\n}")
		b := &backend{t: t, c: c, base: test.base}
		document := b.send("GET", "/openapi.json", "")
		same(t, test.directive, document.body["servers"], `[{"url":"`+test.server+`"}]`)
		b.contract = newContract(t, test.base, document.raw)
		b.do("GET", "/health", "")
		roomstest.Dial(t, c.URL("/ws"), nil)
	}
}
