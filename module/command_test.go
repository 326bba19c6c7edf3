package module

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// fakeAPI is an admin endpoint that answers what a test lays down, by method and encoded path with query.
type fakeAPI struct {
	*httptest.Server
	answers map[string]string // a status other than 200 stands before the body, as "503 {…}"

	mu   sync.Mutex
	seen []string // method, path and body of each request
}

const (
	oneHub  = `{"hubs":[{"hub":"default","node":"nX3k","state":"open","connections":3,"rooms":2,"members":4}]}`
	twoHubs = `{"hubs":[{"hub":"chat","node":"nX3k","state":"open","connections":3,"rooms":2,"members":4},` +
		`{"hub":"default","node":"nY","state":"draining","connections":1,"rooms":0,"members":0}]}`
)

func startFakeAPI(t *testing.T, answers map[string]string) *fakeAPI {
	f := &fakeAPI{answers: answers}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	request := r.Method + " " + r.URL.EscapedPath()
	if r.URL.RawQuery != "" {
		request += "?" + r.URL.RawQuery
	}
	f.mu.Lock()
	f.seen = append(f.seen, strings.TrimSpace(request+" "+string(body)))
	f.mu.Unlock()
	answer, ok := f.answers[request]
	if !ok {
		answer = `404 {"error":"nothing at ` + r.URL.Path + `"}`
	}
	var status int
	if _, err := fmt.Sscanf(answer, "%d ", &status); err == nil {
		_, answer, _ = strings.Cut(answer, " ")
		w.WriteHeader(status)
	}
	_, _ = io.WriteString(w, answer)
}

// requests returns what was asked for but the list of hubs.
func (f *fakeAPI) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.seen), func(s string) bool { return s == "GET /rooms/" })
}

// command runs caddy rooms with arguments, as far as Caddy leaves it to the plugin.
func command(ctx context.Context, in io.Reader, out, errs io.Writer, args ...string) error {
	root := &cobra.Command{Use: "caddy", SilenceUsage: true}
	rooms := &cobra.Command{Use: "rooms"}
	roomsCommand(rooms)
	root.AddCommand(rooms)
	root.SetArgs(append([]string{"rooms"}, args...))
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errs)
	return root.ExecuteContext(ctx)
}

// run runs caddy rooms on the fake API.
func (f *fakeAPI) run(t *testing.T, args ...string) (out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	address := strings.TrimPrefix(f.URL, "http://")
	err := command(t.Context(), strings.NewReader(`{"from":"stdin"}`), &o, &e, append(args, "--address", address)...)
	if (err != nil) != strings.Contains("\n"+e.String(), "\nError: ") {
		t.Errorf("%q: error %v, but standard error has %q", args, err, e.String())
	}
	return o.String(), strings.ReplaceAll(e.String(), address, "ADDRESS")
}

const agesAgo = "1000" // Unix milliseconds, for a since

