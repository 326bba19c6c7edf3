package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// connecting is how many clients connect at once.
const connecting = 64

// measurement is one run of one mode. It belongs to one goroutine.
type measurement struct {
	*options
	ctx   context.Context
	meter *meter
	conns []*conn
	found figures
}

// measure does what o says, which validate has agreed to.
func measure(ctx context.Context, o *options) (figures, error) {
	m := &measurement{options: o, ctx: ctx, meter: new(meter), found: make(figures)}
	defer func() {
		for _, c := range m.conns {
			c.close()
		}
	}()
	if err := modes[o.Mode](m); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.found["clients"] = float64(o.Clients)
	m.found["refused"] = float64(m.meter.refused.Load())
	m.found["ended"] = float64(m.meter.ended.Load())
	return m.found, nil
}

// connect opens n connections, of which the one with number i joins rooms(i), and returns when all have joined.
func (m *measurement) connect(n int, rooms func(i int) []string) ([]*conn, error) {
	ctx, cancel := context.WithCancelCause(m.ctx)
	defer cancel(nil)
	conns := make([]*conn, n)
	numbers := make(chan int)
	var working sync.WaitGroup
	for range min(connecting, n) {
		working.Go(func() {
			for i := range numbers {
				c, err := m.enter(ctx, rooms(i))
				conns[i] = c
				if err != nil {
					cancel(fmt.Errorf("client %d of %d: %w", i+1, n, err))
				}
			}
		})
	}
	for i := range n {
		select {
		case numbers <- i:
		case <-ctx.Done():
		}
	}
	close(numbers)
	working.Wait()
	for _, c := range conns {
		if c != nil {
			m.conns = append(m.conns, c)
		}
	}
	return conns, context.Cause(ctx)
}

// enter opens a connection and returns when it has joined. It is called from several goroutines.
func (m *measurement) enter(ctx context.Context, rooms []string) (*conn, error) {
	c, err := dial(ctx, m.options, m.meter)
	if err != nil {
		return nil, err
	}
	c.rooms = rooms
	go c.read()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case err = <-c.joined:
	case <-timeout.C:
		err = fmt.Errorf("no answer to the join within %s", patience)
	case <-ctx.Done():
		err = ctx.Err()
	}
	return c, err
}

// sleep returns early, with an error, when the measurement is ended.
func (m *measurement) sleep(d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-m.ctx.Done():
		return m.ctx.Err()
	}
}

// cpu is what processes have used up to a moment.
type cpu struct{ server, clients time.Duration }

// cpu returns false when the server's process is not known. That of the clients is this one.
func (m *measurement) cpu() (c cpu, known bool, err error) {
	if m.PID == 0 {
		return c, false, nil
	}
	var err1, err2 error
	c.server, err1 = cpuTime(m.PID)
	c.clients, err2 = cpuTime(os.Getpid())
	return c, true, errors.Join(err1, err2)
}
