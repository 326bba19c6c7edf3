package ws

import "golang.org/x/sys/unix"

// takenAtOnce: a socket that poll calls writable has less than half of unsentLimit unsent (tcp_poll in the kernel), so it takes this much at once: a
// blocking write of no more does not wait.
const takenAtOnce = unsentLimit / 2

// writable tells whether a write of at most takenAtOnce bytes would be done at once.
func writable(fd uintptr) bool {
	for {
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(fds[:], 0)
		if err != unix.EINTR { //nolint:errorlint // it is an Errno
			return n == 1 && fds[0].Revents&unix.POLLOUT != 0
		}
	}
}
