package redisdb

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// MaxDB is the highest number of a database that is accepted.
const MaxDB = 65535

const urlForms = "redis://[user[:password]@]host[:port][/db], rediss://… for TLS, or unix://[user[:password]@]/path/to/socket[?db=n]"

// ParseURL parses the address of a Redis: redis://[user[:password]@]host[:port][/db], the same with rediss for TLS, or
// unix://[user[:password]@]/path/to/socket[?db=n]. The port is 6379 and the database 0 unless given.
//
// An error tells which part is wrong and what is allowed, but repeats none of it: with one character of a password
// left unescaped, any part may hold the rest of it.
func ParseURL(s string) (Options, error) {
	scheme, _, found := strings.Cut(s, "://")
	if !found {
		return Options{}, errors.New("must start with redis://, rediss:// or unix://; allowed are " + urlForms)
	}
	switch scheme {
	case "redis", "rediss", "unix":
	default:
		return Options{}, fmt.Errorf("unknown scheme; allowed are %s", urlForms)
	}
	u, err := url.Parse(s)
	if err != nil || u.Fragment != "" {
		// The parser's error repeats the URL.
		return Options{}, fmt.Errorf("malformed; allowed are %s (in a user or password, write / as %%2F, ? as %%3F, # as %%23, @ as %%40, %% as %%25)", urlForms)
	}
	o := Options{Username: u.User.Username()}
	o.Password, _ = u.User.Password()
	if scheme == "unix" {
		err = o.setSocket(u)
	} else {
		err = o.setHost(u)
	}
	if err != nil {
		return Options{}, err
	}
	return o, nil
}

func (o *Options) setHost(u *url.URL) error {
	host, port := u.Hostname(), u.Port()
	if host == "" {
		return errors.New("the host is missing; allowed are " + urlForms)
	}
	if port == "" {
		port = "6379"
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return errors.New("the port must be a number from 1 to 65535")
	}
	if u.RawQuery != "" {
		return errors.New("takes no parameters after a question mark; the database goes into the path, as in redis://localhost:6379/1")
	}
	o.Addr = net.JoinHostPort(host, port)
	if u.Scheme == "rediss" {
		o.TLS = &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	}
	return o.setDB(strings.TrimPrefix(u.Path, "/"))
}

func (o *Options) setSocket(u *url.URL) error {
	if u.Host != "" || len(u.Path) < 2 {
		return errors.New("the socket must be an absolute path, as in unix:///run/redis/redis.sock")
	}
	o.Addr = u.Path
	params, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return errors.New("malformed parameters; the only one allowed is db, as in unix:///run/redis/redis.sock?db=1")
	}
	db := params["db"]
	if len(params) > 1 || len(params) == 1 && len(db) != 1 {
		return errors.New("the only parameter allowed is db, once, as in unix:///run/redis/redis.sock?db=1")
	}
	return o.setDB(strings.Join(db, ""))
}

func (o *Options) setDB(s string) error {
	if s == "" {
		return nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > MaxDB {
		return fmt.Errorf("the database must be a number from 0 to %d", MaxDB)
	}
	o.DB = n
	return nil
}
