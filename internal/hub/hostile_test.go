package hub

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/ratelimit"
)

// TestOneChattyMemberHurtsNobody checks that a member who changes its state as fast as it can costs no reading neighbour its connection.
func TestOneChattyMemberHurtsNobody(t *testing.T) {
	h := open(t, func(p *Policy) { p.Coalesce = 50 * time.Millisecond })
	ann, bob, eve := h.dial("ann"), h.dial("bob"), h.dial("eve")
	for _, c := range []*client{ann, bob} {
		c.Join("lobby")
	}
	eve.Send(`{"type":"join","id":1,"room":"lobby","presence":"none"}`)
	eve.Next("ack")
	closed := make(chan error, 2)
	for _, c := range []*client{ann, bob} {
		go func() {
			for {
				_, _, err := c.WS.Read(context.Background())
				if err != nil {
					closed <- err
					return
				}
			}
		}()
	}
	filler := strings.Repeat("x", 2000)
	for i := range 5000 {
		if err := eve.WS.Write(t.Context(), websocket.MessageText, fmt.Appendf(nil, `{"type":"status","room":"lobby","state":{"i":%d,"x":%q}}`, i, filler)); err != nil {
			break
		}
		select {
		case err := <-closed:
			t.Fatalf("a member that reads everything was closed after %d changes of another: %v", i, err)
		default:
		}
	}
	select {
	case err := <-closed:
		t.Fatalf("a member that reads everything was closed: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
}

// TestRoomFullOfStatesCanBeJoined checks that who is in a room can't keep others out by what it says of itself.
func TestRoomFullOfStatesCanBeJoined(t *testing.T) {
	h := open(t, nil)
	filler := strings.Repeat("x", 2030)
	for i := range 530 {
		c := h.dial(fmt.Sprint("u", i))
		c.Send(`{"type":"join","id":1,"room":"lobby","presence":"none","state":{"x":%q}}`, filler)
		c.Next("ack")
	}
	ann := h.dial("ann")
	ann.Send(`{"type":"join","id":1,"room":"lobby"}`)
	o, err := ann.Read()
	if err != nil || o["type"] != "ack" {
		delete(o, "presence")
		t.Fatalf("joining: %v %v", o, err)
	}
}

// TestLargestMessageFitsTheSmallestQueue checks the combination that validation allows: send_queue as large as max_frame.
func TestLargestMessageFitsTheSmallestQueue(t *testing.T) {
	h := open(t, func(p *Policy) { p.Transport.MaxFrame, p.Transport.SendQueue = 4096, 4096 })
	ann, bob := h.dial("ann"), h.dial("bob")
	ann.Join("lobby")
	bob.Send(`{"type":"join","id":1,"room":"lobby","presence":"none"}`)
	bob.Next("ack")
	ann.Next("presence")
	head := `{"type":"publish","room":"lobby","data":"`
	bob.Send("%s", head+strings.Repeat("x", 4096-len(head)-2)+`"}`)
	if o := ann.Next("message", "bye"); o["type"] != "message" {
		t.Errorf("a member was closed over a message of the allowed size: %v", o)
	}
}

// TestJoiningAgainTellsNothingTwice checks that changes in the snapshot of a repeated join are not told afterwards.
func TestJoiningAgainTellsNothingTwice(t *testing.T) {
	h := open(t, func(p *Policy) { p.Coalesce = 300 * time.Millisecond })
	ann, bob := h.dial("ann"), h.dial("bob")
	ann.Send(`{"type":"join","id":1,"room":"lobby","presence":"none"}`)
	ann.Next("ack")
	bob.Join("lobby")
	p := ann.Join("lobby") // now in full
	equal(t, "members", roomstest.Words(p["members"]), []string{"ann", "bob"})
	time.Sleep(600 * time.Millisecond)
	ann.Quiet()
}

// TestPresenceRuleBindsMembers checks that a stricter rule holds for who joined before it.
func TestPresenceRuleBindsMembers(t *testing.T) {
	h := open(t, nil)
	ann := h.dial("ann")
	ann.Join("lobby")
	p := defaultPolicy()
	all, _ := ParsePattern("*")
	p.Rooms = []RoomRule{{Pattern: all, Publish: Members, Presence: wire.PresenceNone}}
	h.bind(p)
	h.dial("bob").Send(`{"type":"join","id":1,"room":"lobby"}`)
	time.Sleep(200 * time.Millisecond)
	ann.Quiet()
}

// TestNewKeyOfALimitKeepsClientsApart checks that open connections are not all counted together under a limit that came with a reload.
func TestNewKeyOfALimitKeepsClientsApart(t *testing.T) {
	h := open(t, nil)
	ann, bob := h.dial("ann"), h.dial("bob")
	ann.Join("lobby")
	bob.Join("lobby")
	ann.Next("presence")
	p := defaultPolicy()
	keys := &limiter{n: 1}
	p.Limits = []Limit{{
		Limit: ratelimit.Limit{Name: "publish", Events: 1, Window: time.Hour}, On: OnPublish, Key: NewKey("{http.vars.client_ip}", true), Limiter: keys,
	}}
	h.bind(p)
	ann.Send(`{"type":"publish","id":1,"room":"lobby"}`)
	ann.Next("ack")
	bob.Next("message")
	bob.Send(`{"type":"publish","id":1,"room":"lobby"}`)
	if o := bob.Next("ack", "error"); o["type"] != "ack" {
		t.Errorf("bob pays for ann: %v; keys %v", o, keys.keys)
	}
}

// TestKeysAreExpandedOnce checks that what a client has sent at the upgrade is no template.
func TestKeysAreExpandedOnce(t *testing.T) {
	k := NewKey("{http.request.header.X-Team}/{rooms.user}", true)
	s := &Session{id: "c1", user: "{rooms.conn}"}
	s.keys.Set(k.Template, []string{"{rooms.room}{rooms.conn}/", ""})
	if got, want := s.key(&k, "lobby"), "{rooms.room}{rooms.conn}/{rooms.conn}"; got != want {
		t.Errorf("key %q, want %q", got, want)
	}
}

// TestJoiningAgainCountsAsStatus checks that a limit on status can't be passed by in the clothes of a join.
func TestJoiningAgainCountsAsStatus(t *testing.T) {
	h := open(t, func(p *Policy) {
		p.Limits = []Limit{{Limit: ratelimit.Limit{Name: "s", Events: 1, Window: time.Hour}, On: OnStatus, Key: NewKey("{rooms.user}", false), Limiter: &limiter{n: 1}}}
	})
	ann := h.dial("ann")
	ann.Join("lobby")
	for i := range 10 {
		ann.Send(`{"type":"join","id":1,"room":"lobby","presence":"none","state":{"n":%d}}`, i)
	}
	ann.Send(`{"type":"ping"}`)
	acks := 0
	for {
		o := ann.Next("ack", "error", "presence", "pong")
		if o["type"] == "ack" {
			acks++
		}
		if o["type"] == "pong" {
			break
		}
	}
	if acks > 1 {
		t.Errorf("%d changes of state under a limit of 1", acks)
	}
}

// TestClosingWithoutACode is what ws.close() in a browser does.
func TestClosingWithoutACode(t *testing.T) {
	h := open(t, func(p *Policy) { p.Grace = time.Minute })
	ann, bob := h.dial("ann"), h.dial("bob")
	ann.Join("lobby")
	bob.Join("lobby")
	ann.Next("presence")
	_ = bob.WS.Close(websocket.StatusNoStatusRcvd, "")
	time.Sleep(300 * time.Millisecond)
	ann.Send(`{"type":"ping"}`)
	if o := ann.Next("presence", "pong"); o["type"] == "pong" {
		t.Error("who has closed on purpose is still there")
	}
}

// TestRefusingAfterCloseLeavesNothing refuses a client while the hub goes away.
func TestRefusingAfterCloseLeavesNothing(t *testing.T) {
	h := open(t, nil)
	e := h.endpoint
	refused := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !e.Accepting() {
			t.Error("not accepting")
		}
		_ = h.Close(exiting) // meanwhile
		_ = e.Refuse(w, r, wire.CloseUnauthorized, &wire.Refusal{Error: wire.Error{Code: wire.Unauthorized}})
		close(refused)
	}))
	defer srv.Close()
	c, _, err := websocket.Dial(t.Context(), srv.URL, &websocket.DialOptions{Subprotocols: []string{"rooms.v1"}})
	if err != nil {
		return
	}
	defer c.CloseNow()
	<-refused
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	if _, _, err := c.Read(ctx); err != nil && ctx.Err() != nil {
		t.Error("a refused client of a closed hub is neither told nor closed")
	}
}

