package bus

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// drop is a Receiver that does nothing.
type drop struct{}

func (drop) Receive(string, []byte) {}
func (drop) Lost([]string)          {}

// startBench returns a bus on the server, which has published once.
func startBench(b *testing.B, server *redistest.Server) *Redis {
	b.Helper()
	db := redisdb.Open(redisdb.Options{Addr: server.Addr}, zap.NewNop())
	bus := NewRedis(db, drop{}, zap.NewNop(), RedisOptions{Control: fmt.Sprint("control", instances.Add(1))})
	db.Start()
	bus.Start()
	b.Cleanup(func() { _ = bus.Close(); _ = db.Close() })
	if err := publish(bus, "first", ""); err != nil {
		b.Fatal(err)
	}
	return bus
}

// BenchmarkRedisPublish is messages of 200 bytes in a thousand rooms that one instance is subscribed to, by so many callers at a time who
// each wait for the outcome.
func BenchmarkRedisPublish(b *testing.B) {
	server := redistest.Start(b)
	payload := strings.Repeat("x", 200)
	for _, callers := range []int{1, 64, 1000} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			bus := startBench(b, server)
			channels := make([]string, 1000)
			var subscribing sync.WaitGroup
			for i := range channels {
				channels[i] = fmt.Sprint("channel", i)
				subscribing.Go(func() {
					if err := bus.Subscribe(b.Context(), channels[i]); err != nil {
						b.Error(err)
					}
				})
			}
			subscribing.Wait()
			meter := server.Meter()
			b.ResetTimer()
			inFlight(callers, b.N, func(i int) {
				if err := publish(bus, channels[i%1000], payload); err != nil {
					b.Error(err)
				}
			})
			b.StopTimer()
			meter.Report(b, b.N)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
		})
	}
}

// BenchmarkRedisSubscribe is subscriptions of channels of their own, by so many callers at a time who each wait for it.
func BenchmarkRedisSubscribe(b *testing.B) {
	server := redistest.Start(b)
	for _, callers := range []int{1, 64, 1000} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			bus := startBench(b, server)
			meter := server.Meter()
			b.ResetTimer()
			inFlight(callers, b.N, func(i int) {
				if err := bus.Subscribe(b.Context(), fmt.Sprint("channel", i)); err != nil {
					b.Error(err)
				}
			})
			b.StopTimer()
			meter.Report(b, b.N)
			b.ReportMetric(float64(meter.Cost().Calls["subscribe"])/float64(b.N), "subscribes/op")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
		})
	}
}

// inFlight does f for 0 to n-1, by so many callers at a time.
func inFlight(callers, n int, f func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(callers, n) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}
