//go:build !unix

package ws

import (
	"errors"
	"net"
	"syscall"
)

// Elsewhere every connection takes the generic path: rawConn is always nil and the rest is never called.

func rawConn(net.Conn) syscall.RawConn { return nil }

type rawWrite struct{}

func (*rawWrite) do(syscall.RawConn, []byte) (int, error) { return 0, errors.ErrUnsupported }

type rawPoll struct{}

func (*rawPoll) do(syscall.RawConn) bool { return false }

type rawRead struct{}

func (*rawRead) take(syscall.RawConn) (*[]byte, int, error) { return nil, 0, errors.ErrUnsupported }

func (*rawRead) into(syscall.RawConn, []byte) (int, error) { return 0, errors.ErrUnsupported }
