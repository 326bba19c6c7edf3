package hub

import (
	"context"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddyrooms/caddy-rooms/internal/bus"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/presence"
	"github.com/caddyrooms/caddy-rooms/ratelimit"
)

// recorder has the spans that its provider has ended.
type recorder struct {
	*tracetest.SpanRecorder
	provider *sdktrace.TracerProvider
}

func newRecorder() *recorder {
	r := &recorder{SpanRecorder: tracetest.NewSpanRecorder()}
	r.provider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r))
	return r
}

// dialTraced connects a client whose upgrade is part of a trace, and returns the context of the upgrade's span.
func (h *house) dialTraced(r *recorder, query string) (*client, trace.SpanContext) {
	h.t.Helper()
	upgrade := make(chan trace.SpanContext, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		ctx, request := r.provider.Tracer("test").Start(req.Context(), "request")
		defer request.End()
		ctx, span := StartUpgrade(ctx)
		defer span.End()
		h.server.Config.Handler.ServeHTTP(w, req.WithContext(ctx))
		upgrade <- span.SpanContext()
	}))
	h.t.Cleanup(server.Close)
	c := roomstest.Dial(h.t, server.URL+query, nil)
	return c, <-upgrade
}

// span waits for the next span of that name after the first n.
func (h *house) span(r *recorder, n int, name string) (found sdktrace.ReadOnlySpan) {
	h.t.Helper()
	h.waitFor("a span "+name, func() bool {
		ended := r.Ended()
		for _, span := range ended[min(n, len(ended)):] {
			if span.Name() == name {
				found = span
			}
		}
		return found != nil
	})
	return found
}

func attributes(span sdktrace.ReadOnlySpan) object {
	all := object{}
	for _, a := range span.Attributes() {
		all[string(a.Key)] = a.Value.AsInterface()
	}
	return all
}

func TestUpgradeSpan(t *testing.T) {
	h, r := open(t, nil), newRecorder()
	_, upgrade := h.dialTraced(r, "?user=ann")
	request, span := h.span(r, 0, "request"), h.span(r, 0, "rooms upgrade")
	if span.Parent().SpanID() != request.SpanContext().SpanID() || span.SpanContext().TraceID() != request.SpanContext().TraceID() {
		t.Errorf("the upgrade's span is no child of the request's")
	}
	if !span.SpanContext().Equal(upgrade) {
		t.Errorf("the upgrade has the span %v, and tells of %v", span.SpanContext(), upgrade)
	}
}

func TestSpansOfRequests(t *testing.T) {
	h, r := open(t, func(p *Policy) {
		p.MaxRooms = 2
		p.Limits = []Limit{
			{Limit: ratelimit.Limit{Name: "publish", Events: 2, Window: time.Hour}, On: OnPublish, Key: NewKey("{rooms.conn}", false), Limiter: &limiter{n: 2}},
		}
	}), newRecorder()
	ann, upgrade := h.dialTraced(r, "?user=ann&room=hall")
	for _, tc := range []struct {
		name, send, answer string
		fail               error // of the bus
		span, room         string
		refused            string
		degraded           bool
	}{
		{name: "join by the server", answer: "ack", span: "rooms join", room: "hall"},
		{name: "join", send: `{"type":"join","id":1,"room":"lobby"}`, answer: "ack", span: "rooms join", room: "lobby"},
		{name: "join too many", send: `{"type":"join","id":1,"room":"yard"}`, answer: "error", span: "rooms join", room: "yard", refused: "too_many_rooms"},
		{name: "publish", send: `{"type":"publish","id":1,"room":"lobby"}`, answer: "ack", span: "rooms publish", room: "lobby"},
		{name: "publish elsewhere", send: `{"type":"publish","id":1,"room":"yard"}`, answer: "error", span: "rooms publish", room: "yard", refused: "not_joined"},
		{
			name: "publish without an answer, without Redis", send: `{"type":"publish","room":"lobby"}`, fail: bus.ErrDown,
			span: "rooms publish", room: "lobby", degraded: true,
		},
		{name: "publish over a limit", send: `{"type":"publish","id":1,"room":"lobby"}`, answer: "error", span: "rooms publish", room: "lobby", refused: "rate_limited"},
		{name: "publish over a limit, untold", send: `{"type":"publish","id":1,"room":"lobby"}`, span: "rooms publish", room: "lobby", refused: "rate_limited"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h.bus.mu.Lock()
			h.bus.fail = tc.fail
			h.bus.mu.Unlock()
			before := len(r.Ended())
			if tc.send == "" {
				before = 0
			} else {
				ann.Send("%s", tc.send)
			}
			if tc.answer != "" {
				ann.Next(tc.answer)
			}
			span := h.span(r, before, tc.span)
			want := object{"rooms.room": tc.room, "rooms.user": "ann", "rooms.conn": ann.Conn}
			if tc.degraded {
				want["rooms.degraded"] = true
			}
			equal(t, "attributes", attributes(span), want)
			status := sdktrace.Status{}
			if tc.refused != "" {
				status = sdktrace.Status{Code: codes.Error, Description: tc.refused}
			}
			equal(t, "status", span.Status(), status)
			equal(t, "kind", span.SpanKind(), trace.SpanKindServer)
			if span.Parent().IsValid() || span.SpanContext().TraceID() == upgrade.TraceID() {
				t.Errorf("the span is part of another trace, with the parent %v", span.Parent())
			}
			if links := span.Links(); len(links) != 1 || !links[0].SpanContext.Equal(upgrade) {
				t.Errorf("the span has the links %v, want one to %v", links, upgrade)
			}
		})
	}
}

