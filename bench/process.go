package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of CPU time in /proc, the same on every Linux.
const tick = 10 * time.Millisecond

// cpuTime returns the CPU time that a process has used, of the user and of the system, as Linux tells it.
func cpuTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name of the program, in parentheses, may have any characters.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has only %d fields", pid, len(fields))
	}
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}

// resident returns the bytes of memory that a process has, as Linux tells it.
func resident(pid int) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			return kb * 1024, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status does not tell VmRSS", pid)
}

// unsent returns how many bytes the kernel of this machine holds in the server's sockets for the clients with these ports, as Linux
// tells it.
func unsent(server int, clients map[int]bool) (bytes float64, err error) {
	// A server that listens on all addresses has its connections over IPv4 among those over IPv6.
	for _, file := range []string{"tcp", "tcp6"} {
		b, err := fs.ReadFile(os.DirFS("/proc/net"), file)
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(b)) {
			//   0: 0100007F:1F90 0100007F:D431 01 00000000:00000000 …
			f := strings.Fields(line)
			if len(f) < 5 || hexPort(f[1]) != server || !clients[hexPort(f[2])] {
				continue
			}
			queue, _, _ := strings.Cut(f[4], ":")
			n, err := strconv.ParseInt(queue, 16, 64)
			if err != nil {
				return 0, err
			}
			bytes += float64(n)
		}
	}
	return bytes, nil
}

// hexPort returns the port of an address in /proc/net/tcp, or -1.
func hexPort(addr string) int {
	_, port, _ := strings.Cut(addr, ":")
	n, err := strconv.ParseInt(port, 16, 32)
	if err != nil {
		return -1
	}
	return int(n)
}
