package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// patience is how long an answer is waited for, and a server to start.
const patience = 30 * time.Second

// readBuffer holds the frames of one read: some messages that a server has merged.
const readBuffer = 4 << 10

// conn is one client: a socket, a goroutine, and a buffer.
type conn struct {
	nc       net.Conn
	meter    *meter
	speech   speech
	rooms    []string // that it joins
	presence string
	deflate  bool // the server has agreed to permessage-deflate

	joined  chan error // gets one value: nil when all rooms are joined
	closing atomic.Bool

	in      frames // owned by read
	entries int    // owned by read: rooms that are joined

	mu  sync.Mutex
	out []byte // guarded by mu
}

// dial opens a connection as o says, to be read by read.
func dial(ctx context.Context, o *options, m *meter) (*conn, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil, err
	}
	// Closing must not leave ports behind that are not free for a minute: there are some 28,000.
	_ = nc.(*net.TCPConn).SetLinger(0)
	if u.Scheme == "wss" {
		nc = tls.Client(nc, &tls.Config{ServerName: u.Hostname(), InsecureSkipVerify: true}) //nolint:gosec // it measures, and has no secrets
	}
	c := &conn{nc: nc, meter: m, speech: speeches[o.Speech], presence: o.Presence, joined: make(chan error, 1)}
	c.in.buf = make([]byte, readBuffer)
	if err := c.upgrade(u, o.Deflate); err != nil {
		_ = nc.Close()
		return nil, err
	}
	return c, nil
}

// upgrade asks for a WebSocket. What has come behind the answer is left in c.in.
func (c *conn) upgrade(u *url.URL, deflate bool) error {
	if err := c.nc.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	target, head := c.speech.request(u.RequestURI())
	if deflate {
		head += "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
	}
	_, err := fmt.Fprintf(c.nc, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: Y2FkZHlyb29tcy1iZW5jaA==\r\n%s\r\n", target, u.Host, head)
	if err != nil {
		return err
	}
	for {
		if err := c.in.fill(c.nc); err != nil {
			return fmt.Errorf("upgrade: %w", err)
		}
		answer, rest, whole := bytes.Cut(c.in.buf[:c.in.end], []byte("\r\n\r\n"))
		if !whole {
			if c.in.end == len(c.in.buf) {
				return errors.New("upgrade: the answer's head is too long")
			}
			continue
		}
		status, fields, _ := strings.Cut(string(answer), "\r\n")
		if !strings.HasPrefix(status, "HTTP/1.1 101 ") {
			return fmt.Errorf("upgrade: %s", status)
		}
		c.deflate = strings.Contains(strings.ToLower(fields), "permessage-deflate")
		c.in.start = c.in.end - len(rest)
		return c.nc.SetDeadline(time.Time{})
	}
}

// read handles what comes, until the connection ends or stall stops it.
func (c *conn) read() {
	err := c.speech.hello(c)
	for err == nil {
		now := time.Since(epoch)
		for f, ok := c.in.next(); ok && err == nil; f, ok = c.in.next() {
			err = c.handle(f, now)
		}
		if err == nil {
			err = c.in.fill(c.nc)
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	if !c.closing.Load() {
		c.meter.ended.Add(1)
	}
	select {
	case c.joined <- err:
	default: // it has joined before
	}
	_ = c.nc.Close()
}

func (c *conn) handle(f frame, now time.Duration) error {
	switch f.op {
	case opText:
		if f.deflated {
			c.meter.count(f)
		} else if !c.meter.deliver(f, now) {
			return c.speech.answer(c, f.payload)
		}
	case opPing:
		return c.write(appendFrame(nil, opPong, f.payload))
	case opClose:
		if len(f.payload) < 2 {
			return errors.New("closed by the server")
		}
		return fmt.Errorf("closed by the server: %d %s", binary.BigEndian.Uint16(f.payload), f.payload[2:])
	}
	return nil
}

// entered counts a room that is joined. Only read's goroutine may call it.
func (c *conn) entered() {
	if c.entries++; c.entries == len(c.rooms) {
		c.joined <- nil
	}
}

// publish sends a message to the first of its rooms. Any goroutine may call it.
func (c *conn) publish(payload []byte) error {
	return c.send(c.speech.appendPublish(make([]byte, 0, len(payload)+128), c.rooms[0], payload))
}

// send sends a text.
func (c *conn) send(text []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = appendFrame(c.out[:0], opText, text)
	_, err := c.nc.Write(c.out)
	return err
}

// write sends frames.
func (c *conn) write(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.nc.Write(b)
	return err
}

// stall makes the client one that does not read any more, and stays.
func (c *conn) stall() error { return c.nc.SetReadDeadline(time.Unix(1, 0)) }

func (c *conn) close() {
	c.closing.Store(true)
	_ = c.nc.Close()
}
