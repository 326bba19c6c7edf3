package module

import (
	"crypto/sha256"
	"net/http"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/idempotency"
)

const (
	idempotencyField = "Idempotency-Key"
	replayedField    = "Idempotent-Replayed"
	// maxIdempotencyKey is the length of the longest key, in bytes.
	maxIdempotencyKey = 200
)

// once answers a request with what do says, which gets its body, of at most so many bytes. One with an Idempotency-Key that was done before is
// answered as it was then, on whichever instance. Degraded tells do that another instance may do it too.
func once(
	w http.ResponseWriter, r *http.Request, h *sharedHub, most int, form string, do func(body []byte, degraded bool) (any, error),
) error {
	body, err := readJSONBody(w, r, most, form, false)
	if err != nil {
		return err
	}
	keys := r.Header.Values(idempotencyField)
	if len(keys) == 0 {
		answer, err := do(body, false)
		if err != nil {
			return err
		}
		return writeJSON(w, http.StatusOK, answer)
	}
	if err := checkIdempotencyKeys(keys); err != nil {
		return err
	}
	attempt := h.requests.Begin(r.Context(), keys[0], fingerprint(r, body))
	switch attempt.Outcome {
	case idempotency.Started:
	case idempotency.Replayed:
		w.Header().Set(replayedField, "true")
		writeAnswer(w, http.StatusOK, "application/json", attempt.Answer)
		return nil
	case idempotency.Busy:
		return statusError(http.StatusConflict, "the first request with this %s is under way", idempotencyField)
	case idempotency.Conflict:
		return statusError(http.StatusUnprocessableEntity, "another request had this %s: that was of another path or had another body", idempotencyField)
	}
	defer func() {
		if err := attempt.Abandon(r.Context()); err != nil { // it is finished, unless something went wrong
			h.logger.Debug("abandoning request", zap.Error(err))
		}
	}()
	answer, err := do(body, attempt.Degraded)
	if err != nil {
		return err
	}
	b, err := encodeJSON(answer)
	if err != nil {
		return err
	}
	if err := attempt.Finish(r.Context(), b); err != nil {
		h.logger.Debug("keeping answer", zap.Error(err))
	}
	writeAnswer(w, http.StatusOK, "application/json", b)
	return nil
}

// checkIdempotencyKeys tells what is wrong with the values of the header field.
func checkIdempotencyKeys(keys []string) error {
	invisible := func(r rune) bool { return r < '!' || r > '~' }
	if len(keys) != 1 || keys[0] == "" || len(keys[0]) > maxIdempotencyKey || strings.ContainsFunc(keys[0], invisible) {
		return badRequest("bad %s (allowed: one, of 1 to %d visible ASCII characters)", idempotencyField, maxIdempotencyKey)
	}
	return nil
}

// fingerprint tells requests with the same key apart.
func fingerprint(r *http.Request, body []byte) (f idempotency.Fingerprint) {
	h := sha256.New()
	h.Write([]byte(r.Method + " " + r.URL.EscapedPath() + "\n")) // neither has a line break
	h.Write(body)
	h.Sum(f[:0])
	return f
}
