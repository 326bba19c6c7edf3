// Package rooms is the import path of the plugin: building Caddy with it adds the directives of caddy-rooms.
//
//	xcaddy build --with github.com/caddyrooms/caddy-rooms
//
// The Caddy modules live in the module package; presence and ratelimit are usable without Caddy.
package rooms

import (
	// The handlers and their directives register themselves.
	_ "github.com/caddyrooms/caddy-rooms/module"
)