// TestCommandOutput compares all that is printed. DAYS stands for the age of agesAgo.
func TestCommandOutput(t *testing.T) {
	ready := `{"status":"ready","hubs":[{"hub":"default","status":"ready","redis":"connected","delivery":"messages of all instances arrive","problems":[]}]}`
	degraded := `503 {"status":"degraded","hubs":[` +
		`{"hub":"chat","status":"degraded","redis":"down","delivery":"ok","problems":["redis does not answer","a\u001b[31mb"]},` +
		`{"hub":"default","status":"draining","redis":"none","delivery":"none","problems":["it drains"]}]}`
	members := map[string]string{
		"GET /rooms/": oneHub,
		"GET /rooms/default/rooms/lobby": `{"room":"lobby","count":3,"connections":2,"members":[
			{"user":"ann","status":"online","state":{"name":"Ann"},"device":"Firefox on a phone","conns":2,"since":` + agesAgo + `}],"next":"ann"}`,
		"GET /rooms/default/rooms/lobby?after=ann": `{"room":"lobby","count":3,"connections":2,"members":[
			{"user":"b\u001b[2Job","status":"away","state":{"x":"` + "\u009b\u202e" + `"},"conns":1,"since":` + agesAgo + `},
			{"user":"-","status":"","state":{"long":"` + strings.Repeat("x", 100) + `"},"conns":1,"since":` + agesAgo + `}],"next":null,"degraded":true}`,
	}
	for name, test := range map[string]struct {
		answers   map[string]string
		args      []string
		out, errs string
	}{
		"status": {
			map[string]string{"GET /rooms/": oneHub, "GET /rooms/health/ready?strict": ready}, []string{"status"},
			`HUB      NODE  STATUS  REDIS      DELIVERY                          CONNECTIONS  ROOMS  MEMBERS
default  nX3k  ready   connected  messages of all instances arrive  3            2      4
`, "",
		},
		"status of hubs that are not well": {
			map[string]string{"GET /rooms/": twoHubs, "GET /rooms/health/ready?strict": degraded}, []string{"status"},
			`HUB      NODE  STATUS    REDIS  DELIVERY  CONNECTIONS  ROOMS  MEMBERS
chat     nX3k  degraded  down   ok        3            2      4
default  nY    draining  none   none      1            0      0
chat: redis does not answer
chat: a [31mb
default: it drains
`, "",
		},
		"status of a hub and its successor": {
			map[string]string{
				"GET /rooms/": `{"hubs":[{"hub":"a","node":"n1","state":"open"},{"hub":"a","node":"n2","state":"draining"},{"hub":"b","node":"n3","state":"open"}]}`,
				"GET /rooms/health/ready?strict": `{"status":"ready","hubs":[{"hub":"a","status":"draining","redis":"1","delivery":"1"},` +
					`{"hub":"a","status":"ready","redis":"2","delivery":"2"}]}`,
			}, []string{"status"},
			`HUB  NODE  STATUS    REDIS  DELIVERY  CONNECTIONS  ROOMS  MEMBERS
a    n1    ready     2      2         0            0      0
a    n2    draining  1      1         0            0      0
b    n3    open      -      -         0            0      0
`, "",
		},
		"rooms of a hub with a successor": {
			map[string]string{"GET /rooms/": `{"hubs":[{"hub":"a","state":"open"},{"hub":"a","state":"draining"}]}`, "GET /rooms/a/rooms": `{"rooms":[],"next":null}`},
			[]string{"rooms"}, "ROOM  USERS  CONNECTIONS\n0 rooms\n", "",
		},
		"status of one hub": {
			map[string]string{"GET /rooms/": twoHubs, "GET /rooms/health/ready?strict": degraded}, []string{"status", "--hub", "default"},
			`HUB      NODE  STATUS    REDIS  DELIVERY  CONNECTIONS  ROOMS  MEMBERS
default  nY    draining  none   none      1            0      0
default: it drains
`, "",
		},
		"status as JSON": {
			map[string]string{"GET /rooms/": oneHub, "GET /rooms/health/ready?strict": ready}, []string{"status", "--json"},
			oneHub + "\n" + ready + "\n", "",
		},
		"status of one hub as JSON": {
			map[string]string{"GET /rooms/": twoHubs, "GET /rooms/health/ready?strict": degraded}, []string{"status", "--json", "--hub", "default"},
			`{"hubs":[{"hub":"default","node":"nY","state":"draining","connections":1,"rooms":0,"members":0}]}
{"hubs":[{"hub":"default","status":"draining","redis":"none","delivery":"none","problems":["it drains"]}],"status":"degraded"}
`, "",
		},
		"rooms over three pages": {
			map[string]string{
				"GET /rooms/":                                        oneHub,
				"GET /rooms/default/rooms?prefix=a%26b":              `{"rooms":[{"room":"a&b","count":2,"connections":3},{"room":"a&bc","count":1,"connections":0}],"next":"a&bc"}`,
				"GET /rooms/default/rooms?after=a%26bc&prefix=a%26b": `{"rooms":[],"next":"7"}`,
				"GET /rooms/default/rooms?after=7&prefix=a%26b":      `{"rooms":[{"room":"a&bd","count":100,"connections":100}],"next":null}`,
			}, []string{"rooms", "--prefix", "a&b"},
			`ROOM  USERS  CONNECTIONS
a&b   2      3
a&bc  1      0
a&bd  100    100
3 rooms
`, "",
		},
		"rooms as JSON": {
			map[string]string{
				"GET /rooms/":                      oneHub,
				"GET /rooms/default/rooms":         `{"rooms":[{"room":"a","count":2,"connections":3}],"next":"a"}`,
				"GET /rooms/default/rooms?after=a": "{\"rooms\": [\n{\"room\":\"b\",\"count\":1,\"connections\":1}],\n\"next\":null}",
			}, []string{"rooms", "--json"},
			`{"rooms":[{"room":"a","count":2,"connections":3}],"next":"a"}
{"rooms":[{"room":"b","count":1,"connections":1}],"next":null}
`, "",
		},
		"no rooms": {
			map[string]string{"GET /rooms/": oneHub, "GET /rooms/default/rooms": `{"rooms":[],"next":null}`}, []string{"rooms"},
			"ROOM  USERS  CONNECTIONS\n0 rooms\n", "",
		},
		"a list that does not go on": {
			map[string]string{
				"GET /rooms/":                      oneHub,
				"GET /rooms/default/rooms":         `{"rooms":[],"next":"a"}`,
				"GET /rooms/default/rooms?after=a": `{"rooms":[],"next":"a"}`,
			}, []string{"rooms"},
			"", "Error: the server's list does not go on after \"a\"\n",
		},
		"members": {
			members, []string{"members", "lobby"},
			`USER             STATUS  CONNECTIONS  SINCE    DEVICE                STATE
ann              online  2            DAYS  "Firefox on a phone"  {"name":"Ann"}
"b\x1b[2Job"     away    1            DAYS  -                     {"x":"\u009b\u202e"}
"-"              -       1            DAYS  -                     {"long":"` + strings.Repeat("x", 70) + `…
3 users, 2 connections
`, "Redis is out of reach: members on other instances may be missing, or gone\n",
		},
		"disconnect": {
			map[string]string{"GET /rooms/": oneHub, "POST /rooms/default/disconnect": `{"connections":1}`}, []string{"kick", "an\x1bn"},
			"\"an\\x1bn\" is disconnected: 1 connection\n", "",
		},
		"kick": {
			map[string]string{"GET /rooms/": oneHub, "POST /rooms/default/kick": `{"connections":2}`}, []string{"kick", "ann", "--room", "lobby"},
			"ann is taken out of lobby: 2 connections\n", "",
		},
		"kick without Redis": {
			map[string]string{"GET /rooms/": oneHub, "POST /rooms/default/kick": `{"connections":0,"degraded":true}`}, []string{"kick", "ann", "--room", "lobby"},
			"ann is taken out of lobby: 0 connections\n",
			"Not all instances have answered, or told Redis: connections may stay, or be shown\n",
		},
		"kick as JSON": {
			map[string]string{"GET /rooms/": oneHub, "POST /rooms/default/kick": `{"connections":2}`}, []string{"kick", "ann", "--room", "lobby", "--json"},
			"{\"connections\":2}\n", "",
		},
		"publish": {
			map[string]string{"GET /rooms/": oneHub, "POST /rooms/default/publish": `{"room":"lobby"}`}, []string{"publish", "lobby", "1"},
			"published to lobby\n", "",
		},
		"publish without Redis": {
			map[string]string{"GET /rooms/": oneHub, "POST /rooms/default/publish": `{"room":"lobby","degraded":true}`}, []string{"publish", "lobby", "1"},
			"published to lobby\n", "Redis is out of reach: members on other instances will miss it\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			out, errs := startFakeAPI(t, test.answers).run(t, test.args...)
			out = strings.ReplaceAll(out, age(time.Now(), 1000), "DAYS")
			if squeeze(out) != squeeze(test.out) || errs != test.errs {
				t.Errorf("%q printed\n%s%s\nwant\n%s%s", test.args, out, errs, test.out, test.errs)
			}
			if strings.ContainsFunc(out+errs, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
				t.Errorf("%q printed what can't be seen: %q %q", test.args, out, errs)
			}
		})
	}
}

