package presence

import (
	"fmt"
	"sync/atomic"
	"testing"
)

type ignore struct{}

func (ignore) PresenceChanged(string, Change) {}

// benchmarkLives has connections come, join one of the rooms, read a page and go.
func benchmarkLives(b *testing.B, s Store, open func(room string), rooms int) {
	for r := range rooms {
		open(fmt.Sprint("room", r))
	}
	var n atomic.Int64
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			k := n.Add(1)
			id, room := fmt.Sprint("c", k), fmt.Sprint("room", k%int64(rooms))
			if _, degraded, err := s.Connect(b.Context(), Conn{ID: id, User: id}); err != nil || degraded {
				b.Error(degraded, err)
			}
			err := s.Join(b.Context(), room, id, State{}, func(v View, degraded bool) {
				if v.Page("", 100); degraded {
					b.Error("degraded")
				}
			})
			if err != nil {
				b.Error(err)
			}
			s.Disconnect(id, 0, ReasonLeft)
		}
	})
}

func BenchmarkMemory(b *testing.B) {
	for _, rooms := range []int{1, 1000} {
		b.Run(fmt.Sprintf("rooms=%d", rooms), func(b *testing.B) {
			m := NewMemory(Options{}, ignore{})
			benchmarkLives(b, m, func(room string) { _, _ = m.Open(b.Context(), room) }, rooms)
		})
	}
}
