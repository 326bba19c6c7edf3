package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
)

// client is one connection, in one room. It reads all the time and keeps what it was told; what may never happen, whatever fails, it keeps
// as a complaint. Its methods may be called from any goroutine, one request at a time.
type client struct {
	user, room string
	node       *caddytest.Caddy
	conn       string // from the welcome
	since      time.Time
	ws         *websocket.Conn
	ended      chan struct{} // closed when nothing more is read

	mu         sync.Mutex
	asked      int
	answers    map[string]chan frame
	view       map[string]bool // users in the room, by the snapshot and the events
	pseq       uint64
	events     []event
	gaps       []time.Time
	messages   []message
	degraded   int // answers
	complaints []string
	refused    []refusal
	bye        *frame
	byeAt      time.Time
	reason     error // why nothing more is read
}

// event is what a client was told of a member.
type event struct {
	at               time.Time
	op, user, reason string
}

func (e event) String() string {
	if e.reason == "" {
		return e.op + " " + e.user
	}
	return e.op + " " + e.user + " " + e.reason
}

// message is what a client was sent.
type message struct {
	at   time.Time
	from string
	data string
}

// refusal is an error that a client was sent.
type refusal struct {
	Code       string
	Suppressed int
}

// frame is any frame from the server.
type frame struct {
	Type        string
	ID          string
	Conn        string
	Room        string
	Code        any
	Reason      string
	Degraded    bool
	PSeq        uint64
	Count       int
	Suppressed  int
	ReconnectIn int `json:"reconnect_in"`
	Events      []struct{ Op, User, Reason string }
	Presence    *snapshot
	Data        json.RawMessage
	From        *struct{ User string }
}

type snapshot struct {
	PSeq    uint64
	Count   int
	Members []struct {
		User  string
		Conns int
	}
	Next *string
}

// dial connects user to the instance behind url and joins room.
func dial(ctx context.Context, node *caddytest.Caddy, addr, user, room string) (*client, error) {
	c := &client{
		user: user, room: room, node: node,
		ended: make(chan struct{}), answers: map[string]chan frame{}, view: map[string]bool{},
	}
	var err error
	c.ws, _, err = websocket.Dial(ctx, "ws://"+addr+"/ws?user="+user, &websocket.DialOptions{
		Subprotocols: []string{"rooms.v1"}, HTTPClient: dialers[len(user)%len(dialers)],
	})
	if err != nil {
		return nil, fmt.Errorf("dialing as %s: %w", user, err)
	}
	c.ws.SetReadLimit(-1)
	if err := c.begin(ctx); err != nil {
		c.drop()
		return nil, err
	}
	return c, nil
}

// begin waits for the welcome and joins the room.
func (c *client) begin(ctx context.Context) error {
	_, b, err := c.ws.Read(ctx)
	if err != nil {
		return fmt.Errorf("waiting for the welcome of %s: %w", c.user, err)
	}
	var welcome frame
	if err := json.Unmarshal(b, &welcome); err != nil || welcome.Type != "welcome" {
		var bye frame
		if _, b, err := c.ws.Read(ctx); err == nil && json.Unmarshal(b, &bye) == nil && bye.Type == "bye" {
			_, _, _ = c.ws.Read(ctx) // the close frame
			return &laterError{int(bye.Code.(float64)), time.Duration(bye.ReconnectIn) * time.Millisecond}
		}
		return fmt.Errorf("%s was welcomed with %s", c.user, b)
	}
	c.conn, c.since = welcome.Conn, time.Now()
	go c.read()
	if _, err := c.ask(ctx, "join", `"room":"`+c.room+`"`); err != nil {
		return fmt.Errorf("joining %s as %s: %w", c.room, c.user, err)
	}
	return nil
}

// laterError is the error of a client that was told to come again.
type laterError struct {
	code int
	in   time.Duration
}

func (e *laterError) Error() string {
	return fmt.Sprintf("closed with %d, come again in %s", e.code, e.in)
}

// dialers dial from several addresses, since one has too few ports for connections that end and come again.
var dialers = func() (clients []*http.Client) {
	for i := range 8 {
		d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i))}}
		clients = append(clients, &http.Client{Transport: &http.Transport{DialContext: d.DialContext}})
	}
	return clients
}()

