package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
)

// askTime is how long the answers of other instances are waited for: of one that has just died there will be none, for which the next question does
// not wait any more.
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
	Refused     int          `json:"refused,omitempty"`     // which had no place where they were to go
	Degraded    bool         `json:"degraded,omitempty"`    // the shared store does not know it yet
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
	mu     sync.Mutex
	last   uint64                 // guarded by mu
	open   map[uint64]chan answer // by number; guarded by mu
	silent map[string]bool        // nodes that did not answer in time, and have not answered anything since; guarded by mu
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

// answered hands an answer to whoever waits for it, if somebody still does. It does not wait itself.
func (q *questions) answered(number uint64, a answer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.silent, a.Node)
	select {
	case q.open[number] <- a:
	default: // as if it had been lost
	}
}

// awaited returns those of the other nodes there are for whose answers a question waits, and forgets the silence of those that there are not.
func (q *questions) awaited(nodes []string) []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	maps.DeleteFunc(q.silent, func(node string, _ bool) bool { return !slices.Contains(nodes, node) })
	return slices.DeleteFunc(slices.Clone(nodes), func(node string) bool { return q.silent[node] })
}

// rest returns what has come of the answers to a question that nobody has taken. Those of the overdue nodes that are not among them are silent.
func (q *questions) rest(come <-chan answer, overdue []string) (rest []answer) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(come) > 0 {
		rest = append(rest, <-come)
	}
	if q.silent == nil {
		q.silent = make(map[string]bool)
	}
	for _, node := range overdue {
		if !slices.ContainsFunc(rest, func(a answer) bool { return a.Node == node }) {
			q.silent[node] = true
		}
	}
	return rest
}

// ask has an order carried out on all instances, and returns what they say, this one first. Degraded tells that not all have said something in
// time, or not that the shared store knows it.
func (h *Hub) ask(ctx context.Context, o Order) (answers []answer, degraded bool) {
	return h.askWhile(ctx, o, func(func() bool) answer { return h.carryOutInTurn(o) })
}

// askWhile is ask with what this instance does and says itself, while the order is on its way to the others. lost waits until it has left, and
// tells whether they may not get it.
func (h *Hub) askWhile(ctx context.Context, o Order, here func(lost func() bool) answer) (answers []answer, degraded bool) {
	if !h.backend.Shared {
		a := here(func() bool { return false })
		return []answer{a}, a.Degraded
	}
	number, come, end := h.questions.ask()
	defer end()
	patience, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	lost := h.sendOrder(patience, number, o)
	answers = []answer{here(lost)}
	nodes, err := h.backend.Store.Instances(patience)
	if err != nil {
		h.logger.Debug("reading which instances there are", zap.Error(err))
	}
	if lost() || err != nil {
		return answers, true
	}
	missing := slices.DeleteFunc(nodes, func(node string) bool { return node == h.opts.Node })
	awaited := h.questions.awaited(missing)
	take := func(a answer) {
		answers = append(answers, a)
		said := func(node string) bool { return node == a.Node }
		missing, awaited = slices.DeleteFunc(missing, said), slices.DeleteFunc(awaited, said)
	}
	for len(awaited) > 0 && patience.Err() == nil {
		select {
		case a := <-come:
			take(a)
		case <-patience.Done():
		}
	}
	if ctx.Err() != nil {
		awaited = nil // it is the asker who does not wait
	}
	for _, a := range h.questions.rest(come, awaited) {
		take(a)
	}
	return answers, len(missing) > 0 || slices.ContainsFunc(answers, func(a answer) bool { return a.Degraded })
}

// sendOrder sends an order to the other instances. lost waits for what becomes of that, until ctx ends, and tells whether they may not get it.
func (h *Hub) sendOrder(ctx context.Context, number uint64, o Order) (lost func() bool) {
	body, err := json.Marshal(o)
	if err != nil {
		h.logger.Error("encoding order", zap.Error(err)) // texts and a number: it can't fail
		return func() bool { return true }
	}
	payload := append([]byte{fromOperator}, h.id+" "+h.opts.Node+" "...)
	payload = append(strconv.AppendUint(payload, number, 10), '\n')
	return sync.OnceValue(begin(ctx, func(done func(error)) {
		h.backend.Bus.Publish(redisdb.UsersChannel(h.opts.Base), append(payload, body...), done)
	}))
}

// receiveOrder has carried out what another instance was told to have done, and answered.
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
	queued := h.inTurn(o, maxOrders, func(a answer) {
		b, err := json.Marshal(a)
		if err != nil {
			h.logger.Error("encoding answer to order", zap.Error(err)) // texts, numbers and times of ours: it can't fail
			return
		}
		h.backend.Bus.Tell(redisdb.ControlChannel(h.opts.Base, node), slices.Concat([]byte{toOperator}, []byte(number+"\n"), b))
	})
	if !queued {
		h.logger.Warn("order of another instance is dropped: too many wait")
	}
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
