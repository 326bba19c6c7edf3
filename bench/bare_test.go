package main

import (
	"net"
	"slices"
	"testing"
	"time"
)

// writes is a connection that keeps what each call has written.
type writes struct {
	net.Conn
	texts chan string
}

func (w writes) Write(b []byte) (int, error) {
	w.texts <- string(b)
	return len(b), nil
}

func TestBareMerges(t *testing.T) {
	for merge, want := range map[int][]string{1: {"a", "b", "c", "d", "e"}, 2: {"ab", "cd", "e"}, 16: {"abcde"}} {
		b := newBare(merge)
		w := writes{texts: make(chan string, 5)}
		b.join(w)
		for _, text := range []string{"a", "b", "c", "d", "e"} {
			b.messages <- []byte(text)
		}
		stop := make(chan struct{})
		go b.loop(stop)
		var got []string
		for range want {
			got = append(got, <-w.texts)
		}
		close(stop)
		if !slices.Equal(got, want) {
			t.Errorf("merging up to %d, it wrote %q, want %q", merge, got, want)
		}
	}
}

// TestEnded counts clients whose connections a server ends.
func TestEnded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b := newBare(1)
	go b.serve(l)
	go func() {
		for {
			b.mu.Lock()
			members := b.members
			b.mu.Unlock()
			if len(members) == 10 { // who has had an ack before
				for _, nc := range members {
					nc.Close()
				}
				return
			}
			<-time.After(5 * time.Millisecond)
		}
	}()
	o := small(options{Mode: "idle"})
	o.URL, o.Speech, o.Time = "ws://"+l.Addr().String(), "rooms", 2*time.Second
	if err := o.validate(); err != nil {
		t.Fatal(err)
	}
	f, err := measure(t.Context(), &o)
	if err != nil {
		t.Fatal(err)
	}
	if f["ended"] != 10 {
		t.Errorf("%v connections were ended, want 10", f["ended"])
	}
}
