package redisdb

import (
	"context"
	"errors"
	"net"

	"github.com/redis/go-redis/v9"
)

type contextKey int

const (
	noDial    contextKey = iota // the subscriber must not dial
	unguarded                   // the breaker neither stops nor counts the command
)

var errNoDial = errors.New("redisdb: reconnecting is left to the caller")

// NoDial returns a context with which [DB.Subscriber] uses the connection it has but opens none. A redis.PubSub would
// otherwise reconnect by itself after an error, without telling that messages were lost.
func NoDial(ctx context.Context) context.Context { return context.WithValue(ctx, noDial, true) }

// watch reports dials to the breaker.
type watch struct{ breaker *breaker }

func (w watch) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if ctx.Value(noDial) != nil {
			return nil, errNoDial
		}
		conn, err := next(ctx, network, addr)
		if err != nil && ctx.Err() == nil {
			w.breaker.cut(err)
		}
		return conn, err
	}
}

func (watch) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (watch) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// guard also reports commands to the breaker, and fails them at once while Redis is down.
type guard struct{ watch }

func (g guard) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if ctx.Value(unguarded) != nil {
			return next(ctx, cmd)
		}
		return g.breaker.do(ctx, func() error { return next(unguard(ctx), cmd) })
	}
}

func (g guard) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if ctx.Value(unguarded) != nil {
			return next(ctx, cmds)
		}
		err := g.breaker.do(ctx, func() error { return next(unguard(ctx), cmds) })
		if errors.Is(err, ErrDown) {
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
		}
		return err
	}
}

// unguard returns the context of a command that the breaker leaves alone. It does so with what goes on inside a guarded
// one: the commands that set up a new connection come to the same hook.
func unguard(ctx context.Context) context.Context { return context.WithValue(ctx, unguarded, true) }
