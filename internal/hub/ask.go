package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
)

// askTime is how long the answers of other instances are waited for: of one that has just died there will be none.
const askTime = time.Second

// maxAnswers is how many answers wait at most to be read.
const maxAnswers = 1024

// maxListed is how many bytes of connections an answer has at most, but for a single connection: Redis cuts off who gets too much at a time, and
// then messages are lost.
const maxListed = 1 << 20

// answer is what an instance says of an order.
type answer struct {
	Node        string       `json:"node"`
	Connections int          `json:"connections,omitempty"` // with which it was done
	Listed      []Connection `json:"listed,omitempty"`
	Next        string       `json:"next,omitempty"` // where the rest of the list starts; empty: that was all
	Occupancy   Occupancy    `json:"occupancy,omitzero"`
}

// fitting returns as many of some connections as fit an answer, and where the rest of the list starts.
func fitting(connections []Connection, next string) ([]Connection, string) {
	size, last := 0, ""
	for i, c := range connections {
		size += len(c.ID) + len(c.User) + len(c.Device) + 100
		for _, room := range c.Rooms {
			size += len(room) + 3
		}
		if i > 0 && size > maxListed {
			return connections[:i], last
		}
		last = c.ID
	}
	return connections, next
}

// questions are the orders of this instance that others have not answered yet.
type questions struct {
	mu   sync.Mutex
	last uint64                 // guarded by mu
	open map[uint64]chan answer // by number; guarded by mu
}

// ask begins a question. Answers come by the channel until end is called.
func (q *questions) ask() (number uint64, answers <-chan answer, end func()) {
	c := make(chan answer, maxAnswers)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.last++
	n := q.last
	if q.open == nil {
		q.open = make(map[uint64]chan answer)
	}
	q.open[n] = c
	return n, c, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.open, n)
	}
}

// answered hands an answer to whoever waits for it. It does not wait itself.
func (q *questions) answered(number uint64, a answer) {
	q.mu.Lock()
	c := q.open[number]
	q.mu.Unlock()
	if c == nil {
		return // nobody does any more
	}
	select {
	case c <- a:
	default: // as if it had been lost
	}
}

// ask has an order carried out on all instances, and returns what they say, this one first. Degraded tells that not all have said something in
// time.
func (h *Hub) ask(ctx context.Context, o Order) (answers []answer, degraded bool) {
	if !h.backend.Shared {
		return []answer{h.carryOut(o)}, false
	}
	number, come, end := h.questions.ask()
	defer end()
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	sent := make(chan bool, 1)
	go func() {
		defer h.recovered(nil)
		sent <- h.sendOrder(number, o)
	}()
	answers = []answer{h.carryOut(o)}
	nodes, err := h.backend.Store.Instances(ctx)
	if err != nil {
		h.logger.Debug("reading which instances there are", zap.Error(err))
	}
	select {
	case degraded = <-sent:
	case <-ctx.Done():
		degraded = true
	}
	if degraded || err != nil {
		return answers, true
	}
	missing := slices.DeleteFunc(nodes, func(node string) bool { return node == h.opts.Node })
	for len(missing) > 0 {
		select {
		case a := <-come:
			answers = append(answers, a)
			missing = slices.DeleteFunc(missing, func(node string) bool { return node == a.Node })
		case <-ctx.Done():
			return answers, true
		}
	}
	return answers, false
}

// sendOrder sends an order to the other instances. Degraded tells that they may not get it.
func (h *Hub) sendOrder(number uint64, o Order) (degraded bool) {
	body, err := json.Marshal(o)
	if err != nil {
		h.logger.Error("encoding order", zap.Error(err)) // texts and a number: it can't fail
		return true
	}
	payload := append([]byte{fromOperator}, h.id+" "+h.opts.Node+" "...)
	payload = append(strconv.AppendUint(payload, number, 10), '\n')
	return h.outcome(func(done func(error)) {
		h.backend.Bus.Publish(redisdb.UsersChannel(h.opts.Base), append(payload, body...), done)
	})
}

// receiveOrder carries out what another instance was told to have done, and answers it.
func (h *Hub) receiveOrder(payload []byte) {
	head, body, _ := bytes.Cut(payload, []byte{'\n'})
	from := bytes.Fields(head)
	o, ok := decodeOrder(body)
	if len(from) != 3 || !ok {
		h.logger.Warn("order of another instance is malformed")
		return
	}
	if string(from[0]) == h.id {
		return
	}
	node, number := string(from[1]), string(from[2])
	go func() {
		defer h.recovered(nil)
		b, err := json.Marshal(h.carryOut(o))
		if err != nil {
			h.logger.Error("encoding answer to order", zap.Error(err)) // texts, numbers and times of ours: it can't fail
			return
		}
		h.backend.Bus.Tell(redisdb.ControlChannel(h.opts.Base, node), slices.Concat([]byte{toOperator}, []byte(number+"\n"), b))
	}()
}

// receiveAnswer takes what another instance says of an order of this one.
func (h *Hub) receiveAnswer(payload []byte) {
	head, body, _ := bytes.Cut(payload, []byte{'\n'})
	number, err := strconv.ParseUint(string(head), 10, 64)
	var a answer
	if err == nil {
		err = json.Unmarshal(body, &a)
	}
	if err != nil {
		h.logger.Warn("answer of another instance is malformed", zap.Error(err))
		return
	}
	h.questions.answered(number, a)
}
