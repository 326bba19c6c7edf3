// Command caddy is a standard Caddy with caddy-rooms in it, for people without xcaddy.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	// Everything a stock Caddy has.
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddyrooms/caddy-rooms"
)

func main() {
	caddycmd.Main()
}
