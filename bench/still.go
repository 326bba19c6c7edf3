package main

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
)

// settleTime is how long the runtime of a server is given to hand memory back after a collection.
const settleTime = 3 * time.Second

// idle measures what clients cost that are in rooms and silent.
func idle(m *measurement) error {
	memory, goroutines, err := m.taken()
	if err != nil {
		return err
	}
	if _, err := m.connect(m.Clients, m.rooms); err != nil {
		return err
	}
	if err := m.sleep(m.Warm); err != nil {
		return err
	}
	if err := m.rest(); err != nil {
		return err
	}
	after, running, err := m.taken()
	if err != nil {
		return err
	}
	if m.PID != 0 {
		m.found["kb_per_conn"] = (after - memory) / 1024 / float64(m.Clients)
	}
	if m.Admin == "" {
		return nil
	}
	m.found["goroutines_per_conn"] = (running - goroutines) / float64(m.Clients)
	if m.PID == 0 {
		return nil
	}
	// The second collection frees what the first has found to have a finalizer.
	for range 2 {
		if _, err := m.Admin.collect(m.ctx); err != nil {
			return err
		}
	}
	if err := m.sleep(settleTime); err != nil {
		return err
	}
	if after, _, err = m.taken(); err != nil {
		return err
	}
	m.found["kb_per_conn_collected"] = (after - memory) / 1024 / float64(m.Clients)
	return nil
}

// rest sleeps for the time that is measured.
func (m *measurement) rest() error {
	if m.Redis == "" {
		return m.sleep(m.Time)
	}
	before, err := redisCPU(m.ctx, m.Redis)
	if err != nil {
		return err
	}
	if err := m.sleep(m.Time); err != nil {
		return err
	}
	after, err := redisCPU(m.ctx, m.Redis)
	m.found["redis_cpu_ms"] = milliseconds(after - before)
	return err
}

// taken returns what the server's process has taken, as far as it is known.
func (m *measurement) taken() (memory, goroutines float64, err error) {
	if m.PID != 0 {
		if memory, err = resident(m.PID); err != nil {
			return 0, 0, err
		}
	}
	if m.Admin != "" {
		goroutines, err = m.Admin.goroutines(m.ctx)
	}
	return memory, goroutines, err
}

// redisCPU returns the CPU time that a Redis has used.
func redisCPU(ctx context.Context, addr string) (time.Duration, error) {
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1})
	defer func() { _ = client.Close() }()
	text, err := client.Info(ctx, "cpu").Result()
	if err != nil {
		return 0, err
	}
	user, err := number(text, "used_cpu_user:")
	if err != nil {
		return 0, err
	}
	system, err := number(text, "used_cpu_sys:")
	return time.Duration((user + system) * float64(time.Second)), err
}

// join measures how fast clients come: each opens a connection and joins its rooms, as many at once as connect has it.
func join(m *measurement) error {
	cpu0, known, err := m.cpu()
	if err != nil {
		return err
	}
	begun := time.Now()
	if _, err := m.connect(m.Clients, m.rooms); err != nil {
		return err
	}
	seconds := time.Since(begun).Seconds()
	cpu1, _, err := m.cpu()
	if err != nil {
		return err
	}
	m.found["joins_per_s"] = float64(m.Clients) / seconds
	if known {
		m.found["us_per_join"] = float64((cpu1.server - cpu0.server).Microseconds()) / float64(m.Clients)
		m.found["server_cores"] = (cpu1.server - cpu0.server).Seconds() / seconds
		m.found["client_cores"] = (cpu1.clients - cpu0.clients).Seconds() / seconds
	}
	return nil
}
