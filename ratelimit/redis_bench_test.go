package ratelimit

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// BenchmarkRedisCheck is checks that allow, of a thousand keys, by so many callers at a time.
func BenchmarkRedisCheck(b *testing.B) {
	server := redistest.Start(b)
	for _, a := range Algorithms {
		for _, callers := range []int{1, 64, 1000} {
			b.Run(fmt.Sprint(a, "/", callers), func(b *testing.B) {
				r := NewRedis(newClient(b, server), patient)
				l := Limit{Name: "bench", Events: 100, Window: MinWindow, Algorithm: a}
				mustAllow(b, r, l, "connects and loads the script")
				meter := server.Meter()
				var next atomic.Int64
				var wg sync.WaitGroup
				b.ResetTimer()
				for range callers {
					wg.Go(func() {
						for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
							if _, err := r.Allow(b.Context(), l, fmt.Sprint(i%1000)); err != nil {
								b.Error(err)
							}
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				meter.Report(b, b.N)
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
			})
		}
	}
}
