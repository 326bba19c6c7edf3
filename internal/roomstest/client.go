// Package roomstest is a client of rooms.v1 for tests, which expects frames one by one.
package roomstest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// Patience is how long a client waits for what must happen. It is never waited out when things work.
const Patience = 30 * time.Second

// Object is a decoded frame.
type Object = map[string]any

// Client is a connection. It belongs to one goroutine.
type Client struct {
	Conn string // its id, from the welcome
	User string
	WS   *websocket.Conn

	t testing.TB
}

// Dial connects, and expects a welcome.
func Dial(t testing.TB, url string, header http.Header) *Client {
	t.Helper()
	return Connect(t, url, header).welcomed()
}

// DialWith is Dial with an HTTP client of the caller's.
func DialWith(t testing.TB, url string, client *http.Client) *Client {
	t.Helper()
	return connect(t, url, &websocket.DialOptions{HTTPClient: client}).welcomed()
}

func (c *Client) welcomed() *Client {
	c.t.Helper()
	c.Welcome()
	return c
}

// Welcome returns the next frame, which must be a welcome.
func (c *Client) Welcome() Object {
	c.t.Helper()
	welcome := c.Next("welcome")
	c.Conn, c.User = welcome["conn"].(string), welcome["user"].(string)
	return welcome
}

// Connect connects and expects nothing yet. protocols are offered besides our own.
func Connect(t testing.TB, url string, header http.Header, protocols ...string) *Client {
	t.Helper()
	return connect(t, url, &websocket.DialOptions{HTTPHeader: header, Subprotocols: protocols})
}

func connect(t testing.TB, url string, options *websocket.DialOptions) *Client {
	t.Helper()
	options.Subprotocols = slices.Concat([]string{"rooms.v1"}, options.Subprotocols)
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	c, _, err := websocket.Dial(ctx, url, options)
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(-1)
	t.Cleanup(func() { _ = c.CloseNow() })
	return &Client{t: t, WS: c}
}

// Send sends one frame.
func (c *Client) Send(format string, args ...any) {
	c.t.Helper()
	if err := c.WS.Write(c.t.Context(), websocket.MessageText, fmt.Appendf(nil, format, args...)); err != nil {
		c.t.Fatal(err)
	}
}

// Read returns the next frame of any type, or the error that ended the connection.
func (c *Client) Read() (Object, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), Patience)
	defer cancel()
	_, b, err := c.WS.Read(ctx)
	if err != nil {
		return nil, err
	}
	var o Object
	if err := json.Unmarshal(b, &o); err != nil {
		c.t.Fatalf("frame %s: %v", b, err)
	}
	return o, nil
}

// Next returns the next frame, which must be of one of these types.
func (c *Client) Next(types ...string) Object {
	c.t.Helper()
	o, err := c.Read()
	if err != nil {
		c.t.Fatalf("waiting for %v: %v", types, err)
	}
	if !slices.Contains(types, o["type"].(string)) {
		c.t.Fatalf("got %v, want a frame of type %v", o, types)
	}
	return o
}

// Join joins a room and returns the presence of the ack.
func (c *Client) Join(room string) Object {
	c.t.Helper()
	c.Send(`{"type":"join","id":"j","room":%q}`, room)
	presence, _ := c.Next("ack")["presence"].(Object)
	return presence
}

// Quiet checks that nothing has come but the answer to a ping.
func (c *Client) Quiet() {
	c.t.Helper()
	c.Send(`{"type":"ping"}`)
	c.Next("pong")
}

// Refused returns the next frame, which must be an error with that code.
func (c *Client) Refused(code string) Object {
	c.t.Helper()
	o := c.Next("error")
	if o["code"] != code {
		c.t.Fatalf("got %v, want error %s", o, code)
	}
	return o
}

// Closed reads on to the end and returns the close code.
func (c *Client) Closed() int {
	c.t.Helper()
	for {
		if _, err := c.Read(); err != nil {
			code := websocket.CloseStatus(err)
			if code < 0 {
				c.t.Fatalf("closed without a close frame: %v", err)
			}
			return int(code)
		}
	}
}

// Events returns the next presence frame's events in words, like "join ann" and "leave ann left".
func (c *Client) Events() []string {
	c.t.Helper()
	return Words(c.Next("presence")["events"])
}

// Words returns a list of members or events in words.
func Words(list any) []string {
	var words []string
	for _, m := range list.([]any) {
		m := m.(Object)
		s := m["user"].(string)
		if op, ok := m["op"]; ok {
			s = fmt.Sprint(op, " ", s)
		}
		if reason, ok := m["reason"]; ok {
			s += fmt.Sprint(" ", reason)
		}
		words = append(words, s)
	}
	return words
}