// TestNothingOfARoomOutsideOfIt publishes from many while one joins and leaves: nothing of the room before the join's ack or after the leave's.
func TestNothingOfARoomOutsideOfIt(t *testing.T) {
	h := open(t, func(p *Policy) { p.Coalesce = time.Millisecond })
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		c := h.dial(fmt.Sprint("p", i))
		c.Join("lobby")
		wg.Go(func() {
			for {
				if _, _, err := c.WS.Read(context.Background()); err != nil {
					return
				}
			}
		})
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					_ = c.WS.CloseNow()
					return
				default:
				}
				_ = c.WS.Write(context.Background(), websocket.MessageText, fmt.Appendf(nil, `{"type":"publish","id":1,"room":"lobby","data":%d}`, n))
				_ = c.WS.Write(context.Background(), websocket.MessageText, fmt.Appendf(nil, `{"type":"status","room":"lobby","status":"s%d"}`, n))
				time.Sleep(200 * time.Microsecond)
			}
		})
	}
	ann := h.dial("ann")
	for range 300 {
		ann.Send(`{"type":"publish","id":"early","room":"lobby"}`)
		ann.Refused("not_joined")
		ann.Send(`{"type":"join","id":"j","room":"lobby"}`)
		ann.Send(`{"type":"publish","id":"p","room":"lobby","echo":true}`)
		ann.Send(`{"type":"leave","id":"l","room":"lobby"}`)
		if o := ann.Next("ack"); o["id"] != "j" {
			t.Fatal(o)
		}
		published := false
		for {
			o := ann.Next("ack", "message", "presence")
			published = published || o["id"] == "p"
			if o["id"] == "l" {
				break
			}
		}
		if !published {
			t.Fatal("the ack of a publish came after that of the leave")
		}
		ann.Quiet()
	}
	close(stop)
	wg.Wait()
}

