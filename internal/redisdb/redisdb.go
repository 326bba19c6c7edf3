// Package redisdb connects to Redis: clients, their health, and the names of keys and channels.
package redisdb

import (
	"crypto/tls"
	"time"
)

// Options is the identity of a Redis and how to talk to it. Secrets are resolved by the caller.
type Options struct {
	Addr     string // host:port or an absolute socket path
	Username string
	Password string
	DB       int
	TLS      *tls.Config // nil: plain
	Timeout  time.Duration
	PoolSize int // connections for commands; 0: ten a CPU
}

// Base returns what all keys and channels of a hub begin with. The braces make it one hash slot.
func Base(prefix, hub string) string { return prefix + ":{" + hub + "}" }

// RoomChannel is the channel of a room's messages and presence changes.
func RoomChannel(base, room string) string { return base + ":e:" + room }

// UsersChannel is the channel of what concerns a user on every instance.
func UsersChannel(base string) string { return base + ":users" }