// squeeze makes a text independent of how wide an age is.
func squeeze(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		if strings.Contains(line, "DAYS") || strings.Contains(line, "SINCE") {
			lines[i] = strings.Join(strings.Fields(line), " ")
		}
	}
	return strings.Join(lines, "\n")
}

// TestCommandRequests expects names to be encoded in paths and as they are in bodies, and data to arrive as it was written.
func TestCommandRequests(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"members", "team:a/b@c"}, "GET /rooms/default/rooms/team:a%2Fb@c"},
		{[]string{"members", "."}, "GET /rooms/default/rooms/%2E"},
		{[]string{"members", ".."}, "GET /rooms/default/rooms/%2E%2E"},
		{[]string{"members", "..."}, "GET /rooms/default/rooms/..."},
		{[]string{"members", "a?b#c d"}, "GET /rooms/default/rooms/a%3Fb%23c%20d"},
		{[]string{"tail", "a/../b"}, "GET /rooms/default/tail/a%2F..%2Fb"},
		{[]string{"kick", "a/b"}, `POST /rooms/default/disconnect {"user":"a/b"}`},
		{[]string{"kick", "ann", "--room", ".."}, `POST /rooms/default/kick {"room":"..","user":"ann"}`},
		{[]string{"publish", "a", `{"b":"<&>","n":1.0}`, "--event", "e"}, `POST /rooms/default/publish {"room":"a","event":"e","data":{"b":"<&>","n":1.0}}`},
		{[]string{"publish", "a", "--", "-5"}, `POST /rooms/default/publish {"room":"a","data":-5}`},
		{[]string{"publish", "a", "null"}, `POST /rooms/default/publish {"room":"a","data":null}`},
		{[]string{"publish", "a", "-"}, `POST /rooms/default/publish {"room":"a","data":{"from":"stdin"}}`},
	} {
		f := startFakeAPI(t, map[string]string{"GET /rooms/": oneHub})
		args := append([]string{"--address", strings.TrimPrefix(f.URL, "http://")}, test.args...)
		_ = command(t.Context(), strings.NewReader(`{"from":"stdin"}`), io.Discard, io.Discard, args...) // it is refused
		if got := f.requests(); !slices.Equal(got, []string{test.want}) {
			t.Errorf("%q asked %q, want %q", test.args, got, test.want)
		}
	}
}

