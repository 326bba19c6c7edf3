package module

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// accessLine waits for the line of the access log about the request with that query, and returns it.
func accessLine(t *testing.T, c *caddytest.Caddy, query string) (line roomstest.Object) {
	t.Helper()
	c.Wait("the access line of "+query, func() bool {
		for text := range strings.SplitSeq(c.Log(), "\n") {
			if strings.Contains(text, `"http.log.access`) && strings.Contains(text, query+`"`) {
				return json.Unmarshal([]byte(text), &line) == nil
			}
		}
		return false
	})
	return line
}

// TestAccessLogKnowsTheClient: who was identified is named, also when refused, and can be logged under names of the operator's.
func TestAccessLogKnowsTheClient(t *testing.T) {
	c := caddytest.StartText(t, `:{$PORT} {
	log
	encode gzip
	log_append who {rooms.user}
	rooms /ws {
		user {http.request.uri.query.user}
		anonymous
	}
	rooms /users full {
		user {http.request.uri.query.user}
		max_connections 1
	}
}`)
	for _, user := range []string{"ann", "a b{rooms.conn}", ""} {
		query := url.Values{"user": {user}}.Encode()
		client := roomstest.Dial(t, c.URL("/ws?"+query), nil)
		line := accessLine(t, c, query)
		if line["status"] != 101.0 || line["rooms_conn"] != client.Conn || line["rooms_user"] != client.User || line["who"] != client.User {
			t.Errorf("%s has %s as user, and is logged as %v", client.Conn, client.User, line)
		}
	}
	roomstest.Dial(t, c.URL("/users?user=first"), nil)
	roomstest.Connect(t, c.URL("/users?user=second"), nil).Refused("unavailable")
	if line := accessLine(t, c, "user=second"); line["status"] != 101.0 || line["rooms_user"] != "second" || line["rooms_conn"] == nil {
		t.Errorf("a client that was told why it is refused is logged as %v", line)
	}
	upgrade(t, c.Addr, "GET /users?user=third")
	if line := accessLine(t, c, "user=third"); line["status"] != 503.0 || line["rooms_user"] != "third" || line["who"] != "third" {
		t.Errorf("a client that was refused is logged as %v", line)
	}
	roomstest.Connect(t, c.URL("/users?none"), nil).Refused("unauthorized")
	if line := accessLine(t, c, "none"); line["status"] != 101.0 || line["rooms_user"] != nil || line["rooms_conn"] != nil {
		t.Errorf("a client without a user is logged as %v", line)
	}
}

func TestErrorRoutesKnowTheClient(t *testing.T) {
	c := caddytest.StartText(t, `:{$PORT} {
	rooms /ws {
		user {http.request.uri.query.user}
		max_connections 1
	}
	handle_errors {
		respond "<{rooms.user}> {err.status_code}"
	}
}`)
	roomstest.Dial(t, c.URL("/ws?user=first"), nil)
	for query, want := range map[string]string{
		"user=" + url.QueryEscape("a {rooms.conn}"): "<a {rooms.conn}> 503",
		"": "<> 401", // who was not identified has no name
	} {
		body, err := io.ReadAll(upgrade(t, c.Addr, "GET /ws?"+query).Body)
		if err != nil || string(body) != want {
			t.Errorf("%q is answered %q, %v, want %q", query, body, err, want)
		}
	}
}

// TestAutoJoinOfTheUser: what a client is called is part of a room's name as it is, and is no template again.
func TestAutoJoinOfTheUser(t *testing.T) {
	c := caddytest.StartText(t, `:{$PORT} {
	rooms /ws {
		user {http.request.header.X-User}
		anonymous
		auto_join user:{rooms.user} conn/{rooms.conn}
		limit own {
			on join
			key {rooms.user}
			events 1
			window 1h
			scope instance
		}
	}
}`)
	for _, tc := range []struct {
		user  string
		valid bool
	}{
		{"ann", true},
		{"Ann.B_1-c:d/e@example.com", true},
		{"", true},
		{"a b", false},
		{"ünï", false},
		{"{rooms.conn}", false},
		{"{http.request.host}", false},
		{`\{`, false},
	} {
		t.Run(tc.user, func(t *testing.T) {
			client := roomstest.Dial(t, c.URL("/ws"), http.Header{"X-User": {tc.user}})
			if tc.valid {
				if ack := client.Next("ack"); ack["room"] != "user:"+client.User {
					t.Errorf("user %q was put into %v", client.User, ack["room"])
				}
			} else {
				client.Refused("bad_request")
			}
			if ack := client.Next("ack"); ack["room"] != "conn/"+client.Conn {
				t.Errorf("connection %s was put into %v", client.Conn, ack["room"])
			}
			if tc.user != "" && client.User != tc.user {
				t.Errorf("user %q, want %q", client.User, tc.user)
			}
			// The key of the limit is the user, too.
			client.Join("lobby")
			client.Send(`{"type":"join","id":2,"room":"other"}`)
			client.Refused("rate_limited")
		})
	}
}
