//go:build !linux

package ws

import "syscall"

// Elsewhere nothing is known of what a socket takes at once.

const takenAtOnce = 0

func writable(uintptr) bool { return false }

func takesAtOnce(syscall.RawConn) bool { return false }
