package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"sync"
	"testing"
)

// TestSocketIO speaks with a server that knows as much of Socket.IO as socketio/server.js: what one sends, all others get.
func TestSocketIO(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := new(socketServer)
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(nc)
		}
	}()
	for _, o := range []options{{Mode: "fanout", Rooms: 2}, {Mode: "join"}} {
		o = small(o)
		o.URL, o.Speech = "ws://"+l.Addr().String(), "socket.io"
		if err := o.validate(); err != nil {
			t.Fatal(err)
		}
		f, err := measure(t.Context(), &o)
		if err != nil {
			t.Fatal(err)
		}
		if o.Mode == "fanout" {
			f.has(t, delivered...)
		} else {
			f.has(t, "joins_per_s")
		}
	}
}

type socketServer struct {
	mu    sync.Mutex
	conns []net.Conn // guarded by mu; written to with it held
}

func (s *socketServer) serve(nc net.Conn) {
	defer nc.Close()
	r := bufio.NewReader(nc)
	if upgraded(nc, r) != nil {
		return
	}
	say := func(to net.Conn, text string) { _, _ = to.Write(serverFrame([]byte(text))) }
	say(nc, `0{"sid":"x","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`)
	alive := false
	for {
		text, err := clientFrame(r)
		if err != nil {
			return
		}
		s.mu.Lock()
		switch _, data, _ := bytes.Cut(text, []byte(`","`)); {
		case string(text) == "40":
			say(nc, "2")
			say(nc, `40{"sid":"y"}`)
			s.conns = append(s.conns, nc)
		case string(text) == "3":
			alive = true
		case bytes.HasPrefix(text, []byte(`42999999["msg",`)):
			for _, o := range s.conns {
				if o != nc {
					say(o, `42["msg","`+string(bytes.TrimPrefix(data, []byte(`bench0-0","`))))
				}
			}
			say(nc, "43999999[]")
		case bytes.HasPrefix(text, []byte("42")) && bytes.Contains(text, []byte(`["join","bench`)) && alive:
			number, _, _ := bytes.Cut(text[2:], []byte("["))
			say(nc, fmt.Sprintf("43%s[]", number))
		default:
			say(nc, `44{"message":"not understood"}`)
		}
		s.mu.Unlock()
	}
}