// TestCommandErrors expects what people are told, and nothing on standard output.
func TestCommandErrors(t *testing.T) {
	t.Setenv("SHORT_SECRET", "short")
	t.Setenv("LONG_SECRET", tokenSecret)
	hub := map[string]string{"GET /rooms/": oneHub}
	for name, test := range map[string]struct {
		answers map[string]string
		args    []string
		want    string
	}{
		"no plugin":   {nil, []string{"status"}, "caddy at ADDRESS has no rooms plugin, or one without an admin API"},
		"no hub":      {map[string]string{"GET /rooms/": `{"hubs":[]}`}, []string{"rooms"}, "caddy at ADDRESS has the rooms plugin, but no hub: its configuration has no rooms directive"},
		"unknown hub": {hub, []string{"rooms", "--hub", "chat"}, `no hub "chat": --hub can be default`},
		"unknown hub of status": {
			map[string]string{"GET /rooms/": twoHubs, "GET /rooms/health/ready?strict": `{"status":"ready"}`},
			[]string{"status", "--hub", "x"}, `no hub "x": --hub can be chat, default`,
		},
		"several hubs":     {map[string]string{"GET /rooms/": twoHubs}, []string{"tail", "lobby"}, "there are several hubs: name one with --hub, of chat, default"},
		"words of the API": {map[string]string{"GET /rooms/": oneHub, "POST /rooms/default/publish": `413 {"error":"data has 70000 bytes, at most 65536 are allowed"}`}, []string{"publish", "a", "1"}, "data has 70000 bytes, at most 65536 are allowed (HTTP 413)"},
		"words with escapes": {
			map[string]string{"GET /rooms/": oneHub, "POST /rooms/default/disconnect": `400 {"error":"no \u001b[2Jann"}`}, []string{"kick", "ann"}, "no  [2Jann (HTTP 400)",
		},
		"a page of another program": {map[string]string{"GET /rooms/": "502 <h1>\nBad Gateway</h1>"}, []string{"rooms"}, "<h1> Bad Gateway</h1> (HTTP 502)"},
		"no words":                  {map[string]string{"GET /rooms/": "500 "}, []string{"rooms"}, "Internal Server Error (HTTP 500)"},
		"no JSON":                   {map[string]string{"GET /rooms/": "hello"}, []string{"rooms"}, "the answer is not that of caddy's admin endpoint with this version of the rooms plugin: invalid character 'h' looking for beginning of value"},
		"health that is an error": {
			map[string]string{"GET /rooms/": oneHub, "GET /rooms/health/ready?strict": `503 {"error":"shutting down"}`}, []string{"status"}, "shutting down (HTTP 503)",
		},
		"a second page that is refused": {
			map[string]string{"GET /rooms/": oneHub, "GET /rooms/default/rooms": `{"rooms":[{"room":"a"}],"next":"a"}`, "GET /rooms/default/rooms?after=a": `400 {"error":"no such cursor"}`},
			[]string{"rooms"}, "no such cursor (HTTP 400)",
		},
		"data that is no JSON":   {hub, []string{"publish", "a", "hello"}, `DATA is not JSON: invalid character 'h' looking for beginning of value; a string has quotes of its own, as in '"hello"'`},
		"empty data":             {hub, []string{"publish", "a", ""}, "DATA is empty"},
		"empty room":             {hub, []string{"members", ""}, "ROOM is empty"},
		"empty flag":             {hub, []string{"kick", "ann", "--room", ""}, "--room is empty: without it, the user is disconnected"},
		"too little":             {hub, []string{"publish", "a"}, "got 1 arguments, but it is: caddy rooms publish ROOM DATA [flags] (see --help)"},
		"too much":               {hub, []string{"status", "x"}, "got 1 arguments, but it is: caddy rooms status [flags] (see --help)"},
		"unknown command":        {hub, []string{"ban"}, `unknown command "ban": there are kick, members, publish, rooms, status, tail, token`},
		"token without a secret": {nil, []string{"token", "42"}, "one of --secret-file and --secret-env is needed"},
		"token with two":         {nil, []string{"token", "42", "--secret-file", "a", "--secret-env", "B"}, "one of --secret-file and --secret-env is needed"},
		"token, no variable":     {nil, []string{"token", "42", "--secret-env", "NOT_THERE_AT_ALL"}, "the environment variable NOT_THERE_AT_ALL of --secret-env is not set"},
		"token, no file":         {nil, []string{"token", "42", "--secret-file", "/not/there"}, "reading --secret-file: open /not/there: no such file or directory"},
		"token, short secret":    {nil, []string{"token", "42", "--secret-env", "SHORT_SECRET"}, "secret has 5 bytes (allowed: 32 or more, as RFC 7518 asks for)"},
		"token, bad time":        {nil, []string{"token", "42", "--secret-env", "LONG_SECRET", "--expires", "soon"}, "bad --expires 'soon' (allowed: a duration like 1h of 1s or more, or 0)"},
		"token, bad claims":      {nil, []string{"token", "42", "--secret-env", "LONG_SECRET", "--claims", "[]"}, "--claims is no JSON object"},
		"end of a tail": {
			map[string]string{"GET /rooms/": oneHub, "GET /rooms/default/tail/a": ""}, []string{"tail", "a"},
			"the server has ended the stream: it stops, or a reload has removed the hub",
		},
	} {
		t.Run(name, func(t *testing.T) {
			out, errs := startFakeAPI(t, test.answers).run(t, test.args...)
			if out != "" || !strings.HasSuffix("\n"+errs, "\nError: "+test.want+"\n") {
				t.Errorf("%q printed %q and %q, want the error %q", test.args, out, errs, test.want)
			}
		})
	}
}

