package module

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

const tokenSecret = "a secret of 32 bytes and a few more"

type claims = map[string]any

// mint makes a token as a backend does, good for an hour unless c says otherwise.
func mint(t *testing.T, c claims) string {
	t.Helper()
	return mintWith(t, tokenSecret, c)
}

func mintWith(t *testing.T, secret string, c claims) string {
	t.Helper()
	all := claims{"exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(all, c)
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(secret)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := jwt.Signed(s).Claims(all).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func bearer(raw string) string {
	return "rooms.bearer." + base64.RawURLEncoding.EncodeToString([]byte(raw))
}

const tokenConfig = `:{$PORT} {
	log
	rooms /ws {
		token {
			secret {env.SECRET}
		}
		device {rooms.token.device}
		limit plan {
			on publish
			key {rooms.token.plan}
			events 2
			window 1h
		}
	}
	rooms /all more {
		token {
			secret {env.SECRET}
			cookie session
			query token
		}
		anonymous
		auto_join user:{rooms.user} {rooms.token.team}
	}
}`

func startTokens(t *testing.T) *caddytest.Caddy {
	t.Helper()
	return caddytest.StartText(t, tokenConfig, "SECRET="+tokenSecret)
}

// TestTokenPlaces has tokens come in each place, and none of them end in a log.
func TestTokenPlaces(t *testing.T) {
	c := startTokens(t)
	raw := mint(t, claims{"sub": "ann", "device": "phone"})
	authorization := http.Header{"Authorization": {"Bearer " + raw}}
	cookie := http.Header{"Cookie": {"session=" + raw}}
	foreign := http.Header{"Cookie": {"session=" + raw}, "Origin": {"http://elsewhere.example"}}
	for name, test := range map[string]struct {
		path     string
		header   http.Header
		protocol []string
		user     string // "": refused
	}{
		"subprotocol":           {"/ws", nil, []string{bearer(raw)}, "ann"},
		"padded":                {"/ws", nil, []string{bearer(raw) + "="}, "ann"},
		"header":                {"/ws", authorization, nil, "ann"},
		"cookie":                {"/all", cookie, nil, "ann"},
		"query":                 {"/all?token=" + raw, nil, nil, "ann"},
		"cookie where it's off": {"/ws", cookie, nil, ""},
		"query where it's off":  {"/ws?token=" + raw, nil, nil, ""},
		"none":                  {"/ws", nil, nil, ""},
		"none, anonymous":       {"/all", nil, nil, "anon:"},
		"bad, though anonymous": {"/all", nil, []string{bearer("x.y.z")}, ""},
		"not even base64":       {"/ws", nil, []string{"rooms.bearer.!!!"}, ""},
		"the first that counts": {"/ws", authorization, []string{bearer("x.y.z")}, ""},
	} {
		client := roomstest.Connect(t, c.URL(test.path), test.header, test.protocol...)
		if test.user == "" {
			client.Refused("unauthorized")
			if code := client.Closed(); code != 4001 {
				t.Errorf("%s: closed with %d", name, code)
			}
			continue
		}
		if client.Welcome(); !strings.HasPrefix(client.User, test.user) {
			t.Errorf("%s: %s", name, client.User)
		}
		if p := client.WS.Subprotocol(); p != "rooms.v1" {
			t.Errorf("%s: protocol %q", name, p)
		}
	}
	// A page of another origin can't use the cookie, even where it may connect.
	if res := upgrade(t, c.Addr, "GET /all", "Origin: "+foreign.Get("Origin"), "Cookie: "+foreign.Get("Cookie")); res.StatusCode != http.StatusForbidden {
		t.Errorf("foreign origin: %s", res.Status)
	}
	client := roomstest.Connect(t, c.URL("/ws"), authorization)
	client.Welcome()
	client.Join("lobby")
	client.Send(`{"type":"members","id":1,"room":"lobby"}`)
	if m := client.Next("ack")["presence"].(roomstest.Object)["members"].([]any)[0].(roomstest.Object); m["device"] != "phone" {
		t.Errorf("member %v", m)
	}
	c.Stop()
	signature := raw[strings.LastIndexByte(raw, '.')+1:]
	if log := c.Log(); strings.Contains(log, signature) || strings.Contains(log, bearer(raw)) || !strings.Contains(log, "rooms.bearer.XXX") || !strings.Contains(log, "token=XXX") {
		t.Error("a token is in the log, or the requests are not")
	}
}

// TestTokenForeignCookie admits pages of all origins, but not by the cookies of the browser that they are in.
func TestTokenForeignCookie(t *testing.T) {
	c := caddytest.StartText(t, strings.Replace(tokenConfig, "anonymous", "origins *", 1), "SECRET="+tokenSecret)
	raw := mint(t, claims{"sub": "ann"})
	header := http.Header{"Cookie": {"session=" + raw}, "Origin": {"http://elsewhere.example"}}
	roomstest.Connect(t, c.URL("/all"), header).Refused("unauthorized")
	header.Set("Origin", "http://"+c.Addr)
	roomstest.Connect(t, c.URL("/all"), header).Welcome()
}

// TestTokenRooms holds a client to the rooms of its token, and lets a new one change them.
func TestTokenRooms(t *testing.T) {
	c := startTokens(t)
	rooms := claims{"chat:*": []string{"join", "publish", "presence"}, "news": []string{"join"}, "in:*": []string{"publish", "join"}}
	ann := roomstest.Connect(t, c.URL("/ws"), nil, bearer(mint(t, claims{"sub": "ann", "rooms": rooms, "state": claims{"name": "Ann"}})))
	ann.Welcome()
	bob := roomstest.Connect(t, c.URL("/ws"), nil, bearer(mint(t, claims{"sub": "bob"})))
	bob.Welcome()

	p := ann.Join("chat:1")
	if m := p["members"].([]any)[0].(roomstest.Object); m["state"].(roomstest.Object)["name"] != "Ann" {
		t.Errorf("first state: %v", p)
	}
	if p := ann.Join("news"); p != nil {
		t.Errorf("presence without the right: %v", p)
	}
	ann.Send(`{"type":"publish","id":1,"room":"news"}`)
	ann.Refused("forbidden")
	ann.Send(`{"type":"members","id":1,"room":"news"}`)
	ann.Refused("forbidden")
	ann.Send(`{"type":"join","id":1,"room":"lobby"}`)
	ann.Refused("forbidden")
	bob.Join("news") // ann is not told

	again := func(id int, raw string) { ann.Send(`{"type":"auth","id":%d,"token":%q}`, id, raw) }
	again(2, mint(t, claims{"sub": "bob"}))
	ann.Refused("unauthorized")
	again(3, mint(t, claims{"sub": "ann", "exp": time.Now().Add(-time.Hour).Unix()}))
	ann.Refused("unauthorized")
	again(4, "x")
	ann.Refused("unauthorized")
	ann.Send(`{"type":"auth","id":5}`)
	ann.Refused("bad_request")
	exp := time.Now().Add(2 * time.Hour).Unix()
	again(6, mint(t, claims{"sub": "ann", "exp": exp, "rooms": claims{"news": []string{"join", "publish", "presence"}, "lobby": []string{"join"}}}))
	if ack := ann.Next("ack"); ack["id"] != 6.0 || ack["expires"] != float64((exp+10)*1000) {
		t.Errorf("answered with %v", ack)
	}
	if left := ann.Next("left"); left["room"] != "chat:1" || left["reason"] != "forbidden" {
		t.Errorf("left %v", left)
	}
	ann.Send(`{"type":"publish","id":7,"room":"news"}`)
	ann.Next("ack")
	ann.Join("lobby")
	ann.Send(`{"type":"members","id":8,"room":"news"}`)
	if p := ann.Next("ack")["presence"].(roomstest.Object); !slices.Equal(roomstest.Words(p["members"]), []string{"ann", "bob"}) {
		t.Errorf("members %v", p)
	}
}

// TestTokenExpires closes a client whose token has expired, and not one that has brought a new one.
func TestTokenExpires(t *testing.T) {
	c := caddytest.StartText(t, strings.ReplaceAll(tokenConfig, "secret {env.SECRET}", "secret {env.SECRET}\nleeway -1"), "SECRET="+tokenSecret)
	exp := time.Now().Add(3 * time.Second).Unix()
	ann := roomstest.Connect(t, c.URL("/ws"), nil, bearer(mint(t, claims{"sub": "ann", "exp": exp})))
	if w := ann.Welcome(); w["expires"] != float64(exp*1000) {
		t.Errorf("welcome %v", w)
	}
	bob := roomstest.Connect(t, c.URL("/ws"), nil, bearer(mint(t, claims{"sub": "bob", "exp": exp})))
	bob.Welcome()
	bob.Send(`{"type":"auth","id":1,"token":%q}`, mint(t, claims{"sub": "bob"}))
	bob.Next("ack")
	if bye := ann.Next("bye"); bye["code"] != 4001.0 || bye["reason"] != "expired" || bye["reconnect_in"] != nil {
		t.Errorf("bye %v", bye)
	}
	if code := ann.Closed(); code != 4001 {
		t.Errorf("closed with %d", code)
	}
	bob.Quiet()
}

// TestTokenPlaceholders has claims in the keys of limits and in the names of rooms.
func TestTokenPlaceholders(t *testing.T) {
	c := startTokens(t)
	join := func(user, plan string) *roomstest.Client {
		client := roomstest.Connect(t, c.URL("/ws"), nil, bearer(mint(t, claims{"sub": user, "plan": plan})))
		client.Welcome()
		client.Send(`{"type":"join","id":1,"room":"lobby","presence":"none"}`)
		client.Next("ack")
		return client
	}
	ann, bob, cem := join("ann", "free"), join("bob", "free"), join("cem", "paid")
	publish := func(c *roomstest.Client) {
		c.Send(`{"type":"publish","id":2,"room":"lobby"}`)
	}
	for i, client := range []*roomstest.Client{ann, ann, bob, cem} {
		publish(client)
		for {
			o := client.Next("ack", "message", "error")
			if o["type"] == "message" {
				continue
			}
			if refused := o["type"] == "error"; refused != (i == 2) {
				t.Errorf("publish %d: %v", i, o)
			}
			break
		}
	}
	dee := roomstest.Connect(t, c.URL("/all"), nil, bearer(mint(t, claims{"sub": "dee", "team": "red", "n": 1.5, "list": []int{1}})))
	dee.Welcome()
	for _, room := range []string{"user:dee", "red"} {
		if ack := dee.Next("ack"); ack["room"] != room {
			t.Errorf("joined %v, want %s", ack, room)
		}
	}
}

// TestTokenStatuses has clients that can't read errors get plain statuses.
func TestTokenStatuses(t *testing.T) {
	c := startTokens(t)
	for name, authorization := range map[string]string{
		"none": "", "bad": "Bearer x", "alg none": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ.",
		"expired":                 "Bearer " + mint(t, claims{"sub": "ann", "exp": 1}),
		"a user that can't be":    "Bearer " + mint(t, claims{"sub": "anon:x"}),
		"a user that is too long": "Bearer " + mint(t, claims{"sub": strings.Repeat("x", 300)}),
		"a pattern that is none":  "Bearer " + mint(t, claims{"sub": "ann", "rooms": claims{"a b": []string{"join"}}}),
		"a state that is too big": "Bearer " + mint(t, claims{"sub": "ann", "state": claims{"x": strings.Repeat("x", 2048)}}),
	} {
		if res := upgrade(t, c.Addr, "GET /ws", "Authorization: "+authorization); res.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %s", name, res.Status)
		}
	}
	for user, want := range map[string]string{"a/b%2f": "a/b%2f", `"quoted"`: `"quoted"`, "ü": "ü"} {
		client := roomstest.Connect(t, c.URL("/ws"), nil, bearer(mint(t, claims{"sub": user})))
		if client.Welcome(); client.User != want {
			t.Errorf("user %q is %q", user, client.User)
		}
	}
	if res := upgrade(t, c.Addr, "GET /ws", "Authorization: Bearer "+mint(t, claims{"sub": "ann"})); res.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("without a subprotocol: %s", res.Status)
	}
	// What is in a config that can't work is told at its load.
	for text, want := range map[string]string{
		"secret short":                          "secret has 5 bytes",
		"secret {env.NOT_THERE_AT_ALL}":         "secret",
		"key /not/there.pem":                    "no such file",
		"secret {env.SECRET}\nalgorithms RS256": "fits none of the keys",
	} {
		config := fmt.Sprintf(":1234 {\n rooms {\n token {\n %s\n }\n }\n}", text)
		if status, answer := c.Reload(config); status == http.StatusOK || !strings.Contains(answer, want) {
			t.Errorf("%s: %d %s", text, status, answer)
		}
	}
}

