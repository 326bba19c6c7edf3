package module

import (
	"slices"
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// TestEventsFollowWhatWasRead expects a page of members, and the ack of a second join, to agree with the events around it: nobody
// who is in the page is told to come afterwards, and pseq never goes back.
func TestEventsFollowWhatWasRead(t *testing.T) {
	for _, request := range []string{
		`{"type":"members","id":"read","room":"lobby"}`,
		`{"type":"join","id":"read","room":"lobby"}`,
	} {
		a := caddytest.StartText(t, `:{$PORT} {
	rooms /ws {
		user {http.request.uri.query.user}
		presence {
			coalesce 500ms
		}
	}
}`)
		ann, bob := dial(t, a, "ann"), dial(t, a, "bob")
		ann.Join("lobby")
		bob.Join("lobby")
		ann.Send("%s", request)
		told := false
		for page := (roomstest.Object)(nil); page == nil || !told; {
			switch o := ann.Next("ack", "presence"); o["type"] {
			case "presence":
				if told = true; page != nil {
					t.Errorf("%s was answered with %v (pseq %.0f), then came %v (pseq %.0f)", request, roomstest.Words(page["members"]), page["pseq"],
						roomstest.Words(o["events"]), o["pseq"])
				}
			case "ack":
				page = o["presence"].(roomstest.Object)
				if m := roomstest.Words(page["members"]); !told && !slices.Contains(m, "bob") {
					t.Fatalf("members %v", m)
				}
				if !told { // it may come before the page or not at all
					_ = bob.WS.Close(1000, "")
					e := ann.Events()
					if slices.Contains(e, "join bob") {
						t.Errorf("%s was answered with %v, then came %v", request, roomstest.Words(page["members"]), e)
					}
					told = true
				}
			}
		}
	}
}
