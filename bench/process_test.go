//go:build linux

package main

import (
	"net"
	"os"
	"runtime"
	"testing"
	"time"
)

func TestProcess(t *testing.T) {
	pid := os.Getpid()
	before, err := cpuTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	// It works until that shows.
	for begun, used := time.Now(), time.Duration(0); used == 0; {
		after, err := cpuTime(pid)
		if err != nil {
			t.Fatal(err)
		}
		used = after - before
		if passed := time.Since(begun); used < 0 || used > time.Duration(runtime.NumCPU())*(passed+2*tick) || passed > patience {
			t.Fatalf("%s of CPU were used in %s", used, passed)
		}
	}
	memory, err := resident(pid)
	if err != nil {
		t.Fatal(err)
	}
	if memory < 1<<20 || memory > 1<<36 {
		t.Errorf("the test has %.0f bytes of memory", memory)
	}
	if _, err := cpuTime(1 << 30); err == nil {
		t.Error("there is CPU time of a process that is not there")
	}
}

func TestUnsent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	port := func(a net.Addr) int { return a.(*net.TCPAddr).Port }
	held := func(client int) float64 {
		n, err := unsent(port(l.Addr()), map[int]bool{client: true})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := held(port(client.LocalAddr())); n != 0 {
		t.Errorf("%.0f bytes are held, want none", n)
	}
	// Until the kernel takes no more.
	if err := nc.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	written := 0
	for err == nil {
		var n int
		n, err = nc.Write(make([]byte, 1<<20))
		written += n
	}
	if n := held(port(client.LocalAddr())); n <= 0 || n > float64(written) {
		t.Errorf("%.0f bytes are held of %d, want some", n, written)
	}
	if n := held(1); n != 0 {
		t.Errorf("%.0f bytes are held for a client that is not there", n)
	}
}
