package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// speech is what a server understands. Its methods are called by the connection's own goroutine, except publish, which any may call.
type speech interface {
	// request returns the path to ask for, and lines of the request's head.
	request(path string) (target, head string)
	// hello is sent when the connection is open.
	hello(c *conn) error
	// answer handles a text that is no delivered message.
	answer(c *conn, text []byte) error
	// appendPublish appends a request that sends payload, which can stand in a JSON string, to a room.
	appendPublish(dst []byte, room string, payload []byte) []byte
}

// speeches are known by the name in -speech.
var speeches = map[string]speech{"rooms": rooms{}, "socket.io": socketIO{}}

// rooms is rooms.v1. Joins have their number as id, publishes "p".
type rooms struct{}

func (rooms) request(path string) (target, head string) {
	return path, "Sec-WebSocket-Protocol: rooms.v1\r\n"
}

func (rooms) hello(c *conn) error {
	var b []byte
	for i, room := range c.rooms {
		b = appendFrame(b, opText, fmt.Appendf(nil, `{"type":"join","id":%d,"room":%q,"presence":%q}`, i, room, c.presence))
	}
	return c.write(b)
}

func (rooms) answer(c *conn, text []byte) error {
	switch {
	case bytes.HasPrefix(text, []byte(`{"type":"ack","id":"p"`)):
		// It has been sent on; whether it arrives is counted.
	case bytes.HasPrefix(text, []byte(`{"type":"ack"`)):
		c.entered()
	case bytes.HasPrefix(text, []byte(`{"type":"error","id":"p"`)):
		c.meter.refused.Add(1)
	case bytes.HasPrefix(text, []byte(`{"type":"error"`)), bytes.HasPrefix(text, []byte(`{"type":"bye"`)):
		return errors.New(string(text))
	}
	return nil
}

func (rooms) appendPublish(dst []byte, room string, payload []byte) []byte {
	dst = append(dst, `{"type":"publish","id":"p","room":`...)
	dst = strconv.AppendQuote(dst, room)
	dst = append(dst, `,"data":"`...)
	dst = append(dst, payload...)
	return append(dst, `"}`...)
}

// socketIO is Socket.IO 4, over WebSocket from the start: the protocol of Engine.IO 4, as socketio/server.js answers it.
type socketIO struct{}

func (socketIO) request(string) (target, head string) {
	return "/socket.io/?EIO=4&transport=websocket", ""
}

func (socketIO) hello(*conn) error { return nil }

func (socketIO) answer(c *conn, text []byte) error {
	switch {
	case bytes.HasPrefix(text, []byte("0")): // Engine.IO is open
		return c.send([]byte("40"))
	case bytes.HasPrefix(text, []byte("2")): // ping
		return c.send([]byte("3"))
	case bytes.HasPrefix(text, []byte("40")): // Socket.IO is open
		for i, room := range c.rooms {
			if err := c.send(fmt.Appendf(nil, `42%d["join",%q,%q]`, i, room, c.presence)); err != nil {
				return err
			}
		}
	case bytes.HasPrefix(text, []byte("43")) && !bytes.HasPrefix(text, []byte("43999999[")):
		c.entered()
	case bytes.HasPrefix(text, []byte("44")), bytes.HasPrefix(text, []byte("41")): // refused, sent away
		return errors.New(string(text))
	}
	return nil
}

func (socketIO) appendPublish(dst []byte, room string, payload []byte) []byte {
	dst = append(dst, `42999999["msg",`...)
	dst = strconv.AppendQuote(dst, room)
	dst = append(dst, `,"`...)
	dst = append(dst, payload...)
	return append(dst, `"]`...)
}
