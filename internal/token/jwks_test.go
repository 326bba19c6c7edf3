package token

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"go.uber.org/goleak"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server publishes keys, and misbehaves as it is told.
type server struct {
	*httptest.Server
	answer  atomic.Value // func(w, r)
	asked   atomic.Int32
	release chan struct{}
}

func publish(t *testing.T) *server {
	s := &server{release: make(chan struct{})}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		s.answer.Load().(func(http.ResponseWriter, *http.Request))(w, r)
	}))
	t.Cleanup(func() {
		select {
		case <-s.release:
		default:
			close(s.release)
		}
		s.Close()
	})
	return s
}

func (s *server) says(body []byte) {
	s.answer.Store(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })
}

func (s *server) hangs() {
	s.answer.Store(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-s.release:
		case <-r.Context().Done():
		}
	})
}

// clock is a time that a test moves.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// reader is a verifier of the keys that s publishes.
func (s *server) reader(t *testing.T) (*Verifier, *JWKS, *clock) {
	c := &clock{at: now}
	j := NewJWKS(s.URL, zap.NewNop())
	j.now = c.now
	j.client.Transport = new(http.Transport)
	t.Cleanup(j.client.CloseIdleConnections)
	return verifier(t, Options{JWKS: j}), j, c
}

func signedBy(t *testing.T, id string, key any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: id}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return must(jwt.Signed(s).Claims(map[string]any{"sub": "42"}).Serialize())
}

