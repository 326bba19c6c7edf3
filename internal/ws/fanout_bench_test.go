//go:build unix

package ws

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/metrics"
)

// drainEnv makes the test binary a process that connects to an address as often as asked, and throws away what it gets.
const drainEnv = "ROOMS_BENCH_DRAIN"

func init() {
	if spec := os.Getenv(drainEnv); spec != "" {
		drain(spec)
		os.Exit(0)
	}
}

func drain(spec string) {
	addr, count, _ := strings.Cut(spec, "*")
	var n int
	if _, err := fmt.Sscan(count, &n); err != nil {
		panic(err)
	}
	for range n {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			panic(err)
		}
		go func() { _, _ = io.Copy(io.Discard, c) }()
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until the benchmark has ended
}

// drained returns connections to another process that reads from them, so that its work is not measured with ours.
func drained(b *testing.B, n int) []net.Conn {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s*%d", drainEnv, l.Addr(), n))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = stdin.Close(); _ = cmd.Wait() })
	conns := make([]net.Conn, n)
	for i := range conns {
		if conns[i], err = l.Accept(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conns[i].Close() })
	}
	return conns
}

// cpu is the time that the process has spent on its processors.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFanout sends one frame to many connections, in turn through the pool and by a bare loop of writes, and reports the median of the
// ratios of their processor time: the two are so close together that what else the machine does strikes both.
func BenchmarkFanout(b *testing.B) {
	for _, n := range []int{10, 1000, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			pool := NewPool(nil, metrics.New("test"), time.Hour)
			defer pool.Close()
			var limits atomic.Pointer[Limits]
			limits.Store(&Limits{MaxFrame: 1 << 16, SendQueue: 1 << 30, WriteTimeout: time.Second})
			sockets := drained(b, n)
			conns := make([]*Conn, n)
			for i, nc := range sockets {
				conns[i] = &Conn{pool: pool, worker: pool.workers[i%len(pool.workers)], limits: &limits, nc: nc, socket: nc, raw: rawConn(nc), slot: -1}
			}
			f := text(strings.Repeat("x", 200))
			bare := func() {
				for _, nc := range sockets {
					if _, err := nc.Write(f.bytes); err != nil {
						b.Fatal(err)
					}
				}
			}
			ours := func() {
				batch := pool.Batch()
				for _, c := range conns {
					batch.Send(c, f)
				}
				batch.End()
			}
			var ratios, micros []float64
			// Each does several messages in a row with a pause between them, like a room that is talked in.
			measure := func(send func()) float64 {
				var spent time.Duration
				for range max(5, 2000/n) {
					before := cpu(b)
					send()
					for wait := true; wait; wait = busy(conns) {
						time.Sleep(3 * time.Millisecond)
					}
					spent += cpu(b) - before
				}
				return float64(spent.Nanoseconds()) / 1000 / float64(n*max(5, 2000/n))
			}
			measure(bare)
			measure(ours)
			for b.Loop() {
				x := measure(bare)
				y := measure(ours)
				ratios, micros = append(ratios, y/x), append(micros, y)
			}
			slices.Sort(ratios)
			slices.Sort(micros)
			b.ReportMetric(ratios[len(ratios)/2], "x-bare")
			b.ReportMetric(micros[len(micros)/2], "us/delivery")
		})
	}
}

func busy(conns []*Conn) bool { return slices.ContainsFunc(conns, (*Conn).isBusy) }
