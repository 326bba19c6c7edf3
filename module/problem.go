package module

import (
	"errors"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/hub"
	"github.com/caddyrooms/caddy-rooms/internal/wire"
	"github.com/caddyrooms/caddy-rooms/ratelimit"
)

// problemTypes is where the codes are explained.
const problemTypes = "https://github.com/caddyrooms/caddy-rooms/blob/main/docs/api.md#"

// codeNotFound is the one code that error frames don't have.
const codeNotFound wire.Code = "not_found"

// problem is an error of the API as JSON (RFC 9457). In the results of a batch it has no type and no title.
type problem struct {
	Type       string        `json:"type,omitempty"`
	Title      string        `json:"title,omitempty"`
	Status     int           `json:"status"`
	Detail     string        `json:"detail"`
	Code       wire.Code     `json:"code"`
	RetryAfter int64         `json:"retry_after,omitempty"` // milliseconds
	Limit      *problemLimit `json:"limit,omitempty"`
}

// problemLimit is the limit that has refused something; times are in milliseconds.
type problemLimit struct {
	Name      string `json:"name"`
	Events    int    `json:"events"`
	Window    int64  `json:"window"`
	Remaining int    `json:"remaining"`
	Reset     int64  `json:"reset"`
}

// limitError is the refusal of a limit.
type limitError struct {
	limit    *hub.Limit
	decision ratelimit.Decision
}

func (e *limitError) Error() string { return e.limit.Refusal(e.decision).Message }

// retrySoon is when to try again what can't be done at the moment.
const retrySoon = time.Second

// newProblem says of an error as much as the other side may know.
func newProblem(err error) problem {
	if refused, ok := errors.AsType[*limitError](err); ok {
		return refused.problem()
	}
	refused, ok := errors.AsType[caddy.APIError](err)
	if !ok {
		return problem{Status: http.StatusInternalServerError, Detail: "something went wrong: the log of the server says what", Code: wire.Internal}
	}
	p := problem{Status: refused.HTTPStatus, Detail: refused.Err.Error()}
	switch p.Status {
	case http.StatusUnauthorized:
		p.Code = wire.Unauthorized
	case http.StatusForbidden:
		p.Code = wire.Forbidden
	case http.StatusNotFound:
		p.Code = codeNotFound
	case http.StatusConflict:
		p.Code, p.RetryAfter = wire.BadRequest, retrySoon.Milliseconds()
	case http.StatusRequestEntityTooLarge:
		p.Code = wire.TooLarge
	case http.StatusServiceUnavailable:
		p.Code, p.RetryAfter = wire.Unavailable, retrySoon.Milliseconds()
	default:
		p.Code = wire.BadRequest
	}
	return p
}

func (e *limitError) problem() problem {
	refusal := e.limit.Refusal(e.decision)
	p := problem{
		Status: http.StatusTooManyRequests, Detail: refusal.Message, Code: refusal.Code,
		RetryAfter: max(1, ratelimit.Milliseconds(refusal.RetryAfter)),
	}
	if l := refusal.Limit; l != nil {
		p.Limit = &problemLimit{l.Name, l.Events, l.Window.Milliseconds(), l.Remaining, ratelimit.Milliseconds(l.Reset)}
	} else {
		p.Status = http.StatusServiceUnavailable
	}
	return p
}

// refuse answers with an error.
func (a *API) refuse(w http.ResponseWriter, r *http.Request, err error) {
	p := newProblem(err)
	p.Type, p.Title = problemTypes+string(p.Code), http.StatusText(p.Status)
	if p.Status == http.StatusInternalServerError {
		a.logger.Error("request failed", zap.String("method", r.Method), zap.String("uri", r.RequestURI), zap.Error(err))
	}
	if p.RetryAfter > 0 {
		wait := time.Duration(p.RetryAfter) * time.Millisecond
		w.Header().Set("Retry-After", ratelimit.RetryAfterField(ratelimit.Decision{RetryAfter: wait}))
	}
	if refused, ok := errors.AsType[*limitError](err); ok && p.Limit != nil {
		w.Header().Set(ratelimit.PolicyHeader, ratelimit.PolicyField(refused.limit.Limit))
		w.Header().Set(ratelimit.LimitHeader, ratelimit.LimitField(refused.limit.Limit, refused.decision))
	}
	body, err := encodeJSON(p)
	if err != nil { // strings and numbers: it can't fail
		a.logger.Error("encoding problem", zap.Error(err))
	}
	writeAnswer(w, p.Status, "application/problem+json", body)
}
