package small

import (
	"maps"
	"math/rand/v2"
	"testing"
)

// TestMapIsAMap does the same to a Map and a map of Go, on both sides of the size at which it becomes one.
func TestMapIsAMap(t *testing.T) {
	for _, keys := range []int{1, 3, mostFew, mostFew + 1, 5 * mostFew} {
		var m Map[int, int]
		want := map[int]int{}
		for i := range 2000 {
			k := rand.IntN(keys)
			if rand.IntN(3) == 0 {
				m.Delete(k)
				delete(want, k)
			} else {
				m.Set(k, i)
				want[k] = i
			}
			if got := maps.Collect(m.All()); !maps.Equal(got, want) || m.Len() != len(want) {
				t.Fatalf("%d keys: has %v, %d of them, want %v", keys, got, m.Len(), want)
			}
			k = rand.IntN(keys)
			v, ok := m.Get(k)
			if wantV, wantOK := want[k]; v != wantV || ok != wantOK {
				t.Fatalf("%d keys: Get(%d) = %d, %t, want %d, %t", keys, k, v, ok, wantV, wantOK)
			}
		}
	}
}

func TestMapStopsRanging(t *testing.T) {
	for _, n := range []int{3, 3 * mostFew} {
		var m Map[int, int]
		for i := range n {
			m.Set(i, i)
		}
		seen := 0
		for range m.Values() {
			if seen++; seen == 2 {
				break
			}
		}
		if seen != 2 {
			t.Errorf("%d entries: ranged over %d after a break at 2", n, seen)
		}
	}
}