// TestCommandToken mints a token that a Caddy with the same secret takes, with its claims as they were given.
func TestCommandToken(t *testing.T) {
	t.Setenv("LONG_SECRET", tokenSecret+"\n")
	raw, errs := startFakeAPI(t, nil).run(t, "token", "ann", "--secret-env", "LONG_SECRET", "--expires", "0",
		"--claims", `{"rooms":{"den":["join"]},"team":9007199254740993}`)
	if errs != "" {
		t.Fatal(errs)
	}
	if payload, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1]); err != nil || !strings.Contains(string(payload), `"team":9007199254740993`) {
		t.Errorf("claims %s, %v", payload, err)
	}
	client := roomstest.Connect(t, startTokens(t).URL("/ws"), nil, bearer(strings.TrimSpace(raw)))
	if w := client.Welcome(); client.User != "ann" || w["expires"] != nil {
		t.Errorf("welcome %v", w)
	}
	client.Join("den")
	client.Send(`{"type":"join","id":1,"room":"lobby"}`)
	client.Refused("forbidden")
}

func TestCommandAddress(t *testing.T) {
	f := startFakeAPI(t, nil)
	f.Close()
	for address, want := range map[string]string{
		strings.TrimPrefix(f.URL, "http://"): "is caddy running? If the endpoint is elsewhere, give --address or --config",
		"unix//nowhere/caddy.sock":           "no admin endpoint at unix//nowhere/caddy.sock",
		"localhost:1-5":                      "has several ports",
		"localhost:x":                        `address "localhost:x"`,
		"http://localhost:2019":              "is a URL: write it without http://",
	} {
		err := command(t.Context(), nil, io.Discard, io.Discard, "status", "--address", address)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--address %s: error %v, want %q", address, err, want)
		}
	}
}

