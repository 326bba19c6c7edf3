package module

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// modeWords are the ways in which Redis servers may work together, the default first.
var modeWords = []string{"single"}

// defaultRedisURL is used when neither the config nor the environment variable REDIS_URL names a server.
const defaultRedisURL = "redis://localhost:6379"

// setDefaults fills in what was left out, except for the URL: what REDIS_URL contains is known only at provision.
func (r *RedisConfig) setDefaults() {
	r.Mode = cmp.Or(r.Mode, modeWords[0])
	r.KeyPrefix = cmp.Or(r.KeyPrefix, "rooms")
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

// redisURL is what a Redis URL says.
type redisURL struct {
	addr               string // host:port or an absolute socket path
	username, password string
	db                 int
	tls                bool
}

// parseURL parses a URL without placeholders, and refuses what contradicts the rest of the config. Its errors contain
// nothing of the URL, which may have a password in it.
func (r *RedisConfig) parseURL(raw string) (redisURL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "redis" && u.Scheme != "rediss" && u.Scheme != "unix" {
		return redisURL{}, errors.New("bad url (allowed: redis://host:port/db, rediss://host:port/db, unix:///path)")
	}
	if u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		return redisURL{}, errors.New("bad url: it has more than user, host, port and db (further options have words of their own)")
	}
	parsed := redisURL{username: u.User.Username(), tls: u.Scheme == "rediss"}
	parsed.password, _ = u.User.Password()
	if u.Scheme == "unix" {
		if u.Host != "" || len(u.Path) < 2 {
			return redisURL{}, errors.New("bad url: a socket needs an absolute path (like unix:///run/redis.sock)")
		}
		if r.TLS != nil {
			return redisURL{}, errors.New("tls contradicts the url, which is a socket")
		}
		parsed.addr = u.Path
	} else {
		if u.Hostname() == "" {
			return redisURL{}, errors.New("bad url: the host is missing")
		}
		parsed.addr = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "6379"))
		if db := strings.TrimPrefix(u.Path, "/"); db != "" {
			if parsed.db, err = strconv.Atoi(db); err != nil || redisDB.checkGiven(parsed.db) != nil {
				return redisURL{}, fmt.Errorf("bad url: the db after the host is not a number (allowed: %s)", redisDB)
			}
			if r.DB != 0 {
				return redisURL{}, fmt.Errorf("db %d contradicts the url, which has a db too", r.DB)
			}
		}
	}
	if r.Username != "" && parsed.username != "" {
		return redisURL{}, errors.New("username contradicts the url, which has a username too")
	}
	if r.Password != "" && parsed.password != "" {
		return redisURL{}, errors.New("password contradicts the url, which has a password too")
	}
	return parsed, nil
}
