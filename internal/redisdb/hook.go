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
		if g.breaker.down() {
			return ErrDown
		}
		// The commands that set up a new connection come here too, inside the one that needs it.
		err := next(context.WithValue(ctx, unguarded, true), cmd)
		g.breaker.report(ctx, err)
		return err
	}
}

func (g guard) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if ctx.Value(unguarded) != nil {
			return next(ctx, cmds)
		}
		if g.breaker.down() {
			for _, cmd := range cmds {
				cmd.SetErr(ErrDown)
			}
			return ErrDown
		}
		err := next(context.WithValue(ctx, unguarded, true), cmds)
		g.breaker.report(ctx, err)
		return err
	}
}
