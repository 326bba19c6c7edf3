package ws

import "golang.org/x/sys/unix"

// unsentLimit bounds what the kernel takes for a client that does not read. By default it takes up to 4 MiB before a
// write is refused, which would make our own bound a fiction.
const unsentLimit = 16 << 10

func limitUnsent(fd uintptr) {
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentLimit)
}
