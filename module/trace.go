package module

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/hub"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
)

// traced has upgrade serve r, within a span of its own if Caddy's tracing is on for the request.
func traced(w http.ResponseWriter, r *http.Request, upgrade func(http.ResponseWriter, *http.Request) error) error {
	ctx, span := hub.StartUpgrade(r.Context())
	if span == nil {
		return upgrade(w, r)
	}
	defer span.End()
	err := upgrade(w, r.WithContext(ctx))
	if refused, ok := errors.AsType[caddyhttp.HandlerError](err); ok {
		span.SetAttributes(statusAttribute(refused.StatusCode))
		span.SetStatus(codes.Error, refused.Err.Error())
	}
	return err
}

func statusAttribute(status int) attribute.KeyValue {
	return attribute.Int("http.response.status_code", status)
}

// traceClient tells the trace of an upgrade who the client is.
func traceClient(r *http.Request, c *hub.Client) {
	if span := trace.SpanFromContext(r.Context()); span.IsRecording() {
		span.SetAttributes(hub.ClientAttributes(c)...)
	}
}

// answered tells the log and the trace how an upgrade ended that was answered without Caddy's error handling: with a connection, with one that
// was only to tell the client a refusal, or with the error of one that could not be.
func (h *Handler) answered(r *http.Request, refusal wire.Code, err error) {
	if err != nil {
		h.logger.Debug("upgrade failed", zap.Error(err))
	}
	span := trace.SpanFromContext(r.Context())
	switch {
	case !span.IsRecording():
		return
	case err != nil:
		span.SetStatus(codes.Error, "upgrade failed: "+err.Error())
		return
	case refusal != "":
		span.SetStatus(codes.Error, string(refusal))
	}
	span.SetAttributes(statusAttribute(http.StatusSwitchingProtocols))
}