func TestJWKS(t *testing.T) {
	s := publish(t)
	s.says(set(t, map[string]crypto.PublicKey{"a": rsaKey.Public(), "ec": ecKey.Public()}))
	v, _, clock := s.reader(t)
	for name, test := range map[string]struct {
		raw  string
		want error
	}{
		"known":                 {signedBy(t, "a", rsaKey), nil},
		"without an id":         {sign(t, jose.RS256, rsaKey, claims{"sub": "42"}), nil},
		"unknown id":            {signedBy(t, "b", rsaKey), ErrInvalid},
		"of another key":        {signedBy(t, "a", otherRSA), ErrInvalid},
		"id of another kind":    {signedBy(t, "ec", rsaKey), ErrInvalid},
		"HS256 by a public key": {sign(t, jose.HS256, publicPEM(t, rsaKey.Public()), claims{"sub": "42"}), ErrInvalid},
	} {
		if _, err := v.Verify(t.Context(), test.raw); !errors.Is(err, test.want) || test.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	if n := s.asked.Load(); n != 1 {
		t.Errorf("asked %d times, also for what is not known", n)
	}
	// A key is added, and found when it is needed.
	s.says(set(t, map[string]crypto.PublicKey{"a": rsaKey.Public(), "b": otherRSA.Public()}))
	clock.pass(askAgain)
	if _, err := v.Verify(t.Context(), signedBy(t, "b", otherRSA)); err != nil {
		t.Errorf("a new key: %v", err)
	}
}

// TestJWKSUnknownKey says that a token is not valid for want of a key only when the set was had after the token has come.
func TestJWKSUnknownKey(t *testing.T) {
	s := publish(t)
	good := set(t, map[string]crypto.PublicKey{"a": rsaKey.Public()})
	s.says(good)
	published, j, clock := s.reader(t)
	verify := func(what string, v *Verifier, raw string, want error) {
		t.Helper()
		if _, err := v.Verify(t.Context(), raw); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	known, unknown := signedBy(t, "a", rsaKey), signedBy(t, "b", otherRSA)
	verify("a known key", published, known, nil)
	clock.pass(1)
	verify("too early to ask again", published, unknown, ErrUnavailable)
	clock.pass(askAgain)
	s.answer.Store(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	verify("asked in vain", published, unknown, ErrUnavailable)
	verify("a key of the older set", published, known, nil)
	verify("asked in vain, with another key in a file", verifier(t, Options{JWKS: j, Keys: []any{ecKey.Public()}}), unknown, ErrUnavailable)
	verify("asked in vain, signed by a key in a file", verifier(t, Options{JWKS: j, Keys: []any{otherRSA.Public()}}), unknown, nil)
	clock.pass(askAgain)
	s.answer.Store(func(w http.ResponseWriter, _ *http.Request) {
		clock.pass(time.Second)
		_, _ = w.Write(good)
	})
	verify("asked, and the key is not there", published, unknown, ErrInvalid)
	if n := s.asked.Load(); n != 3 {
		t.Errorf("asked %d times, want 3", n)
	}
}

// TestJWKSRedirect follows a server to where its answer can't be forged, and not for ever.
func TestJWKSRedirect(t *testing.T) {
	for name, test := range map[string]struct {
		times int
		to    string // at last; "": to the keys
		want  string // "": they are had
	}{
		"once":               {1, "", ""},
		"as often as it may": {maxRedirects, "", ""},
		"too often":          {maxRedirects + 1, "", "redirected 4 times (allowed: 3)"},
		"to plain http":      {1, "http://login.example/keys", `redirected to "http://login.example/keys": jwks is no URL as https://host/path`},
		"to plain http late": {2, "http://login.example/keys", `redirected to "http://login.example/keys": jwks is no URL as https://host/path`},
		"to another scheme":  {1, "ftp://localhost/keys", `redirected to "ftp://localhost/keys": jwks is no URL as https://host/path`},
	} {
		s := publish(t)
		s.answer.Store(func(w http.ResponseWriter, r *http.Request) {
			n := int(s.asked.Load())
			switch {
			case n > test.times:
				_, _ = w.Write(set(t, map[string]crypto.PublicKey{"a": rsaKey.Public()}))
			case n == test.times && test.to != "":
				http.Redirect(w, r, test.to, http.StatusFound)
			default:
				http.Redirect(w, r, fmt.Sprintf("/%d", n), http.StatusFound)
			}
		})
		_, j, _ := s.reader(t)
		keys, err := j.fetch()
		if (test.want == "") != (err == nil && len(keys) == 1) || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %d keys, %v", name, len(keys), err)
		}
	}
}

// TestJWKSRemovedKey ends the tokens of a key that is no longer published.
func TestJWKSRemovedKey(t *testing.T) {
	s := publish(t)
	s.says(set(t, map[string]crypto.PublicKey{"a": rsaKey.Public(), "b": otherRSA.Public()}))
	v, j, clock := s.reader(t)
	if _, err := v.Verify(t.Context(), signedBy(t, "a", rsaKey)); err != nil {
		t.Fatal(err)
	}
	s.says(set(t, map[string]crypto.PublicKey{"b": otherRSA.Public()}))
	clock.pass(refreshAfter + 1)
	_, _ = v.Verify(t.Context(), signedBy(t, "a", rsaKey)) // the last one that the old set is good for
	<-j.refresh()
	if _, err := v.Verify(t.Context(), signedBy(t, "a", rsaKey)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a key that was removed: %v", err)
	}
}

// TestJWKSOutage goes on with what was had while the server hangs, lies or is down.
func TestJWKSOutage(t *testing.T) {
	big := `{"keys":[],"x":"` + strings.Repeat("x", maxSet) + `"}`
	for name, trouble := range map[string]func(*server){
		"error":   func(s *server) { s.answer.Store(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }) },
		"no JSON": func(s *server) { s.says([]byte("<html>")) },
		"no key":  func(s *server) { s.says([]byte(`{"keys":[]}`)) },
		"secrets": func(s *server) { s.says([]byte(`{"keys":[{"kty":"oct","k":"c2VjcmV0","kid":"a"}]}`)) },
		"private": func(s *server) { s.says(must(jose.JSONWebKey{Key: rsaKey, KeyID: "a"}.MarshalJSON())) },
		"short":   func(s *server) { s.says(set(t, map[string]crypto.PublicKey{"a": shortRSA.Public()})) },
		"of another": func(s *server) {
			s.says([]byte(strings.ReplaceAll(string(set(t, map[string]crypto.PublicKey{"a": rsaKey.Public()})), `"sig"`, `"enc"`)))
		},
		"too large": func(s *server) { s.says([]byte(big)) },
		"hangs":     (*server).hangs,
		"down":      func(s *server) { s.CloseClientConnections(); s.Listener.Close() },
		"ends midway": func(s *server) {
			s.answer.Store(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "100")
				w.WriteHeader(200)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := publish(t)
			s.says(set(t, map[string]crypto.PublicKey{"a": rsaKey.Public()}))
			v, j, clock := s.reader(t)
			if _, err := v.Verify(t.Context(), signedBy(t, "a", rsaKey)); err != nil {
				t.Fatal(err)
			}
			trouble(s)
			clock.pass(time.Hour)
			for range 3 {
				if _, err := v.Verify(t.Context(), signedBy(t, "a", rsaKey)); err != nil {
					t.Errorf("during the outage: %v", err)
				}
			}
			close(s.release)
			<-j.refresh()
		})
		t.Run(name+" from the start", func(t *testing.T) {
			s := publish(t)
			trouble(s)
			v, j, _ := s.reader(t)
			ctx, cancel := context.WithCancel(t.Context())
			if name == "hangs" {
				cancel()
			}
			defer cancel()
			if _, err := v.Verify(ctx, signedBy(t, "a", rsaKey)); !errors.Is(err, ErrUnavailable) {
				t.Errorf("%v, want %v", err, ErrUnavailable)
			}
			close(s.release)
			<-j.refresh()
		})
	}
}

// TestJWKSFlood asks the server once for any number of tokens with made up ids.
func TestJWKSFlood(t *testing.T) {
	s := publish(t)
	s.says(set(t, map[string]crypto.PublicKey{"a": rsaKey.Public()}))
	v, _, _ := s.reader(t)
	raw := signedBy(t, "unknown", otherRSA)
	var flood sync.WaitGroup
	for range 100 {
		flood.Go(func() {
			if _, err := v.Verify(t.Context(), raw); !errors.Is(err, ErrInvalid) {
				t.Errorf("%v", err)
			}
		})
	}
	flood.Wait()
	if n := s.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}
