//go:build unix && !linux

package ws

import "syscall"

// sendBuffer bounds what the kernel takes for a client that does not read.
const sendBuffer = 64 << 10

func limitUnsent(fd uintptr) {
	_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, sendBuffer)
}
