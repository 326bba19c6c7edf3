package presence

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestOrder adds and removes users at random and expects pages of any size to be those of a sorted list, while blocks part and join.
func TestOrder(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 7))
		r := newRoster()
		var want []string
		// It grows over several blocks and shrinks again, to nothing in the end.
		for step := range 6000 {
			user := fmt.Sprintf("u%04d", random.IntN(3000))
			at, in := slices.BinarySearch(want, user)
			grow := random.IntN(10) < 8
			if step >= 3000 {
				grow = random.IntN(10) < 2
			}
			switch {
			case grow && !in:
				r.apply([]change{{id: user, entry: entry{user: user, status: "online", state: "{}"}}})
				want = slices.Insert(want, at, user)
			case !grow && len(want) > 0:
				user = want[random.IntN(len(want))]
				at, _ = slices.BinarySearch(want, user)
				r.apply([]change{{id: user, gone: true, entry: entry{user: user}}})
				want = slices.Delete(want, at, at+1)
			}
			if step%97 == 0 {
				expectPages(t, &r, want, 1+random.IntN(700))
				expectBlocks(t, &r.order)
			}
		}
		for _, user := range want {
			r.apply([]change{{id: user, gone: true, entry: entry{user: user}}})
		}
		expectPages(t, &r, nil, 10)
		if len(r.order.blocks) > 0 {
			t.Errorf("an empty room has %d blocks", len(r.order.blocks))
		}
	}
}

func expectPages(t *testing.T, r *roster, want []string, limit int) {
	t.Helper()
	var got []string
	for cursor := ""; ; {
		p := r.page(cursor, limit)
		for _, m := range p.Members {
			got = append(got, m.User)
		}
		if more := len(got) < len(want); p.Count != len(want) || more != (p.Next != "") || more && len(p.Members) != limit {
			t.Fatalf("%d of %d members after %q with limit %d, count %d, next %q", len(p.Members), len(want), cursor, limit, p.Count, p.Next)
		}
		if cursor = p.Next; cursor == "" {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("members %v, want %v", got, want)
	}
	// From anywhere, also from between two.
	for _, cursor := range []string{"u1500", "u1500x", "zzz"} {
		at, found := slices.BinarySearch(want, cursor)
		if found {
			at++
		}
		p := r.page(cursor, 3)
		if first := want[at:min(at+3, len(want))]; len(p.Members) != len(first) || len(first) > 0 && p.Members[0].User != first[0] {
			t.Fatalf("after %q: %v, want %v", cursor, p.Members, first)
		}
	}
}

// expectBlocks checks what keeps an order cheap: no block is too long, and there are not many more than needed.
func expectBlocks(t *testing.T, o *order) {
	t.Helper()
	users := 0
	for _, b := range o.blocks {
		users += len(b)
		if len(b) == 0 || len(b) > blockSize {
			t.Fatalf("a block has %d users", len(b))
		}
	}
	if most := 8*users/blockSize + 2; len(o.blocks) > most {
		t.Fatalf("%d blocks for %d users", len(o.blocks), users)
	}
}
