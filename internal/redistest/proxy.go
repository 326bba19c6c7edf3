package redistest

import (
	"bytes"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// Proxy stands between clients and a TCP server, and does to their connections what networks do. It belongs to one test.
type Proxy struct {
	Addr string

	mu     sync.Mutex
	target string
	refuse bool
	frozen chan struct{} // closed when bytes may pass
	links  []*link
}

// link is one connection through a proxy.
type link struct {
	proxy          *Proxy
	client, server net.Conn
	subscriber     atomic.Bool // it is one of caddy-rooms that receives
	muted          atomic.Bool
}

// StartProxy leads connections to target, a host:port, until the test ends.
func StartProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), target: target, frozen: make(chan struct{})}
	close(p.frozen)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.Cut()
		p.Thaw()
		running.Wait()
	})
	return p
}

// URL is the proxy's address as a Caddyfile has that of a Redis.
func (p *Proxy) URL() string { return "redis://" + p.Addr }

func (p *Proxy) serve(client net.Conn) {
	p.wait()
	l := &link{proxy: p, client: client}
	p.mu.Lock()
	refuse, target := p.refuse, p.target
	p.mu.Unlock()
	if refuse {
		client.Close()
		return
	}
	var err error
	if l.server, err = net.Dial("tcp", target); err != nil {
		client.Close()
		return
	}
	p.mu.Lock()
	if p.refuse || p.target != target { // cut in between
		p.mu.Unlock()
		l.close()
		return
	}
	p.links = append(p.links, l)
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.links = slices.DeleteFunc(p.links, func(o *link) bool { return o == l })
	}()
	var copying sync.WaitGroup
	copying.Go(func() { l.pass(l.client, l.up) })
	copying.Go(func() { l.pass(l.server, l.down) })
	copying.Wait()
}

// pass hands on what comes from one side until that ends, and its end as well, each when bytes may pass.
func (l *link) pass(from net.Conn, on func([]byte) error) {
	defer l.close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		l.proxy.wait()
		if n > 0 && on(buf[:n]) != nil || err != nil {
			return
		}
	}
}

func (l *link) up(b []byte) error {
	if bytes.Contains(b, []byte("caddy-rooms:subscriber")) {
		l.subscriber.Store(true)
	}
	_, err := l.server.Write(b)
	return err
}

func (l *link) down(b []byte) error {
	if l.muted.Load() {
		return nil
	}
	_, err := l.client.Write(b)
	return err
}

func (l *link) close() {
	l.client.Close()
	l.server.Close()
}

// wait returns when bytes may pass.
func (p *Proxy) wait() {
	p.mu.Lock()
	frozen := p.frozen
	p.mu.Unlock()
	<-frozen
}

func (p *Proxy) each(which func(*link) bool, f func(*link)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.links {
		if which(l) {
			f(l)
		}
	}
}

// Mute swallows what Redis sends to the present subscribers.
func (p *Proxy) Mute() {
	p.each(func(l *link) bool { return l.subscriber.Load() }, func(l *link) { l.muted.Store(true) })
}

// Failover leads new connections to target and ends the present ones, except those of subscribers.
func (p *Proxy) Failover(target string) {
	p.mu.Lock()
	p.target = target
	p.mu.Unlock()
	p.each(func(l *link) bool { return !l.subscriber.Load() }, (*link).close)
}

// Cut ends all connections and refuses new ones, until Restore.
func (p *Proxy) Cut() {
	p.mu.Lock()
	p.refuse = true
	p.mu.Unlock()
	p.each(func(*link) bool { return true }, (*link).close)
}

// Restore ends what Cut began.
func (p *Proxy) Restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = false
}

// Freeze stops all bytes, and all ends of connections, in both directions until Thaw, as on a half-open connection. What was under way
// then arrives late, also when its sender has gone.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.frozen:
		p.frozen = make(chan struct{})
	default: // frozen already
	}
}

// Thaw ends what Freeze began.
func (p *Proxy) Thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.frozen:
	default:
		close(p.frozen)
	}
}
