package module

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
)

// modeWords are the ways in which Redis servers may work together, the default first.
var modeWords = []string{"single"}

// defaultRedisURL is used when neither the config nor the environment variable REDIS_URL names a server.
const defaultRedisURL = "redis://localhost:6379"

// defaultKeyPrefix is what the names of keys and channels begin with when the config does not say it.
const defaultKeyPrefix = "rooms"

// setDefaults fills in what was left out, except for the URL: what REDIS_URL contains is known only at provision.
func (r *RedisConfig) setDefaults() {
	r.Mode = cmp.Or(r.Mode, modeWords[0])
	r.KeyPrefix = cmp.Or(r.KeyPrefix, defaultKeyPrefix)
	r.Timeout = cmp.Or(r.Timeout, redisTimeout.def)
}

// validate tells what is wrong with the config; nothing, if there is none. URLs with placeholders are checked only as far as that goes.
func (r *RedisConfig) validate() error {
	if r == nil {
		return nil
	}
	err := cmp.Or(
		checkWord("mode", r.Mode, modeWords),
		redisDB.check("db", r.DB),
		redisTimeout.check("timeout", r.Timeout),
		redisPoolSize.check("pool_size", r.PoolSize),
	)
	switch {
	case err != nil:
	case len(r.URLs) > 1:
		err = fmt.Errorf("%d urls are too many (allowed with mode single: 1)", len(r.URLs))
	case r.KeyPrefix != "" && !isName(r.KeyPrefix, "_-.:"):
		err = fmt.Errorf("bad key_prefix %q (allowed: 1 to 64 of A-Z a-z 0-9 _ - . :)", r.KeyPrefix)
	case r.TLS != nil && (r.TLS.Cert == "") != (r.TLS.Key == ""):
		err = errors.New("tls needs both cert and key, or neither")
	case r.TLS != nil && r.TLS.InsecureSkipVerify && r.TLS.CA != "":
		err = errors.New("tls ca contradicts insecure_skip_verify, which accepts any certificate")
	case len(r.URLs) == 1 && !strings.Contains(r.URLs[0], "{"):
		_, err = r.parseURL(r.URLs[0])
	}
	if err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	return nil
}

// parseURL parses a URL without placeholders, and refuses what contradicts the rest of the config. Its errors contain
// nothing of the URL, which may have a password in it.
func (r *RedisConfig) parseURL(raw string) (redisdb.Options, error) {
	o, err := redisdb.ParseURL(raw)
	if err != nil {
		return o, fmt.Errorf("bad url: %w", err)
	}
	switch {
	case r.Username != "" && o.Username != "":
		err = errors.New("username contradicts the url, which has a username too")
	case r.Password != "" && o.Password != "":
		err = errors.New("password contradicts the url, which has a password too")
	case r.DB != 0 && o.DB != 0:
		err = fmt.Errorf("db %d contradicts the url, which has a db too", r.DB)
	case r.TLS != nil && strings.HasPrefix(o.Addr, "/"):
		err = errors.New("tls contradicts the url, which is a socket")
	}
	return o, err
}
