package module

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// traceReceiver takes in what an OTLP exporter sends. Any goroutine may use it.
type traceReceiver struct {
	t     *testing.T
	url   string
	mu    sync.Mutex
	spans []*otlp.Span // guarded by mu
}

func receiveTraces(t *testing.T) *traceReceiver {
	t.Helper()
	r := &traceReceiver{t: t}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

func (r *traceReceiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	var export collector.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &export)
	}
	if err != nil || req.URL.Path != "/v1/traces" {
		r.t.Errorf("%s: %v", req.URL.Path, err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, resource := range export.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			r.spans = append(r.spans, scope.Spans...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// env is what makes a process send its traces here, soon.
func (r *traceReceiver) env() []string {
	return []string{
		"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT=" + r.url,
		"OTEL_BSP_SCHEDULE_DELAY=20",
	}
}

// wait waits for a span of that name with that attribute.
func (r *traceReceiver) wait(c *caddytest.Caddy, name, key, value string) (found *otlp.Span) {
	r.t.Helper()
	c.Wait("the span "+name, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, span := range r.spans {
			if span.Name == name && attributeOf(span, key).GetStringValue() == value {
				found = span
			}
		}
		return found != nil
	})
	return found
}

func attributeOf(span *otlp.Span, key string) *common.AnyValue {
	for _, a := range span.Attributes {
		if a.Key == key {
			return a.Value
		}
	}
	return nil
}

const tracedConfig = `:{$PORT} {
	TRACING
	rooms /ws {
		user {http.request.uri.query.user}
	}
	rooms /one one {
		user {http.request.uri.query.user}
		max_connections 1
	}
}`

func TestTracing(t *testing.T) {
	receiver := receiveTraces(t)
	c := caddytest.StartText(t, strings.Replace(tracedConfig, "TRACING", "tracing", 1), receiver.env()...)
	ann := dial(t, c, "ann")
	ann.Join("lobby")
	ann.Send(`{"type":"publish","id":1,"room":"lobby"}`)
	ann.Next("ack")
	ann.Send(`{"type":"publish","id":2,"room":"elsewhere"}`)
	ann.Refused("not_joined")

	upgrade := receiver.wait(c, "rooms upgrade", "rooms.conn", ann.Conn)
	request := receiver.wait(c, "handler", "url.path", "/ws")
	if !bytes.Equal(upgrade.ParentSpanId, request.SpanId) || !bytes.Equal(upgrade.TraceId, request.TraceId) {
		t.Error("the upgrade's span is no child of the request's")
	}
	if attributeOf(upgrade, "rooms.user").GetStringValue() != "ann" || attributeOf(upgrade, "http.response.status_code").GetIntValue() != 101 {
		t.Errorf("the upgrade's span has the attributes %v", upgrade.Attributes)
	}
	for _, tc := range []struct{ name, room, refused string }{
		{"rooms join", "lobby", ""}, {"rooms publish", "lobby", ""}, {"rooms publish", "elsewhere", "not_joined"},
	} {
		span := receiver.wait(c, tc.name, "rooms.room", tc.room)
		if len(span.ParentSpanId) > 0 || len(span.Links) != 1 || !bytes.Equal(span.Links[0].SpanId, upgrade.SpanId) ||
			!bytes.Equal(span.Links[0].TraceId, upgrade.TraceId) {
			t.Errorf("%s is not linked to the upgrade: %v", tc.name, span)
		}
		if span.Kind != otlp.Span_SPAN_KIND_SERVER || attributeOf(span, "rooms.user").GetStringValue() != "ann" ||
			attributeOf(span, "rooms.conn").GetStringValue() != ann.Conn || span.GetStatus().GetMessage() != tc.refused {
			t.Errorf("%s: %v", tc.name, span)
		}
	}

	// Without tracing the connection goes on, and says no more of itself.
	_, port, _ := strings.Cut(c.Addr, ":")
	without := strings.NewReplacer("TRACING", "", "{$PORT}", port).Replace("{\n\tadmin " + c.Admin + "\n}\n" + tracedConfig)
	if status, answer := c.Reload(without); status != http.StatusOK {
		t.Fatalf("reload: %d %s", status, answer)
	}
	ann.Join("after")
	ann.Send(`{"type":"publish","id":3,"room":"after"}`)
	ann.Next("ack")
	bob := dial(t, c, "bob")
	bob.Join("after")
	ann.Next("presence")
	_, _ = ann.WS.CloseNow(), bob.WS.CloseNow()
	c.Stop() // what is still to be sent is sent then
	receiver.mu.Lock()
	defer receiver.mu.Unlock()
	for _, span := range receiver.spans {
		if attributeOf(span, "rooms.room").GetStringValue() == "after" || attributeOf(span, "rooms.user").GetStringValue() == "bob" {
			t.Errorf("traced when tracing was off: %v", span)
		}
	}
}

func TestTracesOfRefusals(t *testing.T) {
	receiver := receiveTraces(t)
	c := caddytest.StartText(t, strings.Replace(tracedConfig, "TRACING", "tracing", 1), receiver.env()...)
	roomstest.Dial(t, c.URL("/one?user=first"), nil)
	roomstest.Connect(t, c.URL("/one?user=told"), nil).Refused("unavailable")
	upgrade(t, c.Addr, "GET /one?user=untold")
	for _, tc := range []struct {
		user, refused string
		status        int64
	}{
		{"told", "unavailable", 101},
		{"untold", "unavailable: too many connections", 503},
	} {
		span := receiver.wait(c, "rooms upgrade", "rooms.user", tc.user)
		if attributeOf(span, "http.response.status_code").GetIntValue() != tc.status || span.GetStatus().GetMessage() != tc.refused ||
			span.GetStatus().GetCode() != otlp.Status_STATUS_CODE_ERROR {
			t.Errorf("%s: %v", tc.user, span)
		}
	}
}
