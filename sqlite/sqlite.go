// Package sqlite adds SQLite to a build, for `presence { database sqlite:/path }`:
//
//	xcaddy build --with github.com/caddyrooms/caddy-rooms --with github.com/caddyrooms/caddy-rooms/sqlite
//
// It is a package of its own because it makes the program some 4 MB larger.
package sqlite

import _ "modernc.org/sqlite" // the driver, in Go, named "sqlite"
