package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// gate stands in for Redis: it allows everything, but holds each exchange until it is let through.
type gate struct {
	through chan struct{}

	mu    sync.Mutex
	sizes []int // of the pipelines that came; guarded by mu
}

func (g *gate) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (g *gate) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (g *gate) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(_ context.Context, cmds []redis.Cmder) error {
		g.mu.Lock()
		g.sizes = append(g.sizes, len(cmds))
		g.mu.Unlock()
		<-g.through
		for _, cmd := range cmds {
			cmd.(*redis.Cmd).SetVal([]any{int64(1), int64(5), int64(1000), int64(1000)})
		}
		return nil
	}
}

func (g *gate) expect(t *testing.T, want ...int) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Equal(g.sizes, want) {
		t.Errorf("exchanges of %v checks, want %v", g.sizes, want)
	}
}

// gated returns a limiter on a gate, and a function that has n callers check and returns their errors when all have an answer.
func gated(t *testing.T) (r *Redis, g *gate, check func(n int) (wait func() []error)) {
	client := redis.NewClient(&redis.Options{
		// They would come with a goroutine.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	t.Cleanup(func() { _ = client.Close() })
	g = &gate{through: make(chan struct{})}
	client.AddHook(g)
	r = NewRedis(client, RedisOptions{})
	l := Limit{Name: "n", Events: 10, Window: time.Hour, Algorithm: SlidingCounter}
	return r, g, func(n int) func() []error {
		errs := make([]error, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { _, errs[i] = r.Allow(context.Background(), l, fmt.Sprint(i)) })
		}
		synctest.Wait()
		return func() []error { wg.Wait(); return errs }
	}
}

func TestChecksInFlightGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, g, check := gated(t)
		first := check(1)
		others := check(maxPipeline + 10)
		g.expect(t, 1)
		close(g.through)
		if err := errors.Join(append(first(), others()...)...); err != nil {
			t.Error(err)
		}
		g.expect(t, 1, maxPipeline, 10)
	})
}

// Who waits for the exchange of others waits no longer than for his own, and is not counted when he has gone.
func TestDeadlineOfWhoWaitsForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, g, check := gated(t)
		check(1)
		<-time.After(DefaultTimeout / 2)
		others := check(3)
		began := time.Now()
		for _, err := range others() {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want %v", err, context.DeadlineExceeded)
			}
		}
		if waited := time.Since(began); waited != DefaultTimeout {
			t.Errorf("waited for %s, want %s", waited, DefaultTimeout)
		}
		last := check(1)
		close(g.through)
		if err := last()[0]; err != nil {
			t.Error(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		g.expect(t, 1, 1)
	})
}
