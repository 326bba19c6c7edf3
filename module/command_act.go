package module

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"time"
)

// post sends a document to something in the hub that is meant, and prints the answer as JSON or else decodes it.
func (c *console) post(ctx context.Context, what string, body, answer any) error {
	path, err := c.hubPath(ctx, what)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // data is to arrive as it was written
	if err := e.Encode(body); err != nil {
		return err
	}
	doc, err := c.api.call(ctx, http.MethodPost, path, b.Bytes())
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(doc)
	}
	return decodeAnswer(doc, answer)
}

// removed is how many connections were closed or taken out of a room, on the instances that have said so.
type removed struct {
	Connections int64 `json:"connections"`
	Degraded    bool  `json:"degraded"`
}

// removed says what was done.
func (c *console) removed(what string, r removed) error {
	if r.Degraded {
		c.note("Not all instances have answered, or told Redis: connections may stay, or be shown")
	}
	return c.printf("%s: %s\n", what, counted(r.Connections, "connection"))
}

// disconnect closes all connections of a user.
func (c *console) disconnect(ctx context.Context, user string) error {
	var answer removed
	err := c.post(ctx, "disconnect", struct {
		User string `json:"user"`
	}{user}, &answer)
	if err != nil || c.json {
		return err
	}
	return c.removed(visibleName(user)+" is disconnected", answer)
}

// kick takes a user out of a room.
func (c *console) kick(ctx context.Context, user, room string) error {
	if room == "" {
		return errors.New("--room is empty: without it, the user is disconnected")
	}
	var answer removed
	err := c.post(ctx, "kick", struct {
		Room string `json:"room"`
		User string `json:"user"`
	}{room, user}, &answer)
	if err != nil || c.json {
		return err
	}
	return c.removed(visibleName(user)+" is taken out of "+visibleName(room), answer)
}

// publish sends a message. data is JSON, or - for what standard input has.
func (c *console) publish(ctx context.Context, room, data, event string) error {
	from := "DATA"
	if data == "-" {
		from = "standard input"
		b, err := io.ReadAll(c.in)
		if err != nil {
			return fmt.Errorf("reading standard input: %w", err)
		}
		data = string(b)
	}
	var raw json.RawMessage
	if err := json.Unmarshal([]byte(data), &raw); err != nil {
		return fmt.Errorf(`%s is not JSON: %w; a string has quotes of its own, as in '"hello"'`, from, err)
	}
	var answer struct {
		Degraded bool `json:"degraded"`
	}
	err := c.post(ctx, "publish", struct {
		Room  string          `json:"room"`
		Event string          `json:"event,omitempty"`
		Data  json.RawMessage `json:"data"`
	}{room, event, raw}, &answer)
	if err != nil || c.json {
		return err
	}
	if answer.Degraded {
		c.note("Redis is out of reach: members on other instances will miss it")
	}
	return c.printf("published to %s\n", visibleName(room))
}

// tail prints messages until the process is interrupted, which is no error, or the server ends the stream, which is one.
func (c *console) tail(ctx context.Context, room string) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	err := c.follow(ctx, room)
	if ctx.Err() != nil {
		return nil // whatever it is, it is because of the interrupt
	}
	return err
}

func (c *console) follow(ctx context.Context, room string) error {
	path, err := c.hubPath(ctx, "tail", room)
	if err != nil {
		return err
	}
	resp, err := c.api.open(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	c.note("messages of %s, until interrupted:", visibleName(room))
	for lines := bufio.NewReader(resp.Body); ; {
		line, err := lines.ReadBytes('\n')
		if line = bytes.TrimSpace(line); len(line) > 0 && err == nil {
			err = c.printFrame(line)
		}
		if errors.Is(err, io.EOF) {
			return errors.New("the server has ended the stream: it stops, or a reload has removed the hub")
		}
		if err != nil {
			return err
		}
	}
}

// printFrame prints one line of a tail.
func (c *console) printFrame(line []byte) error {
	if c.json {
		return c.printJSON(line)
	}
	var frame struct {
		Type   string          `json:"type"`
		Event  string          `json:"event"`
		Reason string          `json:"reason"`
		Data   json.RawMessage `json:"data"`
		From   *struct {
			User string `json:"user"`
		} `json:"from"`
		TS int64 `json:"ts"` // Unix milliseconds
	}
	if err := decodeAnswer(line, &frame); err != nil {
		return err
	}
	switch frame.Type {
	case "message":
		user := "-"
		if frame.From != nil {
			user = visibleName(frame.From.User)
		}
		return c.printf("%s %s %s %s\n", time.UnixMilli(frame.TS).Format(time.TimeOnly), visibleName(frame.Event), user, visibleField(frame.Data))
	case "gap":
		return c.printf("--- messages may be missing (%s)\n", orDash(frame.Reason))
	default:
		return c.printf("--- %s\n", orDash(frame.Type))
	}
}
