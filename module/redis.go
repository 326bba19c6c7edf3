package module

import (
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
)

// redisSettings is a Redis with everything resolved; nil stands for memory.
type redisSettings struct {
	options redisdb.Options
	prefix  string
	secrets string // a hash of what it takes to log in
}

// redisIdentity is which Redis it is, without a secret in it.
type redisIdentity struct {
	address, prefix, secrets string
}

// String returns the address for people.
func (i redisIdentity) String() string { return cmp.Or(i.address, "in memory") }

func (s *redisSettings) identity() redisIdentity {
	if s == nil {
		return redisIdentity{}
	}
	return redisIdentity{address: s.options.Redacted(), prefix: s.prefix, secrets: s.secrets}
}

// resolve fills in placeholders and reads certificates. It dials nothing.
func (r *RedisConfig) resolve() (*redisSettings, error) {
	if r == nil {
		return nil, nil
	}
	repl := caddy.NewReplacer()
	var err error
	// A placeholder that is mistyped must not become an empty password.
	fill := func(field, s string) string {
		filled, e := repl.ReplaceOrErr(s, true, true)
		if e != nil && err == nil {
			err = fmt.Errorf("redis: %s: %w", field, e)
		}
		return filled
	}
	raw := os.Getenv("REDIS_URL")
	if len(r.URLs) > 0 {
		raw = fill("url", r.URLs[0])
	}
	username, password := fill("username", r.Username), fill("password", r.Password)
	if err != nil {
		return nil, err
	}
	resolved := *r
	resolved.Username, resolved.Password = username, password
	o, err := resolved.parseURL(cmp.Or(raw, defaultRedisURL))
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	o.Username, o.Password = cmp.Or(username, o.Username), cmp.Or(password, o.Password)
	o.DB = cmp.Or(r.DB, o.DB)
	o.Timeout, o.PoolSize = time.Duration(r.Timeout), r.PoolSize
	if r.TLS != nil {
		if o.TLS, err = r.TLS.load(o.Addr); err != nil {
			return nil, fmt.Errorf("redis: tls: %w", err)
		}
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %v", o.Username, o.Password, r.TLS))
	return &redisSettings{options: o, prefix: r.KeyPrefix, secrets: hex.EncodeToString(sum[:8])}, nil
}

// load reads the certificates.
func (t *RedisTLS) load(addr string) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         cmp.Or(t.ServerName, host),
		InsecureSkipVerify: t.InsecureSkipVerify, //nolint:gosec // the operator has written it
	}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("reading ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("ca has no PEM certificate")
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("reading cert and key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
