package presence_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddyrooms/caddy-rooms/presence"
)

type printer struct{}

func (printer) PresenceChanged(room string, c presence.Change) {
	for _, e := range c.Events {
		fmt.Printf("%s: %s of %s %s\n", room, e.Op, e.Member.User, cmp.Or(string(e.Reason), e.Member.Status))
	}
}

func ExampleNewMemory() {
	ctx := context.Background()
	store := presence.NewMemory(presence.Options{}, printer{})
	defer store.Close(ctx, 0)

	_, _ = store.Open(ctx, "lobby")
	_, _, _ = store.Connect(ctx, presence.Conn{ID: "c1", User: "ann"})
	_ = store.Join(ctx, "lobby", "c1", presence.State{}, func(v presence.View, _ bool) {
		fmt.Println("ann sees", v.Page("", 100).Count)
	})
	store.Disconnect("c1", 0, presence.ReasonTimeout)
	// Output:
	// lobby: join of ann online
	// ann sees 1
	// lobby: leave of ann timeout
}

// A store in Redis is fed with what is published on its channels. This is all it takes with a go-redis client alone.
func ExampleNewRedis() {
	ctx := context.Background()
	client := redis.NewClient(&redis.Options{Addr: "localhost:6379", MaxRetries: -1, ContextTimeoutEnabled: true})
	defer client.Close()
	store := presence.NewRedis(client, presence.Options{Prefix: "rooms:{example}", Node: "a1"}, printer{})

	sub := client.Subscribe(ctx, store.UsersChannel())
	defer sub.Close()
	confirmed := make(chan string, 1)
	go func() {
		known := map[string]bool{}
		for {
			msg, err := sub.Receive(ctx)
			switch msg := msg.(type) {
			case *redis.Message:
				store.Deliver(msg.Channel, []byte(msg.Payload))
			case *redis.Subscription:
				if known[msg.Channel] { // the connection was lost and is back
					store.Lost([]string{msg.Channel})
					continue
				}
				known[msg.Channel] = true
				confirmed <- msg.Channel
			}
			if errors.Is(err, redis.ErrClosed) {
				return
			}
			if err != nil { // the next call connects again
				time.Sleep(100 * time.Millisecond)
			}
		}
	}()
	<-confirmed

	store.Start()
	defer store.Close(ctx, 10*time.Second) // members who are back within ten seconds, anywhere, have not left

	_ = sub.Subscribe(ctx, store.RoomChannel("lobby"))
	<-confirmed
	_, _ = store.Open(ctx, "lobby")
	_, _, _ = store.Connect(ctx, presence.Conn{ID: "c1", User: "ann"})
	_ = store.Join(ctx, "lobby", "c1", presence.State{}, nil)
}