// TestLastPlaceIsTakenOnce lets many join a room for three at once.
func TestLastPlaceIsTakenOnce(t *testing.T) {
	h := open(t, func(p *Policy) {
		all, _ := ParsePattern("*")
		p.Rooms = []RoomRule{{Pattern: all, Publish: Members, Presence: wire.PresenceFull, MaxMembers: 3}}
	})
	for round := range 10 {
		var wg sync.WaitGroup
		var in atomic.Int32
		for i := range 12 {
			c := h.dial(fmt.Sprint("u", i))
			wg.Go(func() {
				c.Send(`{"type":"join","id":1,"room":"r%d","presence":"none"}`, round)
				if o := c.Next("ack", "error"); o["type"] == "ack" {
					in.Add(1)
				}
			})
		}
		wg.Wait()
		if n := in.Load(); n != 3 {
			t.Errorf("%d are in", n)
		}
	}
}

// TestSizes checks the borders of max_frame, whole and in fragments.
func TestSizes(t *testing.T) {
	h := open(t, nil)
	const limit = 4 << 10
	c := h.dial("ann")
	for _, tc := range []struct {
		size int
		want string
	}{{limit, "pong"}, {limit + 1, "error"}, {2 * limit, "error"}, {2*limit + 1, "bye"}} {
		head := `{"type":"ping","x":"`
		body := head + strings.Repeat("x", tc.size-len(head)-2) + `"}`
		for _, fragments := range []int{1, 700} {
			if fragments == 1 {
				c.Send("%s", body)
			} else {
				w, err := c.WS.Writer(t.Context(), websocket.MessageText)
				if err != nil {
					t.Fatal(err)
				}
				for i := 0; i < len(body); i += len(body)/fragments + 1 {
					_, _ = w.Write([]byte(body[i:min(len(body), i+len(body)/fragments+1)]))
				}
				_ = w.Close()
			}
			o := c.Next("pong", "error", "bye")
			if o["type"] != tc.want {
				t.Errorf("%d bytes in %d: %v", tc.size, fragments, o)
			}
			if tc.want == "bye" {
				equal(t, "code", c.Closed(), 4004)
				c = h.dial("ann")
			}
		}
	}
	c.Send(`{"type":"ping","x":%s}`, strings.Repeat("[", 4000))
	c.Refused("bad_request")
}