// TestCommandUnixSocket expects no Origin there: Caddy would refuse it.
func TestCommandUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") != "" {
			http.Error(w, "origin", http.StatusForbidden)
			return
		}
		_, _ = io.WriteString(w, `{"hubs":[]}`)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	err = command(t.Context(), nil, io.Discard, io.Discard, "rooms", "--address", "unix/"+path+"|0220")
	if err == nil || !strings.Contains(err.Error(), "but no hub") {
		t.Errorf("error %v", err)
	}
}

const frames = `{"type":"message","room":"lobby","event":"chat","data":{"text":"hi \u001b"},"from":{"user":"ann","conn":"c1"},"ts":1795426127500}

{"type":"message","room":"lobby","event":"e\u001b[1m","data":` + "\"\x7f\u0085\u202e\U000e0001é\"" + `,"from":{"user":"a b","conn":"c2"},"ts":1795426127500}
{"type":"gap","room":"lobby","reason":"bus"}
{"type":"message","room":"lobby","event":"message","data":null,"from":null,"ts":1795426127500}
{"type":"message","room":"lobby","event":"mess`

// TestCommandTail expects each whole line of a stream to be printed, until its end.
func TestCommandTail(t *testing.T) {
	f := startFakeAPI(t, map[string]string{"GET /rooms/": oneHub, "GET /rooms/default/tail/lobby": frames})
	at := time.UnixMilli(1795426127500).Format("15:04:05")
	out, errs := f.run(t, "tail", "lobby")
	want := at + ` chat ann {"text":"hi \u001b"}
` + at + ` "e\x1b[1m" "a b" "\u007f\u0085\u202e\udb40\udc01é"
--- messages may be missing (bus)
` + at + ` message - null
`
	if out != want || !strings.HasPrefix(errs, "messages of lobby, until interrupted:\n") {
		t.Errorf("printed\n%s\nwant\n%s\nand said %s", out, want, errs)
	}

	out, _ = f.run(t, "tail", "lobby", "--json")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 4 {
		t.Fatalf("printed %q", out)
	}
	var second struct{ Data string }
	if err := json.Unmarshal([]byte(lines[1]), &second); err != nil || second.Data != "\x7f\u0085\u202e\U000e0001é" || strings.Contains(lines[1], "\u0085") {
		t.Errorf("printed %q (%v)", lines[1], err)
	}
}

// TestCommandTailInterrupted expects lines to be printed at once, and an interrupt to be no error.
func TestCommandTailInterrupted(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/rooms/" {
			_, _ = io.WriteString(w, oneHub)
			return
		}
		_, _ = io.WriteString(w, strings.SplitAfter(frames, "\n")[0])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out := interruptOnWrite{interrupt}
	if err := command(ctx, nil, out, io.Discard, "tail", "lobby", "--address", strings.TrimPrefix(server.URL, "http://")); err != nil {
		t.Errorf("interrupted: %v", err)
	}
}

// interruptOnWrite interrupts a command when it prints.
type interruptOnWrite struct{ interrupt func() }

func (w interruptOnWrite) Write(p []byte) (int, error) {
	w.interrupt()
	return len(p), nil
}

func TestAge(t *testing.T) {
	now := time.UnixMilli(1_795_426_127_500)
	for ago, want := range map[time.Duration]string{
		-time.Hour:                     "0s",
		999 * time.Millisecond:         "0s",
		59 * time.Second:               "59s",
		3*time.Minute + 12*time.Second: "3m12s",
		time.Hour:                      "1h0m",
		23*time.Hour + 59*time.Minute:  "23h59m",
		51*time.Hour + 59*time.Minute:  "2d3h",
		time.Hour * 24 * 365:           "365d0h",
	} {
		if got := age(now, now.Add(-ago).UnixMilli()); got != want {
			t.Errorf("age of %s is %s, want %s", ago, got, want)
		}
	}
}

func TestVisibleName(t *testing.T) {
	for name, want := range map[string]string{
		"ann":          "ann",
		"anon:c7Qm2/@": "anon:c7Qm2/@",
		"Zoë":          "Zoë",
		"":             `""`,
		"-":            `"-"`,
		"a b":          `"a b"`,
		`"ann"`:        `"\"ann\""`,
		`\x1b`:         `"\\x1b"`,
		"a\tb\x00":     `"a\tb\x00"`,
		"\u202eann":    `"\u202eann"`,
		"\xff":         `"\xff"`,
	} {
		if got := visibleName(name); got != want {
			t.Errorf("%q is shown as %s, want %s", name, got, want)
		}
	}
}
