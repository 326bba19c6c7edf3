// Command caddy is a standard Caddy with caddy-rooms and SQLite in it, for people without xcaddy.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	// Everything a stock Caddy has.
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddyrooms/caddy-rooms"
	// SQLite for presence.
	_ "github.com/caddyrooms/caddy-rooms/sqlite"
)

func main() {
	caddycmd.Main()
}
