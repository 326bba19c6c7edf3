package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// TestSnapshotAndEventsAreTheTruth joins, leaves and changes at random and checks that each client's snapshot with its events is who is there,
// also when names are told only some of the time.
func TestSnapshotAndEventsAreTheTruth(t *testing.T) {
	for seed := range uint64(9) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			h := open(t, func(p *Policy) { p.Coalesce = 10 * time.Millisecond; p.Grace = 5 * time.Millisecond })
			if seed%3 > 0 {
				h.fullUpTo.Store(int64(2 + seed%3)) // of the eight, of whom some are away
				h.countEvery = 15 * time.Millisecond
			}
			const n = 12
			type mirror struct {
				members map[string]string // user -> status
				count   float64
				known   bool
				last    float64
				full    bool
				listed  bool // the members are known, and events go on from them
			}
			run := func(k int, stop chan struct{}, out chan *mirror) {
				r := rand.New(rand.NewPCG(seed, uint64(k)))
				user := fmt.Sprint("u", k%8)
				c, _, err := websocket.Dial(context.Background(), h.server.URL+"?user="+user, &websocket.DialOptions{Subprotocols: []string{"rooms.v1"}})
				if err != nil {
					t.Error(err)
					out <- nil
					return
				}
				defer c.CloseNow()
				c.SetReadLimit(-1)
				m := &mirror{members: map[string]string{}}
				read := func() object {
					_, b, err := c.Read(context.Background())
					if err != nil {
						t.Error(err)
						return nil
					}
					var o object
					_ = json.Unmarshal(b, &o)
					switch o["type"] {
					case "presence":
						if !m.known {
							t.Errorf("presence outside of the room: %s", b)
						}
						if p := o["pseq"].(float64); p <= m.last {
							t.Errorf("pseq %v after %v", p, m.last)
						} else {
							m.last = p
						}
						m.count = o["count"].(float64)
						if len(o["events"].([]any)) == 0 {
							m.listed = false
							break
						}
						if !m.full || !m.listed {
							t.Errorf("events for count, or without a list: %s", b)
							break
						}
						for _, e := range o["events"].([]any) {
							e := e.(object)
							u := e["user"].(string)
							_, in := m.members[u]
							switch e["op"] {
							case "join":
								if in {
									t.Errorf("join of %s, who is known: %s", u, b)
								}
								m.members[u] = e["status"].(string)
							case "update":
								if !in {
									t.Errorf("update of %s, who is unknown: %s", u, b)
								}
								m.members[u] = e["status"].(string)
							case "leave":
								if !in {
									t.Errorf("leave of %s, who is unknown: %s", u, b)
								}
								delete(m.members, u)
							}
						}
						if len(m.members) != int(m.count) {
							t.Errorf("count %v, members %v", m.count, m.members)
						}
					case "gap":
						if !m.full || o["reason"] != "presence" {
							t.Errorf("got %s", b)
						}
						_ = c.Write(context.Background(), websocket.MessageText, []byte(`{"type":"members","id":"again","room":"lobby"}`))
					case "ack":
						if o["id"] != "again" {
							break
						}
						m.members, m.listed = map[string]string{}, true
						for _, x := range o["presence"].(object)["members"].([]any) {
							m.members[x.(object)["user"].(string)] = x.(object)["status"].(string)
						}
					}
					return o
				}
				ask := func(id int, f string, args ...any) object {
					_ = c.Write(context.Background(), websocket.MessageText, fmt.Appendf(nil, f, args...))
					for {
						o := read()
						if o == nil {
							return nil
						}
						if o["id"] == float64(id) {
							return o
						}
					}
				}
				join := func(i int, full bool) {
					mode := "count"
					if full {
						mode = "full"
					}
					_ = c.Write(context.Background(), websocket.MessageText, fmt.Appendf(nil, `{"type":"join","id":%d,"room":"lobby","presence":%q}`, i, mode))
					for {
						_, b, err := c.Read(context.Background())
						if err != nil {
							t.Error(err)
							return
						}
						var o object
						_ = json.Unmarshal(b, &o)
						if o["type"] == "presence" {
							t.Errorf("presence before the ack: %s", b)
							continue
						}
						if o["id"] != float64(i) {
							continue
						}
						p := o["presence"].(object)
						m.members, m.known, m.full = map[string]string{}, true, full
						m.count, m.last = p["count"].(float64), p["pseq"].(float64)
						m.listed = p["next"] == nil
						if full {
							for _, x := range p["members"].([]any) {
								m.members[x.(object)["user"].(string)] = x.(object)["status"].(string)
							}
						}
						return
					}
				}
				for i := 1; ; i++ {
					select {
					case <-stop:
						if !m.known {
							join(i, k%2 == 0)
						}
						// all that is pending
						ask(i+1, `{"type":"ping","id":%d}`, i+1)
						time.Sleep(300 * time.Millisecond)
						ask(i+2, `{"type":"ping","id":%d}`, i+2)
						out <- m
						<-time.After(700 * time.Millisecond)
						return
					default:
					}
					switch x := r.IntN(10); {
					case !m.known:
						time.Sleep(time.Duration(r.IntN(60)) * time.Millisecond)
						join(i, k%2 == 0)
					case x < 3:
						ask(i, `{"type":"leave","id":%d,"room":"lobby"}`, i)
						m.known = false
					case x < 8:
						ask(i, `{"type":"status","id":%d,"room":"lobby","status":"s%d"}`, i, r.IntN(100))
					default:
						ask(i, `{"type":"ping","id":%d}`, i)
						time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond)
					}
				}
			}
			stop, out := make(chan struct{}), make(chan *mirror, n)
			for k := range n {
				go run(k, stop, out)
			}
			time.Sleep(1500 * time.Millisecond)
			close(stop)
			var first *mirror
			for range n {
				m := <-out
				if m == nil {
					continue
				}
				if m.count != 8 {
					t.Errorf("count %v, want 8", m.count)
				}
				if !m.full || !m.listed {
					continue
				}
				if first == nil {
					first = m
				}
				equal(t, "members", m.members, first.members)
			}
			time.Sleep(800 * time.Millisecond)
		})
	}
}
