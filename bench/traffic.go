package main

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// fanout measures one room, or several, and a client more that publishes to the first.
func fanout(m *measurement) error {
	if _, err := m.connect(m.Clients, m.rooms); err != nil {
		return err
	}
	first := func(int) []string { return m.rooms(0)[:1] }
	stalled, err := m.connect(m.Stalled, first)
	if err != nil {
		return err
	}
	for _, c := range stalled {
		if err := c.stall(); err != nil {
			return err
		}
	}
	audience := min(m.RoomSize, m.Clients)
	if m.Batch > 0 {
		b := openBackend(m.ctx, m.options, m.meter, m.rooms(0)[0])
		defer b.close()
		return m.traffic([]publisher{b}, audience, stalled)
	}
	publishing, err := m.connect(1, first)
	if err != nil {
		return err
	}
	return m.traffic([]publisher{publishing[0]}, audience, stalled)
}

// chat measures many rooms in which everybody publishes.
func chat(m *measurement) error {
	conns, err := m.connect(m.Clients, m.rooms)
	if err != nil {
		return err
	}
	publishers := make([]publisher, len(conns))
	for i, c := range conns {
		publishers[i] = c
	}
	return m.traffic(publishers, m.RoomSize-1, nil)
}

// traffic has the publishers publish in turn, and measures what is delivered to an audience of so many for each message.
func (m *measurement) traffic(publishers []publisher, audience int, stalled []*conn) error {
	m.meter.audience = audience
	var before, after collected
	var err error
	if m.Admin != "" {
		if before, err = m.Admin.collect(m.ctx); err != nil {
			return err
		}
	}
	stop := make(chan struct{})
	var publishing sync.WaitGroup
	var published atomic.Int64
	start := time.Now()
	publishing.Go(func() {
		for i := 0; ; i++ {
			wait := time.NewTimer(time.Until(start.Add(time.Duration(float64(i) / m.Rate * float64(time.Second)))))
			select {
			case <-wait.C:
			case <-stop:
				wait.Stop()
				return
			}
			if publishers[i%len(publishers)].publish(m.meter.payload(i, m.Size)) != nil {
				return // its end is counted where it reads
			}
			published.Add(1)
		}
	})
	defer publishing.Wait()
	defer close(stop)

	if err := m.sleep(m.Warm); err != nil {
		return err
	}
	cpu0, known, err := m.cpu()
	if err != nil {
		return err
	}
	n0 := published.Load()
	begun := time.Now()
	m.meter.on.Store(true)
	if err := m.sleep(m.Time); err != nil {
		return err
	}
	m.meter.on.Store(false)
	seconds := time.Since(begun).Seconds()
	n := float64(published.Load() - n0)
	cpu1, _, err := m.cpu()
	if err != nil {
		return err
	}
	if m.Admin != "" {
		if after, err = m.Admin.collect(m.ctx); err != nil {
			return err
		}
	}

	f, deliveries := m.found, float64(m.meter.deliveries.Load())
	if deliveries == 0 {
		return fmt.Errorf("nothing was delivered; %d publishes were refused, %d connections ended", m.meter.refused.Load(), m.meter.ended.Load())
	}
	f["published_per_s"] = n / seconds
	f["deliveries_per_s"] = deliveries / seconds
	f["delivered_percent"] = 100 * deliveries / (n * float64(audience))
	f["bytes_per_delivery"] = float64(m.meter.bytes.Load()) / deliveries
	if m.meter.latency.quantile(1) > 0 {
		f["p50_ms"], f["p99_ms"] = milliseconds(m.meter.latency.quantile(.5)), milliseconds(m.meter.latency.quantile(.99))
		f["last_p50_ms"], f["last_p99_ms"] = milliseconds(m.meter.last.quantile(.5)), milliseconds(m.meter.last.quantile(.99))
	}
	if m.conns[0].deflate {
		f["deflated"] = 1
	}
	if known {
		f["us_per_delivery"] = float64((cpu1.server - cpu0.server).Microseconds()) / deliveries
		f["us_per_publish"] = float64((cpu1.server - cpu0.server).Microseconds()) / n
		f["server_cores"] = (cpu1.server - cpu0.server).Seconds() / seconds
		f["client_cores"] = (cpu1.clients - cpu0.clients).Seconds() / seconds
	}
	if m.Admin != "" {
		f["allocs_per_delivery"] = (after.mallocs - before.mallocs) / float64(published.Load()*int64(audience))
	}
	if len(stalled) == 0 {
		return nil
	}
	if m.Admin != "" {
		f["kb_per_stalled"] = (after.memory - before.memory) / 1024 / float64(len(stalled))
	}
	if m.PID != 0 {
		held, err := m.held(stalled)
		if err != nil {
			return err
		}
		f["kernel_kb_per_stalled"] = held / 1024 / float64(len(stalled))
	}
	return nil
}

// held returns how many bytes the kernel holds in the server's sockets for these clients.
func (m *measurement) held(clients []*conn) (bytes float64, err error) {
	u, err := url.Parse(m.URL)
	if err != nil {
		return 0, err
	}
	server, err := strconv.Atoi(u.Port())
	if err != nil {
		return 0, fmt.Errorf("-url %q: with -stalled and -pid it must have a port", m.URL)
	}
	ports := make(map[int]bool)
	for _, c := range clients {
		ports[c.nc.LocalAddr().(*net.TCPAddr).Port] = true
	}
	return unsent(server, ports)
}
