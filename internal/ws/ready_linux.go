package ws

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// takenAtOnce: a socket that poll calls writable has less than half of unsentLimit unsent (tcp_poll in the kernel), so it takes this much at once: a
// blocking write of no more does not wait.
const takenAtOnce = unsentLimit / 2

// A write that the socket has room for may wait all the same where each small piece of it takes a kilobyte of the kernel's besides: to a peer
// that takes only small segments, or by whose window the kernel cuts its pieces. A peer that wants to can be such a one.
const (
	leastSegment = 1000     // bytes; all but the rarest networks carry more
	leastWindow  = 16 << 10 // bytes; what counts is the largest ever seen, so it holds for good
)

// takesAtOnce tells whether writable can be believed of a connection whose peer has just sent its request.
func takesAtOnce(raw syscall.RawConn) (takes bool) {
	err := raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		takes = err == nil && info.Snd_mss >= leastSegment && info.Snd_wnd >= leastWindow
	})
	return takes && err == nil
}

// writable tells whether a write of at most takenAtOnce bytes would be done at once.
func writable(fd uintptr) bool {
	for {
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(fds[:], 0)
		if err != unix.EINTR {
			return n == 1 && fds[0].Revents&unix.POLLOUT != 0
		}
	}
}
