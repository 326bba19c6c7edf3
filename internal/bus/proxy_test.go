package bus

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// proxy stands between a bus and Redis, and does to the subscriber's connection what networks do.
type proxy struct {
	addr string

	mu     sync.Mutex
	target string
	links  []*proxied
}

type proxied struct {
	client, server net.Conn
	subscriber     atomic.Bool
	muted          atomic.Bool
}

func startProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String(), target: target}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			server, err := net.Dial("tcp", p.target)
			if err != nil {
				client.Close()
				p.mu.Unlock()
				continue
			}
			link := &proxied{client: client, server: server}
			p.links = append(p.links, link)
			p.mu.Unlock()
			running.Go(link.up)
			running.Go(link.down)
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.each(func(*proxied) bool { return true }, (*proxied).close)
		running.Wait()
	})
	return p
}

func (l *proxied) close() {
	l.client.Close()
	l.server.Close()
}

func (l *proxied) up() {
	defer l.close()
	buf := make([]byte, 32<<10)
	for {
		n, err := l.client.Read(buf)
		if err != nil {
			return
		}
		if bytes.Contains(buf[:n], []byte("caddy-rooms:subscriber")) {
			l.subscriber.Store(true)
		}
		if _, err := l.server.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (l *proxied) down() {
	defer l.close()
	_, _ = io.Copy(l, l.server)
}

func (l *proxied) Write(p []byte) (int, error) {
	if l.muted.Load() {
		return len(p), nil
	}
	return l.client.Write(p)
}

func (p *proxy) each(which func(*proxied) bool, f func(*proxied)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.links {
		if which(l) {
			f(l)
		}
	}
}

// mute swallows what Redis sends to the present subscribers.
func (p *proxy) mute() {
	p.each(func(l *proxied) bool { return l.subscriber.Load() }, func(l *proxied) { l.muted.Store(true) })
}

// failover leads new connections to target and ends the present ones, except those of subscribers.
func (p *proxy) failover(target string) {
	p.mu.Lock()
	p.target = target
	p.mu.Unlock()
	p.each(func(l *proxied) bool { return !l.subscriber.Load() }, (*proxied).close)
}
