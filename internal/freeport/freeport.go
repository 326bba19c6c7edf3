// Package freeport finds ports for the servers that tests and measurements start.
package freeport

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// Addr is Find for a test, which fails where there is none.
func Addr(t testing.TB) string {
	t.Helper()
	addr, err := Find()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// Find returns an address of the loopback interface whose port nobody listens on. The port is below those that systems give to
// outgoing connections, so none of these can take it before the server does.
func Find() (string, error) {
	for range 1000 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(15_000+rand.IntN(15_000)))
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
		if err != nil {
			continue
		}
		_ = l.Close()
		return addr, nil
	}
	return "", errors.New("no free port from 15000 to 29999 on 127.0.0.1")
}
