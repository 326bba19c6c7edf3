package presence

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/bus"
	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// bench is a store and its bus, on a Redis of a benchmark, as a hub has them.
type bench struct {
	*Redis
	b     *testing.B
	bus   *bus.Redis
	meter *redistest.Meter
}

// receiver hands what the bus brings to the store.
type receiver struct{ to *Redis }

func (r receiver) Receive(channel string, payload []byte) { r.to.Deliver(channel, payload) }
func (r receiver) Lost(channels []string)                 { r.to.Lost(channels) }

var benchPrefixes atomic.Int64

// startBench returns a store with nobody in it.
func startBench(b *testing.B, server *redistest.Server) *bench {
	prefix := redisdb.Base("bench", fmt.Sprint(benchPrefixes.Add(1)))
	db := redisdb.Open(redisdb.Options{Addr: server.Addr, Prefix: prefix}, zap.NewNop())
	s := NewRedis(db.Commands(), Options{Prefix: prefix, Timeout: 20 * time.Second}, ignore{})
	transport := bus.NewRedis(db, receiver{s}, zap.NewNop(), bus.RedisOptions{Control: redisdb.ControlChannel(prefix, "bench")})
	db.Start()
	transport.Start()
	if err := transport.Subscribe(b.Context(), s.UsersChannel()); err != nil {
		b.Fatal(err)
	}
	s.Start()
	b.Cleanup(func() {
		_ = s.Close(b.Context(), 0)
		_ = transport.Close()
		_ = db.Close()
	})
	eventually(b, "it is shared", func() bool { return !s.Degraded() })
	return &bench{Redis: s, b: b, bus: transport, meter: server.Meter()}
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
	if err := s.bus.Subscribe(s.b.Context(), s.RoomChannel(room)); err != nil {
		s.b.Error(err)
	}
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

// BenchmarkRedisIdle is 25 seconds of 100,000 members who do nothing, extrapolated from ten, whatever b.N is. What Redis takes for itself
// is not part of it.
func BenchmarkRedisIdle(b *testing.B) {
	server := redistest.Start(b)
	idle := func() redistest.Cost {
		m := server.Meter()
		<-time.After(10 * time.Second)
		return m.Cost()
	}
	empty := idle()
	s := startBench(b, server)
	for r := range 1000 {
		s.enter(fmt.Sprint("room", r))
	}
	inFlight(many, 100_000, func(i int) {
		s.come(i)
		s.join(fmt.Sprint("room", i%1000), i)
	})
	s.settled()
	b.ResetTimer()
	cost := idle()
	b.ReportMetric(2.5*float64((cost.CPU-empty.CPU).Microseconds()), "redis-us/op")
	b.ReportMetric(2.5*float64(empty.CPU.Microseconds()), "empty-redis-us/op")
	b.ReportMetric(2.5*float64(cost.Calls["evalsha"]), "scripts/op")
}

// BenchmarkRedisLife is the whole life of connections that join one of a thousand rooms, read a page and go.
func BenchmarkRedisLife(b *testing.B) {
	server := redistest.Start(b)
	for _, callers := range []int{1, 64, 1000} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			s := startBench(b, server)
			for r := range 1000 {
				s.enter(fmt.Sprint("room", r))
			}
			s.measure(callers, func(i int) {
				room := fmt.Sprint("room", i%1000)
				s.come(i)
				s.join(room, i)
				s.View(room, func(v View, _ bool) { v.Page("", 100) })
				s.part(i)
			})
		})
	}
}
