package module

import (
	"slices"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// logTarget is where the log of a hub goes: to the logs of the configuration that is live, as those of an earlier one are closed. Its
// methods may be called from any goroutine.
type logTarget struct{ core atomic.Pointer[zapcore.Core] }

// use has all loggers write to logger's core from now on.
func (t *logTarget) use(logger *zap.Logger) {
	core := logger.Core()
	t.core.Store(&core)
}

// logger returns a logger of that name.
func (t *logTarget) logger(name string) *zap.Logger {
	return zap.New(movingCore{target: t}).Named(name)
}

// movingCore is a core that hands everything to its target's.
type movingCore struct {
	target *logTarget
	fields []zapcore.Field
}

// Enabled implements zapcore.Core.
func (c movingCore) Enabled(level zapcore.Level) bool { return c.present().Enabled(level) }

// With implements zapcore.Core.
func (c movingCore) With(fields []zapcore.Field) zapcore.Core {
	return movingCore{c.target, append(slices.Clip(c.fields), fields...)}
}

// Check implements zapcore.Core. It leaves the entry to the present core.
func (c movingCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	core := c.present()
	if len(c.fields) > 0 && core.Enabled(e.Level) {
		core = core.With(c.fields)
	}
	return core.Check(e, checked)
}

// Write implements zapcore.Core. Check leaves nothing to it.
func (c movingCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	return c.present().Write(e, slices.Concat(c.fields, fields))
}

// Sync implements zapcore.Core.
func (c movingCore) Sync() error { return c.present().Sync() }

func (c movingCore) present() zapcore.Core { return *c.target.core.Load() }