// alone is a store that is out of reach.
type alone struct{ presence.Store }

func (a alone) Join(ctx context.Context, room, id string, s presence.State, admit func(presence.View, bool)) error {
	return a.Store.Join(ctx, room, id, s, func(v presence.View, _ bool) { admit(v, true) })
}

func TestSpanOfJoinWithoutStore(t *testing.T) {
	h, r := open(t, nil), newRecorder()
	h.backend.Store = alone{h.backend.Store}
	ann, _ := h.dialTraced(r, "?user=ann")
	ann.Join("lobby")
	equal(t, "degraded", attributes(h.span(r, 0, "rooms join"))["rooms.degraded"], true)
}

// TestOtherRequestsHaveNoSpans: in particular a refusal tells nothing to the span of the request before it.
func TestOtherRequestsHaveNoSpans(t *testing.T) {
	h, r := open(t, nil), newRecorder()
	ann, _ := h.dialTraced(r, "?user=ann")
	ann.Join("lobby")
	ann.Send(`{"type":"publish","id":1,"room":"lobby"}`)
	ann.Next("ack")
	ann.Send(`{"type":"members","id":1,"room":"nowhere"}`)
	ann.Refused("not_joined")
	ann.Send(`{"type":"publish","id":1,"room":"no name"}`)
	ann.Refused("bad_request")
	ann.Quiet()
	h.waitFor("spans", func() bool { return len(r.Ended()) >= 4 })
	names := map[string]int{}
	for _, span := range r.Ended() {
		names[span.Name()]++
		if s := span.Status(); s.Code != codes.Unset {
			t.Errorf("%s has the status %v", span.Name(), s)
		}
	}
	equal(t, "spans", names, map[string]int{"request": 1, "rooms upgrade": 1, "rooms join": 1, "rooms publish": 1})
}

// TestTracingEnds: whoever traces may shut down while its sessions live.
func TestTracingEnds(t *testing.T) {
	h, r := open(t, nil), newRecorder()
	ann, _ := h.dialTraced(r, "?user=ann")
	ann.Join("lobby")
	h.span(r, 0, "rooms join")
	if err := r.provider.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := len(r.Ended())
	ann.Join("lobby")
	ann.Send(`{"type":"publish","id":1,"room":"lobby"}`)
	ann.Next("ack")
	equal(t, "spans", len(r.Ended()), before)
}

func TestPanicEndsTheSpan(t *testing.T) {
	r := newRecorder()
	_, upgrade := r.provider.Tracer("test").Start(t.Context(), "upgrade")
	e := new(Endpoint)
	e.policy.Store(defaultPolicy())
	s := &Session{endpoint: e, tracing: newTracing(upgrade, &Client{Conn: "c1"})} // in no hub
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		s.join(&wire.Request{Room: "lobby"}, true)
	}()
	if ended := r.Ended(); len(ended) != 1 || ended[0].Name() != "rooms join" || s.span != nil {
		t.Errorf("%d spans have ended", len(ended))
	}
}

// providerless is a span that records and does not say for whom.
type providerless struct{ trace.Span }

func (providerless) IsRecording() bool                    { return true }
func (providerless) TracerProvider() trace.TracerProvider { return nil }

func TestNothingIsTraced(t *testing.T) {
	sampled := newRecorder()
	_, recording := sampled.provider.Tracer("test").Start(t.Context(), "request")
	unsampled := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(sampled), sdktrace.WithSampler(sdktrace.NeverSample()))
	_, dropped := unsampled.Tracer("test").Start(t.Context(), "request")
	for name, ctx := range map[string]context.Context{
		"no span":            t.Context(),
		"a span not sampled": trace.ContextWithSpan(t.Context(), dropped),
		"a span elsewhere":   trace.ContextWithRemoteSpanContext(t.Context(), recording.SpanContext()),
		"no provider":        trace.ContextWithSpan(t.Context(), providerless{recording}),
	} {
		t.Run(name, func(t *testing.T) {
			if got, span := StartUpgrade(ctx); got != ctx || span != nil {
				t.Errorf("the upgrade has the span %v", span)
			}
			if newTracing(trace.SpanFromContext(ctx), &Client{Conn: "c1"}) != nil {
				t.Error("the session is traced")
			}
		})
	}
	if newTracing(recording, &Client{Conn: "c1"}) == nil {
		t.Error("a session is not traced whose upgrade is recorded")
	}
}

// TestUntracedRequestsCostNothing does all that a request does for its span, without one.
func TestUntracedRequestsCostNothing(t *testing.T) {
	s, done := new(Session), func(error) {}
	var got func(error)
	allocs := testing.AllocsPerRun(1000, func() {
		s.startSpan("rooms publish", "lobby")
		s.spanDegraded(true)
		s.spanRefused(wire.NotJoined)
		got = s.spanUntil(done)
		s.endSpan()
	})
	if allocs != 0 || s.span != nil {
		t.Errorf("%v allocations, want none", allocs)
	}
	if reflect.ValueOf(got).Pointer() != reflect.ValueOf(done).Pointer() || s.spanUntil(nil) != nil {
		t.Error("what is called with the outcome is not what was passed")
	}
}

func TestClientAttributes(t *testing.T) {
	equal(t, "attributes", ClientAttributes(&Client{Conn: "c1"}), []attribute.KeyValue{
		attribute.String("rooms.user", "anon:c1"), attribute.String("rooms.conn", "c1"),
	})
}
