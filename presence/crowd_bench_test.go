package presence

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkMembers has users come to a room of so many and go, while it is paged: neither may cost more where there are more.
func BenchmarkMembers(b *testing.B) {
	for _, members := range []int{5, 500, 50_000} {
		m := NewMemory(Options{}, ignore{})
		_, _ = m.Open(b.Context(), "r")
		connect := func(id string) {
			if _, _, err := m.Connect(b.Context(), Conn{ID: id, User: id}); err != nil {
				b.Fatal(err)
			}
		}
		join := func(id string, limit int, cursor string) {
			err := m.Join(b.Context(), "r", id, State{}, func(v View, _ bool) { v.Page(cursor, limit) })
			if err != nil {
				b.Fatal(err)
			}
		}
		for i := range members {
			id := fmt.Sprintf("user%06d", i)
			connect(id)
			join(id, 0, "")
		}
		// They come anywhere in the order of the members.
		random := rand.New(rand.NewPCG(1, 2))
		ids := make([]string, 1000)
		for i := range ids {
			ids[i] = fmt.Sprintf("user%06d-", random.IntN(members))
			ids[i] += fmt.Sprint(i)
			connect(ids[i])
		}
		for _, page := range []int{0, 5} {
			b.Run(fmt.Sprintf("members=%d/page=%d", members, page), func(b *testing.B) {
				b.ReportAllocs()
				join(ids[0], 1, "") // who is in order was asked for
				for i := 0; b.Loop(); i++ {
					id := ids[i%len(ids)]
					join(id, page, "user"+id[4:7])
					if err := m.Leave(b.Context(), "r", id, ReasonLeft, nil); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
