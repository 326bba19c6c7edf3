package hub

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// TestLines has things done in order in each line, however long another one takes.
func TestLines(t *testing.T) {
	var l lines
	gate, done := make(chan struct{}), make(chan int)
	l.add("a", 3, func() { <-gate })
	for i := range 3 {
		l.add("b", 3, func() { done <- i })
		if got := <-done; got != i {
			t.Errorf("%d was done, want %d", got, i)
		}
	}
	for i := range 3 {
		for !l.add("a", 3, func() { done <- i }) {
			// what the lines do now is not taken from them yet
		}
	}
	if l.add("a", 3, func() { t.Error("there was no place for it") }) || l.add("c", 3, func() { t.Error("there was no place for it") }) {
		t.Error("more wait than may")
	}
	l.add("a", 4, func() { done <- 3 })
	close(gate)
	for want := range 4 {
		if got := <-done; got != want {
			t.Errorf("%d was done, want %d", got, want)
		}
	}
}

// numbers returns which orders were answered, in order.
func (h *house) numbers() (numbers []int) {
	h.bus.mu.Lock()
	defer h.bus.mu.Unlock()
	for _, told := range h.bus.told {
		number, _, _ := strings.Cut(told[1][1:], "\n")
		n, err := strconv.Atoi(number)
		if err != nil {
			h.t.Error(err)
		}
		numbers = append(numbers, n)
	}
	return numbers
}

// receive has the order of that number come from another instance.
func (h *house) receive(number int, order string) {
	h.Receive(users, fmt.Appendf(nil, "oother n2 %d\n%s", number, order))
}

// TestOrdersKeepTheirOrder has many orders come at once, as they do where an instance has stood still.
func TestOrdersKeepTheirOrder(t *testing.T) {
	h := open(t, func(p *Policy) { p.MaxRooms = 1000 })
	joining, gate := make(chan struct{}), make(chan struct{})
	h.store.joining = func(room string) {
		if room == "slow" {
			close(joining)
			<-gate
		}
	}
	release := sync.OnceFunc(func() { close(gate) })
	defer release()
	ann, bob := h.dial("ann"), h.dial("bob")
	h.receive(1, `{"do":"enter","user":"ann","room":"slow"}`)
	<-joining
	const orders = 200
	want := []int{1}
	for n := 2; n <= orders; n++ {
		order := `{"do":"enter","user":"ann","room":"lobby"}`
		switch n % 4 {
		case 1:
			order = `{"do":"remove","user":"ann","room":"lobby"}`
		case 2:
			order = `{"do":"kick","conn":"` + ann.Conn + `","room":"lobby"}`
		case 3:
			order = `{"do":"tell user","user":"ann","limit":1}`
		}
		h.receive(n, order)
		want = append(want, n)
	}
	h.receive(orders+1, `{"do":"remove","user":"ann","room":"lobby"}`)
	here := make(chan Done)
	go func() { here <- h.Do(t.Context(), Order{Do: Enter, User: "ann", Room: "last"}) }()

	h.receive(0, `{"do":"disconnect","user":"bob"}`) // others do not wait for them
	equal(t, "bob's bye", bob.Next("bye")["code"], 4005.0)
	h.waitFor("the answer", func() bool { return slices.Equal(h.numbers(), []int{0}) })
	h.receive(1000, `{"do":"count","user":"ann"}`) // nor does what only counts: it is answered before the next payload is read
	equal(t, "answered", h.numbers(), []int{0, 1000})

	release()
	if done := <-here; done.Connections != 1 {
		t.Errorf("the order of this instance: %+v", done)
	}
	want = slices.Concat([]int{0, 1000}, want, []int{orders + 1})
	h.waitFor("the answers", func() bool { return len(h.numbers()) == len(want) })
	equal(t, "answered", h.numbers(), want)
	s := h.session(ann.Conn)
	equal(t, "ann is in", []bool{s.isIn("slow"), s.isIn("lobby"), s.isIn("last")}, []bool{true, false, true})
}

// TestTooManyOrders has more orders come than may wait: the last of them are lost, and not answered.
func TestTooManyOrders(t *testing.T) {
	h := open(t, nil)
	joining, gate := make(chan struct{}), make(chan struct{})
	h.store.joining = func(string) {
		close(joining)
		<-gate
	}
	release := sync.OnceFunc(func() { close(gate) })
	defer release()
	ann := h.dial("ann")
	h.receive(0, `{"do":"enter","user":"ann","room":"lobby"}`)
	<-joining
	for n := range maxOrders {
		h.receive(n+1, `{"do":"kick","conn":"nobody's","room":"lobby","user":"ann"}`)
	}
	h.receive(maxOrders+1, `{"do":"disconnect","user":"ann"}`)
	h.receive(maxOrders+2, `{"do":"disconnect","user":"bob"}`)
	done := make(chan Done)
	go func() { done <- h.Do(t.Context(), Order{Do: Remove, User: "ann", Room: "lobby"}) }() // who orders here is not refused
	release()
	if d := <-done; d.Connections != 1 {
		t.Errorf("the order of this instance: %+v", d)
	}
	h.waitFor("the answers", func() bool { return len(h.numbers()) == maxOrders+1 })
	ann.Next("ack")
	ann.Next("left")
	ann.Quiet()
}