// ask sends a request and returns its answer.
func (c *client) ask(ctx context.Context, what, fields string) (frame, error) {
	answer := make(chan frame, 1)
	c.mu.Lock()
	c.asked++
	id := fmt.Sprint(c.asked)
	c.answers[id] = answer
	c.mu.Unlock()
	err := c.ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"type":%q,"id":%q,%s}`, what, id, fields))
	if err != nil {
		return frame{}, err
	}
	select {
	case f := <-answer:
		if f.Type == "error" {
			return f, fmt.Errorf("refused: %v", f.Code)
		}
		return f, nil
	case <-c.ended:
		return frame{}, fmt.Errorf("%s: connection ended", what)
	case <-ctx.Done():
		return frame{}, fmt.Errorf("%s: no answer: %w", what, ctx.Err())
	}
}

// say publishes a message.
func (c *client) say(ctx context.Context, text string) (frame, error) {
	return c.ask(ctx, "publish", fmt.Sprintf(`"room":%q,"data":%q`, c.room, text))
}

func (c *client) read() {
	defer close(c.ended)
	for {
		_, b, err := c.ws.Read(context.Background())
		if err != nil {
			c.mu.Lock()
			c.reason = err
			c.mu.Unlock()
			return
		}
		var f frame
		if err := json.Unmarshal(b, &f); err != nil {
			c.mu.Lock()
			c.complain("frame %s: %v", b, err)
			c.mu.Unlock()
			continue
		}
		c.take(f)
	}
}

// complain keeps what may never happen. mu is held.
func (c *client) complain(format string, args ...any) {
	if len(c.complaints) < 10 {
		c.complaints = append(c.complaints, c.user+" in "+c.room+": "+fmt.Sprintf(format, args...))
	}
}

func (c *client) take(f frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.Degraded {
		c.degraded++
	}
	switch f.Type {
	case "presence":
		if f.Room == c.room { // some are in another one for a moment
			c.follow(f)
		}
	case "message":
		m := message{at: time.Now(), data: string(f.Data)}
		if f.From != nil {
			m.from = f.From.User
		}
		c.messages = append(c.messages, m)
	case "gap":
		if f.Reason != "bus" {
			c.complain("gap with reason %q", f.Reason)
		}
		c.gaps = append(c.gaps, time.Now())
	case "ack":
		if f.Presence != nil && len(c.view) == 0 { // of the join; later ones are read by who has asked
			c.pseq = f.Presence.PSeq
			for _, m := range f.Presence.Members {
				c.view[m.User] = true
			}
		}
	case "error":
		code, _ := f.Code.(string)
		c.refused = append(c.refused, refusal{code, f.Suppressed})
	case "bye":
		c.bye, c.byeAt = &f, time.Now()
	}
	if answer := c.answers[f.ID]; answer != nil {
		delete(c.answers, f.ID)
		answer <- f
	}
}

// follow takes a presence frame: each change exactly once, in order, nothing missing. mu is held.
func (c *client) follow(f frame) {
	if f.PSeq <= c.pseq {
		c.complain("pseq %d after %d", f.PSeq, c.pseq)
	}
	c.pseq = f.PSeq
	for _, e := range f.Events {
		c.events = append(c.events, event{time.Now(), e.Op, e.User, e.Reason})
		switch in := c.view[e.User]; {
		case e.Op == "join" && in:
			c.complain("%s joined, and was in", e.User)
		case e.Op != "join" && !in:
			c.complain("%s of %s, who was not in", e.Op, e.User)
		case e.Op == "join":
			c.view[e.User] = true
		case e.Op == "leave":
			delete(c.view, e.User)
		}
	}
	if f.Count != len(c.view) {
		c.complain("a frame counts %d members, its events make %d: %v", f.Count, len(c.view), slices.Sorted(maps.Keys(c.view)))
	}
}

// members asks the server who is in the room, and returns how many connections each user has.
func (c *client) members(ctx context.Context) (conns map[string]int, degraded bool, err error) {
	conns = map[string]int{}
	for cursor := ""; ; {
		f, err := c.ask(ctx, "members", fmt.Sprintf(`"room":%q,"cursor":%q`, c.room, cursor))
		if err != nil {
			return nil, false, err
		}
		degraded = degraded || f.Degraded
		for _, m := range f.Presence.Members {
			conns[m.User] = m.Conns
		}
		if f.Presence.Next == nil {
			if f.Presence.Count != len(conns) {
				return nil, false, fmt.Errorf("an answer counts %d members, and lists %d", f.Presence.Count, len(conns))
			}
			return conns, degraded, nil
		}
		cursor = *f.Presence.Next
	}
}

// told returns the presence events since the last call.
func (c *client) told() []event {
	c.mu.Lock()
	defer c.mu.Unlock()
	events := c.events
	c.events = nil
	return events
}

// drop ends the connection without a word: no close frame.
func (c *client) drop() { _ = c.ws.CloseNow() }

// leave ends the connection with code.
func (c *client) leave(code websocket.StatusCode) { _ = c.ws.Close(code, "") }

// each calls f for 0 to n-1, 64 at a time.
func each(n int, f func(i int)) {
	var wg sync.WaitGroup
	for worker := range 64 {
		wg.Go(func() {
			for i := worker; i < n; i += 64 {
				f(i)
			}
		})
	}
	wg.Wait()
}
