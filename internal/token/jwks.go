package token

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/zap"
)

// JWKS is the set of keys that a server publishes. Once it was had, it is used until it is had anew: an outage of the server changes nothing
// for keys that are known. Its methods may be called from any goroutine.
type JWKS struct {
	url    string
	client *http.Client
	logger *zap.Logger
	now    func() time.Time

	mu       sync.Mutex
	set      []jose.JSONWebKey // guarded by mu; nil: never had
	asked    time.Time         // when it was asked for last; guarded by mu
	had      time.Time         // when it was had last; guarded by mu
	fetching chan struct{}     // closed when the fetch under way is over; nil: none is; guarded by mu
	failed   bool              // the last fetch; guarded by mu
}

const (
	refreshAfter = 5 * time.Minute  // of use
	askAgain     = 10 * time.Second // at the earliest, whatever keys tokens name
	fetchTimeout = 10 * time.Second
	maxSet       = 1 << 20 // bytes
	maxRedirects = 3
	maxKeys      = 1000
)

// CheckJWKS refuses URLs whose answer somebody on the way could forge.
func CheckJWKS(raw string) error {
	u, err := url.Parse(raw)
	local := err == nil && (u.Hostname() == "localhost" || u.Hostname() == "127.0.0.1" || u.Hostname() == "::1")
	if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !local) {
		return errors.New("jwks is no URL as https://host/path (allowed with http: localhost)")
	}
	return nil
}

// NewJWKS returns the set that is published at url, which CheckJWKS has found good. It is asked for when the first token comes.
func NewJWKS(url string, logger *zap.Logger) *JWKS {
	return &JWKS{url: url, client: &http.Client{Timeout: fetchTimeout, CheckRedirect: checkRedirect}, logger: logger, now: time.Now}
}

// checkRedirect holds the URLs that a server leads on to to what is asked of the first one.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("redirected %d times (allowed: %d)", len(via), maxRedirects)
	}
	if err := CheckJWKS(req.URL.String()); err != nil {
		return fmt.Errorf("redirected to %q: %w", req.URL.Redacted(), err)
	}
	return nil
}

// keys returns those that may have signed a token with that key id and algorithm. That there is none is known only of a set that was had after
// the token has come: until then it may be one of a new key.
func (j *JWKS) keys(ctx context.Context, id, algorithm string) ([]any, error) {
	came := j.now()
	set, had := j.known()
	keys := choose(set, id, algorithm)
	switch {
	case len(keys) == 0: // perhaps it is new
		done := j.refresh()
		select {
		case <-done:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		}
		set, had = j.known()
		if keys = choose(set, id, algorithm); len(keys) == 0 && had.Before(came) {
			return nil, ErrUnavailable
		}
	case j.now().Sub(had) > refreshAfter:
		j.refresh()
	}
	return keys, nil
}

func (j *JWKS) known() (set []jose.JSONWebKey, had time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.set, j.had
}

// choose returns the keys of a set for tokens with that key id, if they have one, and algorithm.
func choose(set []jose.JSONWebKey, id, algorithm string) (keys []any) {
	for _, k := range set {
		if (id == "" || k.KeyID == id) && (k.Algorithm == "" || k.Algorithm == algorithm) {
			keys = append(keys, k.Key)
		}
	}
	return keys
}

// refresh asks for the set, unless that was done a moment ago. What it returns is closed when no answer is to be waited for.
func (j *JWKS) refresh() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fetching != nil {
		return j.fetching
	}
	done := make(chan struct{})
	if j.now().Sub(j.asked) < askAgain {
		close(done)
		return done
	}
	j.asked, j.fetching = j.now(), done
	go func() {
		set, err := j.fetch()
		j.mu.Lock()
		defer j.mu.Unlock()
		switch {
		case err == nil:
			j.set, j.had, j.failed = set, j.now(), false
		case !j.failed:
			j.logger.Warn("keys for tokens can't be had, those known are used on", zap.String("url", j.url), zap.Error(err))
			j.failed = true
		}
		j.fetching = nil
		close(done)
	}()
	return done
}

// fetch gets the set. Its goroutine lives for fetchTimeout at most.
func (j *JWKS) fetch() (set []jose.JSONWebKey, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, j.url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	res, err := j.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %s", res.Status)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxSet+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxSet {
		return nil, fmt.Errorf("the answer has more than %d bytes", maxSet)
	}
	return parseSet(body)
}

// parseSet returns the public signing keys of a set. Those of other kinds and uses may be in it, and are left out (RFC 7517, section 5).
func parseSet(body []byte) ([]jose.JSONWebKey, error) {
	var raw struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &raw); err != nil {
		return nil, err
	}
	if len(raw.Keys) > maxKeys {
		return nil, fmt.Errorf("%d keys, allowed are %d", len(raw.Keys), maxKeys)
	}
	set := []jose.JSONWebKey{}
	for _, text := range raw.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(text) != nil || !k.Valid() || k.Use != "" && k.Use != "sig" || checkKey(k.Key) != nil {
			continue
		}
		set = append(set, k)
	}
	if len(set) == 0 {
		return nil, errors.New("it has no public key for signatures")
	}
	return set, nil
}
