package redistest

import (
	"bufio"
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Meter tells what a server does from one moment to another. It belongs to one goroutine.
type Meter struct {
	t      testing.TB
	client *redis.Client
	from   Cost
}

// Cost is what a server did. What it took to ask is part of it: one command.
type Cost struct {
	CPU   time.Duration    // of the main thread, system calls included
	Reads int64            // of sockets; a pipeline is one, unless it is long
	Calls map[string]int64 // of each command, those in scripts included
}

// Meter returns a meter of the server, which was started when it was made.
func (s *Server) Meter() *Meter {
	s.t.Helper()
	m := &Meter{t: s.t, client: s.Client()}
	m.Start()
	return m
}

// Start begins anew.
func (m *Meter) Start() {
	m.t.Helper()
	m.from = m.read()
}

// Cost returns what the server did since the meter was started.
func (m *Meter) Cost() Cost {
	m.t.Helper()
	now := m.read()
	cost := Cost{CPU: now.CPU - m.from.CPU, Reads: now.Reads - m.from.Reads, Calls: map[string]int64{}}
	for name, n := range now.Calls {
		if n -= m.from.Calls[name]; n > 0 {
			cost.Calls[name] = n
		}
	}
	return cost
}

// Report adds to a benchmark what each of n operations since the start cost the server: redis-us/op, microseconds of its main thread,
// and scripts/op and publishes/op where there were any.
func (m *Meter) Report(b *testing.B, n int) {
	b.Helper()
	cost := m.Cost()
	b.ReportMetric(float64(cost.CPU)/float64(time.Microsecond)/float64(n), "redis-us/op")
	for command, unit := range map[string]string{"evalsha": "scripts/op", "publish": "publishes/op"} {
		if calls := cost.Calls[command]; calls > 0 {
			b.ReportMetric(float64(calls)/float64(n), unit)
		}
	}
}

func (m *Meter) read() Cost {
	m.t.Helper()
	info, err := m.client.Info(context.Background(), "cpu", "stats", "commandstats").Result()
	if err != nil {
		m.t.Fatalf("asking redis-server what it does: %v", err)
	}
	cost := Cost{Calls: map[string]int64{}}
	for lines := bufio.NewScanner(strings.NewReader(info)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		switch command, isCommand := strings.CutPrefix(name, "cmdstat_"); {
		case name == "used_cpu_user_main_thread" || name == "used_cpu_sys_main_thread":
			seconds, _ := strconv.ParseFloat(value, 64)
			cost.CPU += time.Duration(seconds * float64(time.Second))
		case name == "total_reads_processed":
			cost.Reads, _ = strconv.ParseInt(value, 10, 64)
		case isCommand:
			calls, _, _ := strings.Cut(strings.TrimPrefix(value, "calls="), ",")
			cost.Calls[command], _ = strconv.ParseInt(calls, 10, 64)
		}
	}
	if cost.CPU == 0 || cost.Reads == 0 {
		m.t.Fatal("this redis-server does not tell the CPU time of its main thread and its reads")
	}
	return cost
}
