package hub

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/bus"
	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
	"github.com/caddyrooms/caddy-rooms/presence"
)

// listen begins a tail that ends with the test at the latest.
func (h *house) listen(room string) *Tail {
	h.t.Helper()
	tail, err := h.Tail(room)
	if err != nil {
		h.t.Fatal(err)
	}
	return tail
}

// hear returns the next frames of a tail.
func hear(t *testing.T, tail *Tail) (frames []object) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	lines, err := tail.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		var o object
		if err := json.Unmarshal(line, &o); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		frames = append(frames, o)
	}
	return frames
}

func TestTailHearsWhatMembersHear(t *testing.T) {
	h := open(t, nil)
	tail := h.listen("lobby")
	defer tail.Close()
	ann := h.dial("ann")
	ann.Join("lobby")
	ann.Join("den")
	ann.Send(`{"type":"publish","room":"den","data":"elsewhere"}`)
	ann.Send(`{"type":"publish","id":1,"room":"lobby","event":"chat","data":{"n":1}}`)
	ann.Next("ack")
	m := hear(t, tail)
	if len(m) != 1 || m[0]["event"] != "chat" || m[0]["from"].(object)["user"] != "ann" {
		t.Errorf("heard %v", m)
	}
	channel := redisdb.RoomChannel("rooms:{test}", "lobby")
	for payload, want := range map[string]string{
		"mother \n" + `{"type":"message","room":"lobby"}`: "message",
		`{"data":1}`: "message",
		"gother":     "gap",
	} {
		h.Receive(channel, []byte(payload))
		if m := hear(t, tail); len(m) != 1 || m[0]["type"] != want {
			t.Errorf("of %q a tail hears %v", payload, m)
		}
	}
	if h.Publish(Message{Room: "lobby", Event: "notice", Data: []byte(`"` + strings.Repeat("x", 70_000) + `"`)}) {
		t.Error("degraded")
	}
	if m := hear(t, tail); len(m) != 1 || m[0]["event"] != "notice" || len(m[0]["data"].(string)) != 70_000 {
		t.Errorf("of a large message a tail hears %.200v", m)
	}
}

// TestSlowTail says more than a tail may have waiting: nobody waits for it, and it is told what it has missed.
func TestSlowTail(t *testing.T) {
	h := open(t, nil)
	tail := h.listen("lobby")
	defer tail.Close()
	ann := h.dial("ann")
	ann.Join("lobby")
	data := []byte(`"` + strings.Repeat("x", 300<<10) + `"`)
	for range 6 {
		h.Publish(Message{Room: "lobby", Event: "e", Data: data})
		ann.Next("message")
	}
	heard := hear(t, tail)
	if len(heard) != 4 || heard[2]["type"] != "message" {
		t.Errorf("heard %d frames, want 3 messages and a gap", len(heard))
	}
	equal(t, "the last", heard[len(heard)-1], object{"type": "gap", "room": "lobby", "reason": "slow"})
	h.Publish(Message{Room: "lobby", Event: "after", Data: data})
	if heard := hear(t, tail); len(heard) != 1 || heard[0]["event"] != "after" {
		t.Errorf("afterwards it heard %.200v", heard)
	}
}

func TestTailLeavesNoRoom(t *testing.T) {
	h := open(t, nil)
	h.linger.Store(int64(time.Millisecond))
	one, two := h.listen("lobby"), h.listen("lobby")
	one.Close()
	h.Publish(Message{Room: "lobby", Event: "e", Data: []byte("1")})
	if m := hear(t, two); len(m) != 1 {
		t.Errorf("heard %v", m)
	}
	two.Close()
	if _, _, err := h.RoomMembers("den", "", 10); err != nil {
		t.Fatal(err)
	}
	h.waitFor("the rooms to be given up", func() bool { return len(h.allRooms()) == 0 })
}

func TestTailEndsWithItsHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(Options{Timeout: time.Second, Logger: zap.NewNop(), Open: func(o presence.Observer, _ bus.Receiver) Backend {
			return Backend{Store: presence.NewMemory(presence.Options{}, o), Bus: bus.Local{}}
		}})
		h.Bind([]Binding{{Policy: defaultPolicy()}})
		tail, err := h.Tail("lobby")
		if err != nil {
			t.Fatal(err)
		}
		defer tail.Close()
		ended := make(chan error, 1)
		go func() {
			_, err := tail.Next(t.Context())
			ended <- err
		}()
		synctest.Wait() // until it waits
		if err := h.Close(exiting); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, ErrClosing) {
			t.Errorf("it ended with %v", err)
		}
		if _, err := h.Tail("lobby"); !errors.Is(err, ErrClosing) {
			t.Errorf("a tail of a closed hub: %v", err)
		}
		if _, _, err := h.RoomMembers("lobby", "", 10); !errors.Is(err, ErrClosing) {
			t.Errorf("members of a closed hub: %v", err)
		}
	})
}
