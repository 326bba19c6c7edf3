package module

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// TestTokenLogs finds no token in the log that has come with an upgrade, however it is written.
func TestTokenLogs(t *testing.T) {
	c := caddytest.StartText(t, `:{$PORT} {
	log
	handle_path /app/* {
		rooms /all {
			token {
				secret {env.SECRET}
				query the_token
			}
		}
		respond {query}
	}
	rooms /all more {
		token {
			secret {env.SECRET}
			query the_token
		}
	}
	rooms /anyone anyone {
		anonymous
	}
}`, "SECRET="+tokenSecret)
	plain := func(user string) string { return mint(t, claims{"sub": user}) }
	// Headers of tokens need not begin with {".
	spaced := func(user string) string {
		b64 := base64.RawURLEncoding.EncodeToString
		signed := b64([]byte(`{ "alg":"HS256" }`)) + "." + b64(fmt.Appendf(nil, `{"sub":%q}`, user))
		mac := hmac.New(sha256.New, []byte(tokenSecret))
		mac.Write([]byte(signed))
		return signed + "." + b64(mac.Sum(nil))
	}
	escaped := func(dot string, token func(string) string) func(string) string {
		return func(user string) string { return strings.ReplaceAll(token(user), ".", dot) }
	}
	signatures := map[string]string{}
	for name, test := range map[string]struct {
		uri     string // TOKEN in it stands for the token
		token   func(user string) string
		header  string // with TOKEN too
		refused bool
	}{
		"as it is":                    {uri: "/all?the_token=TOKEN", token: plain},
		"%2E":                         {uri: "/all?the_token=TOKEN", token: escaped("%2E", plain)},
		"another header":              {uri: "/all?the_token=TOKEN", token: spaced},
		"another header and %2E":      {uri: "/all?the_token=TOKEN", token: escaped("%2E", spaced)},
		"the first letter escaped":    {uri: "/all?the_token=%65TOKEN", token: func(user string) string { return plain(user)[1:] }},
		"the name escaped":            {uri: "/all?the%5Ftoken=TOKEN", token: spaced},
		"twice":                       {uri: "/all?the_token=TOKEN&x=y&the_token=TOKEN", token: spaced},
		"rewritten":                   {uri: "/app/all?the_token=TOKEN", token: spaced},
		"rewritten, in another place": {uri: "/app/all?other=TOKEN", token: plain, refused: true},
		"where it is off":             {uri: "/anyone?the_token=TOKEN", token: escaped("%2e", plain)},
		"Referer":                     {uri: "/anyone", header: "Referer: https://app.example/?x=TOKEN", token: plain},
		"Referer, %2E":                {uri: "/anyone", header: "Referer: https://app.example/?x=TOKEN", token: escaped("%2E", plain)},
		"Referer, of the parameter":   {uri: "/all?the_token=TOKEN", header: "Referer: https://app.example/?the_token=TOKEN", token: spaced},
	} {
		raw := test.token(name)
		signatures[name] = raw[len(raw)-30:]
		want := http.StatusSwitchingProtocols
		if test.refused {
			want = http.StatusUnauthorized
		}
		res := upgrade(t, c.Addr, "GET "+strings.ReplaceAll(test.uri, "TOKEN", raw), strings.ReplaceAll(test.header, "TOKEN", raw))
		if res.StatusCode != want {
			t.Errorf("%s: %s, want %d", name, res.Status, want)
		}
	}
	// What is no upgrade is the application's.
	const query = "the_token=eyJhbGciOiJub25lIn0.e30."
	res, err := http.Get("http://" + c.Addr + "/app/all?" + query)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != query {
		t.Errorf("passed on %q, %v", body, err)
	}
	c.Wait("all requests in the log", func() bool { return strings.Count(c.Log(), `"http.log.access`) == len(signatures)+1 })
	log := c.Log()
	for name, signature := range signatures {
		if strings.Contains(log, signature) {
			t.Errorf("%s: the token is in the log", name)
		}
	}
	if !strings.Contains(log, `"uri":"/app/all?`+query) {
		t.Error("the URI of what is no upgrade was changed")
	}
}

// TestSameOrigin tells a page of the same origin, whose cookie counts.
func TestSameOrigin(t *testing.T) {
	for _, test := range []struct {
		origin string
		tls    bool
		want   bool
	}{
		{"", false, true},
		{"", true, true},
		{"http://app.example", false, true},
		{"https://app.example", false, true}, // behind a proxy that has TLS
		{"https://app.example", true, true},
		{"HTTPS://APP.EXAMPLE", true, true},
		{"http://app.example", true, false},
		{"https://app.example:8443", true, false},
		{"https://evil.example", true, false},
		{"http://evil.example", false, false},
		{"null", false, false},
		{"null", true, false},
	} {
		r := httptest.NewRequest(http.MethodGet, "http://app.example/ws", nil)
		if test.tls {
			r.TLS = new(tls.ConnectionState)
		}
		if test.origin != "" {
			r.Header.Set("Origin", test.origin)
		}
		if got := sameOrigin(r); got != test.want {
			t.Errorf("origin %q, TLS %t: %t", test.origin, test.tls, got)
		}
	}
}

// TestClaimText shows numbers as the token has them.
func TestClaimText(t *testing.T) {
	for text, want := range map[string]string{
		`null`: "", `"red"`: "red", `true`: "true", `1.50`: "1.50", `1e3`: "1e3", `-0`: "-0",
		`9007199254740993`:                             "9007199254740993",
		`[9007199254740993,"x"]`:                       `[9007199254740993,"x"]`,
		`{"a":{"b":[123456789012345678901234567890]}}`: `{"a":{"b":[123456789012345678901234567890]}}`,
	} {
		d := json.NewDecoder(bytes.NewReader([]byte(text)))
		d.UseNumber()
		var claim any
		if err := d.Decode(&claim); err != nil {
			t.Fatal(err)
		}
		if got := claimText(claim); got != want {
			t.Errorf("%s is %s", text, got)
		}
	}
}

// TestTokenNumbers leads nobody to the room of another whose number is near.
func TestTokenNumbers(t *testing.T) {
	client := roomstest.Connect(t, startTokens(t).URL("/all"), nil, bearer(mint(t, claims{"sub": "ann", "team": 9007199254740993})))
	client.Welcome()
	for _, room := range []string{"user:ann", "9007199254740993"} {
		if ack := client.Next("ack"); ack["room"] != room {
			t.Errorf("joined %v, want %s", ack["room"], room)
		}
	}
}
