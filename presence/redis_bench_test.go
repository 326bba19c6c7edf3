package presence

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// bench is a store on a Redis of a benchmark.
type bench struct {
	*Redis
	b     *testing.B
	pump  *pump
	meter *redistest.Meter
}

var benchPrefixes atomic.Int64

// startBench returns a store with nobody in it.
func startBench(b *testing.B, server *redistest.Server) *bench {
	client := redis.NewClient(&redis.Options{
		Addr: server.Addr, Protocol: 2, MaxRetries: -1, ContextTimeoutEnabled: true, PipelinePoolSize: -1, DisableIdentity: true,
	})
	s := NewRedis(client, Options{Prefix: fmt.Sprintf("bench:{%d}", benchPrefixes.Add(1)), Timeout: 20 * time.Second}, ignore{})
	p := newPump(b, client, s)
	s.Start()
	b.Cleanup(func() {
		_ = s.Close(b.Context(), 0)
		p.close()
		_ = client.Close()
	})
	eventually(b, "it is shared", func() bool { return !s.Degraded() })
	return &bench{Redis: s, b: b, pump: p, meter: server.Meter()}
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

// many is how many callers set up what is not measured.
const many = 256

// measure does f b.N times and reports what that cost.
func (s *bench) measure(callers int, f func(i int)) {
	s.meter.Start()
	s.b.ResetTimer()
	inFlight(callers, s.b.N, f)
	s.settled()
	s.b.StopTimer()
	s.meter.Report(s.b, s.b.N)
	s.b.ReportMetric(float64(s.b.N)/s.b.Elapsed().Seconds(), "ops/s")
}

// settled waits until all that was queued is written.
func (s *bench) settled() {
	eventually(s.b, "all is written", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.queued == 0
	})
	s.mu.Lock()
	o := s.beat()
	s.mu.Unlock()
	if err := s.wait(s.b.Context(), o); err != nil {
		s.b.Error(err)
	}
}

func id(i int) string { return fmt.Sprintf("c%015d", i) }

func (s *bench) come(i int) {
	if _, degraded, err := s.Connect(s.b.Context(), Conn{ID: id(i), User: fmt.Sprint("user", i)}); err != nil || degraded {
		s.b.Error(degraded, err)
	}
}

func (s *bench) enter(room string) {
	s.pump.subscribe(s.RoomChannel(room))
	if degraded, err := s.Open(s.b.Context(), room); err != nil || degraded {
		s.b.Error(degraded, err)
	}
}

func (s *bench) join(room string, i int) {
	err := s.Join(s.b.Context(), room, id(i), State{}, func(_ View, degraded bool) {
		if degraded {
			s.b.Error("degraded")
		}
	})
	if err != nil {
		s.b.Error(err)
	}
}

func (s *bench) leave(room string, i int) {
	if err := s.Leave(s.b.Context(), room, id(i), ReasonLeft, nil); err != nil {
		s.b.Error(err)
	}
}

func (s *bench) part(i int) { s.Disconnect(id(i), 0, ReasonLeft) }

// crowds are how operations come: one after the other, or so many together, all in one room or each ten in one.
var crowds = []struct {
	name    string
	callers int
	room    func(i int) string
}{
	{"1", 1, func(int) string { return "room" }},
	{"64-in-one-room", 64, func(int) string { return "room" }},
	{"64-in-rooms-of-10", 64, roomOf10},
	{"1000-in-one-room", 1000, func(int) string { return "room" }},
	{"1000-in-rooms-of-10", 1000, roomOf10},
}

// roomOf10 has those who come one after the other go to different rooms.
func roomOf10(i int) string { return fmt.Sprint("room", i/10_000, "-", i%1000) }

// eachCrowd runs a benchmark whose connections are online and whose rooms are open.
func eachCrowd(b *testing.B, f func(s *bench, callers int, room func(i int) string)) {
	server := redistest.Start(b)
	for _, c := range crowds {
		b.Run(c.name, func(b *testing.B) {
			s := startBench(b, server)
			rooms := map[string]bool{}
			for i := range b.N {
				if room := c.room(i); !rooms[room] {
					rooms[room] = true
					s.enter(room)
				}
			}
			inFlight(many, b.N, s.come)
			f(s, c.callers, c.room)
		})
	}
}

func BenchmarkRedisJoin(b *testing.B) {
	eachCrowd(b, func(s *bench, callers int, room func(i int) string) {
		s.measure(callers, func(i int) { s.join(room(i), i) })
	})
}

func BenchmarkRedisLeave(b *testing.B) {
	eachCrowd(b, func(s *bench, callers int, room func(i int) string) {
		inFlight(many, s.b.N, func(i int) { s.join(room(i), i) })
		s.settled()
		s.measure(callers, func(i int) { s.leave(room(i), i) })
	})
}

func BenchmarkRedisOnline(b *testing.B) {
	server := redistest.Start(b)
	for _, callers := range []int{1, 64, 1000} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			s := startBench(b, server)
			s.measure(callers, s.come)
		})
	}
}

func BenchmarkRedisOffline(b *testing.B) {
	server := redistest.Start(b)
	s := startBench(b, server)
	inFlight(many, b.N, s.come)
	s.settled()
	s.measure(1, s.part)
}

// BenchmarkRedisStorm is the coming of a thousand clients at a time whose rooms are not open: each is online, its room is subscribed and read,
// and it is in.
func BenchmarkRedisStorm(b *testing.B) {
	server := redistest.Start(b)
	for _, c := range []struct {
		name string
		room func(i int) string
	}{
		{"one-room", func(int) string { return "room" }},
		{"rooms-of-10", func(i int) string { return fmt.Sprint("room", i/10) }},
		{"rooms-of-1", func(i int) string { return fmt.Sprint("room", i) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := startBench(b, server)
			s.measure(1000, func(i int) {
				s.come(i)
				s.enter(c.room(i))
				s.join(c.room(i), i)
			})
		})
	}
}

// BenchmarkRedisIdle is 25 seconds of 100,000 members who do nothing, extrapolated from five.
func BenchmarkRedisIdle(b *testing.B) {
	s := startBench(b, redistest.Start(b))
	for r := range 1000 {
		s.enter(fmt.Sprint("room", r))
	}
	inFlight(many, 100_000, func(i int) {
		s.come(i)
		s.join(fmt.Sprint("room", i%1000), i)
	})
	s.settled()
	b.ResetTimer()
	var cpu time.Duration
	var scripts int64
	for range b.N {
		s.meter.Start()
		<-time.After(5 * time.Second)
		cost := s.meter.Cost()
		cpu += 5 * cost.CPU
		scripts += 5 * cost.Calls["evalsha"]
	}
	b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "redis-us/op")
	b.ReportMetric(float64(scripts)/float64(b.N), "scripts/op")
}
