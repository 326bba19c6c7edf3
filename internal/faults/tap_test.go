package faults

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
)

// tap listens to what the instances tell each other of presence in the rooms, and checks that each change continues the one before.
type tap struct {
	pubsub *redis.PubSub
	ended  chan struct{}

	mu       sync.Mutex
	seq      map[string]uint64 // by room
	left     map[string]int    // by row: how often it was told as gone
	problems []string
}

func (c *cluster) tap() *tap {
	c.Helper()
	p := &tap{ended: make(chan struct{}), seq: map[string]uint64{}, left: map[string]int{}}
	p.pubsub = c.store.PSubscribe(c.Context(), base+":e:*")
	if _, err := p.pubsub.Receive(c.Context()); err != nil {
		c.Fatal(err)
	}
	channel := p.pubsub.Channel(redis.WithChannelSize(1 << 20))
	go func() {
		defer close(p.ended)
		for m := range channel {
			p.take(strings.TrimPrefix(m.Channel, base+":e:"), m.Payload)
		}
	}()
	c.Cleanup(func() { _ = p.pubsub.Close() })
	return p
}

// take reads p<prev> <seq> <batch>\n and then for each change +<id length> <value length>\n<id><value> or -<id length> <reason length>\n<id><reason>.
func (p *tap) take(room, payload string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !strings.HasPrefix(payload, "p") {
		return
	}
	head, rest, _ := strings.Cut(payload[1:], "\n")
	var prev, seq, batch uint64
	if _, err := fmt.Sscanf(head, "%d %d %d", &prev, &seq, &batch); err != nil {
		p.problems = append(p.problems, fmt.Sprintf("room %s: payload %q", room, payload))
		return
	}
	if last, known := p.seq[room]; known && prev != last {
		p.problems = append(p.problems, fmt.Sprintf("room %s: %d comes after %d, and was preceded by %d", room, seq, prev, last))
	}
	p.seq[room] = seq
	for rest != "" {
		op := rest[0]
		head, tail, _ := strings.Cut(rest[1:], "\n")
		idText, textText, _ := strings.Cut(head, " ")
		id, err1 := strconv.Atoi(idText)
		text, err2 := strconv.Atoi(textText)
		if err1 != nil || err2 != nil || id+text > len(tail) {
			p.problems = append(p.problems, fmt.Sprintf("room %s: payload %q", room, payload))
			return
		}
		if op == '-' {
			p.left[room+" "+tail[:id]]++
		}
		rest = tail[id+text:]
	}
}

// leaves stops listening, fails the trial on a broken sequence and on a row that left twice, and returns how many rows left.
func (p *tap) leaves(t testing.TB) int {
	t.Helper()
	_ = p.pubsub.Close()
	<-p.ended
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, problem := range p.problems {
		if i < 10 {
			t.Error(problem)
		}
	}
	for row, n := range p.left {
		if n > 1 {
			t.Errorf("row %s left %d times", row, n)
		}
	}
	return len(p.left)
}
