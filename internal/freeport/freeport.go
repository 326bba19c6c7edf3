// Package freeport finds ports for the servers that tests start.
package freeport

import (
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// Addr returns an address of the loopback interface whose port nobody listens on. The port is below those that systems give to
// outgoing connections, so none of these can take it before the server does.
func Addr(t testing.TB) string {
	t.Helper()
	for range 1000 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(15_000+rand.IntN(15_000)))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		_ = l.Close()
		return addr
	}
	t.Fatal("no free port from 15000 to 29999 on 127.0.0.1")
	return ""
}