// TestTokenUnavailable has clients come again while nobody knows whether their tokens are good.
func TestTokenUnavailable(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signed := func(id string) string {
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: id}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := jwt.Signed(s).Claims(claims{"sub": "ann"}).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	var asked atomic.Int32
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) > 1 {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "a"}}})
	}))
	defer keys.Close()
	c := caddytest.StartText(t, ":{$PORT} {\n rooms /ws {\n token {\n jwks {env.KEYS}\n }\n }\n}", "KEYS="+keys.URL)
	ann := roomstest.Connect(t, c.URL("/ws"), nil, bearer(signed("a")))
	ann.Welcome()
	ann.Send(`{"type":"auth","id":1,"token":%q}`, signed("b"))
	if e := ann.Refused("unavailable"); e["id"] != 1.0 || e["retry_after"] == nil {
		t.Errorf("auth: %v", e)
	}
	bob := roomstest.Connect(t, c.URL("/ws"), nil, bearer(signed("b")))
	if e := bob.Refused("unavailable"); e["retry_after"] == nil {
		t.Errorf("upgrade: %v", e)
	}
	if code := bob.Closed(); code != 4102 {
		t.Errorf("upgrade: closed with %d, want 4102", code)
	}
	res := upgrade(t, c.Addr, "GET /ws", "Authorization: Bearer "+signed("b"))
	if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
		t.Errorf("plain upgrade: %s, Retry-After %q", res.Status, res.Header.Get("Retry-After"))
	}
	ann.Send(`{"type":"auth","id":2,"token":%q}`, signed("a"))
	ann.Next("ack")
}