// TestChaos comes, goes, stalls, rebinds and closes, all at once.
func TestChaos(t *testing.T) {
	h := open(t, func(p *Policy) {
		p.Coalesce = time.Millisecond
		p.Grace = time.Millisecond
		p.Transport.SendQueue = 32 << 10
		p.Transport.WriteTimeout = 100 * time.Millisecond
		p.MaxConnections = 60
	})
	h.linger.Store(int64(time.Millisecond))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			p := defaultPolicy()
			p.Grace, p.Coalesce = time.Duration(i%3)*time.Millisecond, time.Duration(i%4)*time.Millisecond
			p.CloseOnRebind = i%10 == 0
			p.MaxAge = time.Duration(i%2) * 100 * time.Millisecond
			p.Transport.SendQueue = 32 << 10
			p.Transport.WriteTimeout = 100 * time.Millisecond
			h.bind(p)
			h.linger.Store(int64(time.Millisecond))
		}
	})
	for i := range 24 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(7, uint64(i)))
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, _, err := websocket.Dial(context.Background(), fmt.Sprintf("%s?user=u%d&room=r1", h.server.URL, i%10), nil)
				if err != nil {
					time.Sleep(5 * time.Millisecond)
					continue
				}
				done := make(chan struct{})
				if i%4 != 0 { // a quarter never reads
					go func() {
						defer close(done)
						for {
							if _, _, err := c.Read(context.Background()); err != nil {
								return
							}
						}
					}()
				} else {
					close(done)
				}
				for range r.IntN(60) {
					f := []string{`{"type":"join","id":1,"room":"r%d"}`, `{"type":"publish","id":2,"room":"r%d","echo":true,"data":"` + strings.Repeat("x", 1000) + `"}`,
						`{"type":"leave","id":3,"room":"r%d"}`, `{"type":"status","room":"r%d","status":"a"}`}[r.IntN(4)]
					ctx, cancel := context.WithTimeout(context.Background(), time.Second)
					err := c.Write(ctx, websocket.MessageText, fmt.Appendf(nil, f, r.IntN(3)))
					cancel()
					if err != nil {
						break
					}
				}
				if r.IntN(2) == 0 {
					_ = c.CloseNow()
				} else {
					_ = c.Write(context.Background(), websocket.MessageText, []byte(`{"type":"leave","room":"r1"}`))
					_ = c.CloseNow()
				}
				<-done
			}
		})
	}
	time.Sleep(4 * time.Second)
	closed := make(chan struct{})
	go func() {
		_ = h.Close(exiting)
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		t.Error("the hub does not close")
	}
	close(stop)
	wg.Wait()
	if n := h.Connections(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
	if n, _ := h.backend.Store.OnlineCount(context.Background()); n != 0 {
		t.Logf("%d users online in a closed store", n)
	}
}
