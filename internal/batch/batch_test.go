package batch

import (
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What comes while a batch is under way is the next batch, in order.
func TestBatchesGatherBehindOneThatIsUnderWay(t *testing.T) {
	entered, proceed := make(chan []int), make(chan struct{})
	q := New(func(batch []int) {
		entered <- slices.Clone(batch)
		<-proceed
	})
	want := [][]int{{0}, {1, 2, 3}, {4}}
	go q.Do(0)
	for i, next := range [][]int{{1, 2, 3}, {4}, nil} {
		if got := <-entered; !slices.Equal(got, want[i]) {
			t.Errorf("batch %d is %v, want %v", i, got, want[i])
		}
		for _, item := range next {
			q.Add(item)
		}
		proceed <- struct{}{}
	}
	q.Wait()
}

// Who comes alone does it himself, and is not kept from his own by what has come meanwhile.
func TestDo(t *testing.T) {
	caller := make(chan struct{})
	var q *Queue[int]
	var batches [][]int
	q = New(func(batch []int) {
		batches = append(batches, slices.Clone(batch))
		if batch[0] == 0 {
			q.Do(1)
			return
		}
		<-caller
	})
	q.Do(0)
	if len(batches) == 0 || !slices.Equal(batches[0], []int{0}) {
		t.Fatalf("batches %v after the first item was to be done", batches)
	}
	close(caller)
	q.Wait()
	if len(batches) != 2 || !slices.Equal(batches[1], []int{1}) {
		t.Errorf("batches %v", batches)
	}
}

func TestAllAreDoneOnceAndOneBatchAtATime(t *testing.T) {
	const callers, each = 16, 500
	var working sync.Mutex
	done := make(map[int]int)
	last := make(map[int]int) // by caller
	q := New(func(batch []int) {
		if !working.TryLock() {
			t.Error("two batches at a time")
			return
		}
		defer working.Unlock()
		for _, item := range batch {
			done[item]++
			caller, n := item/each, item%each
			if n > 0 && n != last[caller]+1 {
				t.Errorf("%d of caller %d comes after %d", n, caller, last[caller])
			}
			last[caller] = n
		}
	})
	var adding sync.WaitGroup
	for c := range callers {
		adding.Go(func() {
			for i := range each {
				if c%2 == 0 {
					q.Add(c*each + i)
				} else {
					q.Do(c*each + i)
				}
			}
		})
	}
	adding.Wait()
	q.Wait()
	for item := range callers * each {
		if done[item] != 1 {
			t.Fatalf("%d was done %d times", item, done[item])
		}
	}
}
