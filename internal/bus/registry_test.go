package bus

import (
	"context"
	"errors"
	"slices"
	"testing"
)

// expectSent fails unless exactly these are to be sent.
func expectSent(t *testing.T, r *registry, subscribe, unsubscribe []string) {
	t.Helper()
	s, u := r.changes()
	if !slices.Equal(s, subscribe) || !slices.Equal(u, unsubscribe) {
		t.Fatalf("sends SUBSCRIBE %v and UNSUBSCRIBE %v, want %v and %v", s, u, subscribe, unsubscribe)
	}
}

// wait begins to wait for a confirmation.
func wait(t *testing.T, r *registry, channel string) *attempt {
	t.Helper()
	a, err := r.want(channel, true)
	if a == nil {
		t.Fatalf("nothing to wait for: %v", err)
	}
	return a
}

func (a *attempt) settled() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

func TestSubscribeWaitsForItsOwnConfirmation(t *testing.T) {
	r := newRegistry()
	first := wait(t, r, "x")
	expectSent(t, r, []string{"x"}, nil)
	r.unsubscribe("x")
	if !first.settled() || !errors.Is(first.err, errUnsubscribed) {
		t.Error("a wait goes on after Unsubscribe")
	}
	expectSent(t, r, nil, []string{"x"})
	second := wait(t, r, "x")
	expectSent(t, r, []string{"x"}, nil)

	r.confirm("x")
	if second.settled() {
		t.Fatal("confirmed by the answer to the first SUBSCRIBE")
	}
	r.confirm("x")
	if !second.settled() || second.err != nil {
		t.Fatal("not confirmed by the answer to the second SUBSCRIBE")
	}
}

func TestUnsubscribeTakenBack(t *testing.T) {
	r := newRegistry()
	wait(t, r, "x")
	expectSent(t, r, []string{"x"}, nil)
	r.confirm("x")
	r.unsubscribe("x")
	if a, err := r.want("x", true); a != nil || err != nil {
		t.Errorf("a subscription that never ended is to be waited for (%v)", err)
	}
	expectSent(t, r, nil, nil)
}

func TestUnsubscribedIsForgotten(t *testing.T) {
	for name, end := range map[string]func(r *registry){
		"confirmed before": func(r *registry) { r.confirm("x"); r.unsubscribe("x"); r.changes() },
		"confirmed after":  func(r *registry) { r.unsubscribe("x"); r.changes(); r.confirm("x") },
		"cut before":       func(r *registry) { r.cut(); r.unsubscribe("x"); r.changes() },
		"cut after":        func(r *registry) { r.unsubscribe("x"); r.cut() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRegistry()
			wait(t, r, "x")
			expectSent(t, r, []string{"x"}, nil)
			end(r)
			if len(r.channels) != 0 {
				t.Errorf("still known: %+v", *r.channels["x"])
			}
		})
	}
}

func TestWhatIsTold(t *testing.T) {
	r := newRegistry()
	for _, channel := range []string{"confirmed", "waited for", "given up", "left"} {
		wait(t, r, channel)
	}
	r.changes()
	r.confirm("confirmed")
	r.confirm("left")
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.subscribe(canceled, "given up", true); !errors.Is(err, context.Canceled) {
		t.Errorf("subscribing with a canceled context: %v", err)
	}

	// The second connection breaks before all is confirmed, which must not swallow what the first one lost.
	for range 2 {
		r.cut()
		if got := slices.Sorted(slices.Values(r.restore())); len(got) != 4 {
			t.Fatalf("restores %v", got)
		}
		if told := r.confirm("confirmed"); told != nil {
			t.Fatalf("told of %v before all is confirmed", told)
		}
	}
	r.unsubscribe("left")
	for _, channel := range []string{"waited for", "given up", "left"} {
		if told := r.confirm(channel); told != nil {
			t.Fatalf("told of %v before all is confirmed", told)
		}
	}
	if got, want := slices.Sorted(slices.Values(r.restored())), []string{"confirmed", "given up"}; !slices.Equal(got, want) {
		t.Errorf("told of %q, want %q", got, want)
	}
}

func TestFailureEndsWaits(t *testing.T) {
	r := newRegistry()
	a := wait(t, r, "x")
	r.fail(ErrDown)
	if !a.settled() || !errors.Is(a.err, ErrDown) {
		t.Error("a wait goes on without a connection")
	}
	if a, err := r.want("y", true); a != nil || !errors.Is(err, ErrDown) {
		t.Errorf("subscribing without a connection: %v, want ErrDown", err)
	}
	r.restore()
	r.confirm("x")
	r.confirm("y")
	if got := slices.Sorted(slices.Values(r.restored())); !slices.Equal(got, []string{"x", "y"}) {
		t.Errorf("told of %v, want x and y", got)
	}
}
