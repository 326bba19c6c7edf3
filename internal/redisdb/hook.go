package redisdb

import (
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

type contextKey int

const (
	noDial    contextKey = iota // the subscriber must not dial
	unguarded                   // the breaker neither stops nor counts the command
	operation                   // what the command is for
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

// For returns a context whose commands are counted as being for what.
func For(ctx context.Context, what string) context.Context {
	return context.WithValue(ctx, operation, what)
}

// setup are the commands that begin what go-redis itself sends on a new connection, within the call that needs it.
var setup = []string{"hello", "auth", "client", "select"}

// meter tells of each exchange with Redis: one command, or one pipeline.
type meter struct {
	db    *DB
	usual string // what commands are for whose context does not say
}

func (meter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (m meter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		began := time.Now()
		err := next(ctx, cmd)
		m.tell(ctx, cmd, began, failed(err))
		return err
	}
}

func (m meter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		began := time.Now()
		err := next(ctx, cmds)
		m.tell(ctx, cmds[0], began, failed(err) || slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return failed(cmd.Err()) }))
		return err
	}
}

func (m meter) tell(ctx context.Context, first redis.Cmder, began time.Time, failed bool) {
	if m.db.onRoundTrip == nil || slices.Contains(setup, first.Name()) {
		return
	}
	what, ok := ctx.Value(operation).(string)
	if !ok {
		what = m.usual
	}
	m.db.onRoundTrip(what, time.Since(began), failed)
}

// failed tells whether err is more than an answer: that a key isn't there, or a script, which is then loaded.
func failed(err error) bool {
	return err != nil && !errors.Is(err, redis.Nil) && !redis.HasErrorPrefix(err, "NOSCRIPT")
}
