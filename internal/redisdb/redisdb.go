// Package redisdb connects to Redis: clients, their health, and the names of keys and channels.
package redisdb

import (
	"crypto/tls"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// DefaultTimeout is the Timeout of Options that have none.
const DefaultTimeout = 2 * time.Second

// Options is the identity of a Redis and how to talk to it. Secrets are resolved by the caller.
type Options struct {
	Addr     string // host:port or an absolute socket path
	Username string
	Password string
	DB       int
	TLS      *tls.Config   // nil: plain
	Timeout  time.Duration // of a dial, a read and a write, each; 0: DefaultTimeout
	PoolSize int           // connections for commands; 0: ten a CPU
	Prefix   string        // what the names of all keys begin with that are used here
}

// Redacted returns the address as a URL without user and password, for logs.
func (o Options) Redacted() string {
	if strings.HasPrefix(o.Addr, "/") {
		u := url.URL{Scheme: "unix", Path: o.Addr}
		if o.DB != 0 {
			u.RawQuery = "db=" + strconv.Itoa(o.DB)
		}
		return u.String()
	}
	u := url.URL{Scheme: "redis", Host: o.Addr}
	if o.TLS != nil {
		u.Scheme = "rediss"
	}
	if o.DB != 0 {
		u.Path = "/" + strconv.Itoa(o.DB)
	}
	return u.String()
}

// Base returns what all keys and channels of a hub begin with. The braces make it one hash slot.
func Base(prefix, hub string) string { return prefix + ":{" + hub + "}" }

// RoomChannel is the channel of a room's messages and presence changes.
func RoomChannel(base, room string) string { return base + ":e:" + room }

// UsersChannel is the channel of what concerns a user on every instance.
func UsersChannel(base string) string { return base + ":users" }

// ControlChannel is the channel of one instance alone.
func ControlChannel(base, instance string) string { return base + ":ctl:" + instance }
