package hub

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddyrooms/caddy-rooms/internal/wire"
)

// scope names what makes the spans.
const scope = "github.com/caddyrooms/caddy-rooms"

// tracing is how the requests of a session are traced. It is immutable. It has the upgrade's span only by its ids, so that nothing of
// the request is kept. A tracer whose provider was shut down makes spans that go nowhere.
type tracing struct {
	tracer  trace.Tracer
	options []trace.SpanStartOption // of every span
}

// newTracing returns how the requests of a session are traced that upgrade belongs to; nil: they are not.
func newTracing(upgrade trace.Span, c *Client) *tracing {
	tracer := tracerBeside(upgrade)
	if tracer == nil {
		return nil
	}
	return &tracing{tracer: tracer, options: []trace.SpanStartOption{
		trace.WithLinks(trace.Link{SpanContext: upgrade.SpanContext()}),
		trace.WithSpanKind(trace.SpanKindServer),
		trace.WithAttributes(ClientAttributes(c)...),
	}}
}

// tracerBeside returns a tracer of the provider that span is of; nil when nothing is recorded.
func tracerBeside(span trace.Span) trace.Tracer {
	if !span.IsRecording() || !span.SpanContext().IsValid() {
		return nil
	}
	provider := span.TracerProvider()
	if provider == nil {
		return nil
	}
	return provider.Tracer(scope)
}

// StartUpgrade begins the span of an upgrade if the request with ctx is traced; the caller ends it. Otherwise the span is nil. The requests of
// a session that [Endpoint.Accept] makes for a request with the returned context are traced like the upgrade.
func StartUpgrade(ctx context.Context) (context.Context, trace.Span) {
	tracer := tracerBeside(trace.SpanFromContext(ctx))
	if tracer == nil {
		return ctx, nil
	}
	return tracer.Start(ctx, "rooms upgrade")
}

// ClientAttributes are what spans tell of a client.
func ClientAttributes(c *Client) []attribute.KeyValue {
	return []attribute.KeyValue{attribute.String("rooms.user", c.UserID()), attribute.String("rooms.conn", c.Conn)}
}

// startSpan begins the span of the request that is being done, if the session is traced. It is the root of a trace of its own: one trace for
// all that is done by a connection would go on for hours. s.work is held.
func (s *Session) startSpan(name, room string) {
	if s.tracing == nil {
		return
	}
	options := append([]trace.SpanStartOption{trace.WithAttributes(attribute.String("rooms.room", room))}, s.tracing.options...)
	_, s.span = s.tracing.tracer.Start(context.Background(), name, options...)
}

// endSpan ends the request's span, unless spanUntil has left that to others. s.work is held.
func (s *Session) endSpan() {
	if s.span != nil {
		s.span.End()
		s.span = nil
	}
}

// spanUntil has the request's span end with done, which answers the request, instead of endSpan. done may be nil. s.work is held.
func (s *Session) spanUntil(done func(error)) func(error) {
	span := s.span
	if span == nil {
		return done
	}
	s.span = nil
	return func(err error) {
		defer span.End()
		if err != nil {
			span.SetAttributes(degraded)
		}
		if done != nil {
			done(err)
		}
	}
}

var degraded = attribute.Bool("rooms.degraded", true)

// spanDegraded tells the request's span whether the shared store was out of reach. s.work is held.
func (s *Session) spanDegraded(is bool) {
	if s.span != nil && is {
		s.span.SetAttributes(degraded)
	}
}

// spanRefused tells the request's span why the request was not done. s.work is held.
func (s *Session) spanRefused(code wire.Code) {
	if s.span != nil {
		s.span.SetStatus(codes.Error, string(code))
	}
}
