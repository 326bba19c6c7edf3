package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // RFC 6455 asks for it
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

// bare is the floor of fan-out in Go: a published message becomes one frame, and one goroutine writes it to every socket in turn. It has
// no rooms, no queues, and checks nothing. Only who writes several messages in one call needs less.
type bare struct {
	merge    int
	messages chan []byte

	mu      sync.Mutex
	members []net.Conn // guarded by mu
}

// serveBare is the command "bare".
func serveBare(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bare", flag.ContinueOnError)
	addr := flags.String("addr", "127.0.0.1:8081", "`host:port` to listen on")
	merge := flags.Int("merge", 1, "how many waiting messages go into one call at most")
	secure := flags.Bool("tls", false, "speak TLS, with a certificate made for the occasion")
	if err := flags.Parse(args); err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", *addr)
	if err != nil {
		return err
	}
	if *secure {
		certificate, err := selfSigned()
		if err != nil {
			return err
		}
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13})
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	fmt.Fprintln(os.Stderr, "the bare loop listens on", l.Addr())
	return newBare(*merge).serve(l)
}

func newBare(merge int) *bare { return &bare{merge: merge, messages: make(chan []byte, 1024)} }

// serve returns when the listener is closed.
func (b *bare) serve(l net.Listener) error {
	stop := make(chan struct{})
	defer close(stop)
	go b.loop(stop)
	for {
		nc, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go b.client(nc)
	}
}

// loop is the bare loop.
func (b *bare) loop(stop chan struct{}) {
	for {
		var out []byte
		select {
		case out = <-b.messages:
		case <-stop:
			return
		}
	merging:
		for range b.merge - 1 {
			select {
			case more := <-b.messages:
				out = append(out, more...)
			default:
				break merging
			}
		}
		b.mu.Lock()
		members := b.members
		b.mu.Unlock()
		for _, nc := range members {
			_, _ = nc.Write(out) // who has gone takes itself out
		}
	}
}

// client reads what a client sends. A join makes it a member, a publish is for all members but for the sender.
func (b *bare) client(nc net.Conn) {
	defer func() { _ = nc.Close() }()
	r := bufio.NewReaderSize(nc, 512)
	if upgraded(nc, r) != nil {
		return
	}
	joined := false
	for {
		text, err := clientFrame(r)
		switch {
		case err != nil:
			if joined {
				b.leave(nc)
			}
			return
		case bytes.HasPrefix(text, []byte(`{"type":"join"`)):
			_, _ = nc.Write(ack(text))
			b.join(nc)
			joined = true
		case bytes.HasPrefix(text, []byte(`{"type":"publish"`)):
			// The sender does not hear itself, with rooms.v1. Here it leaves for good, and is known by that.
			if joined {
				b.leave(nc)
				joined = false
			}
			_, _ = nc.Write(ack(text))
			_, data, _ := bytes.Cut(text, []byte(`"data":`))
			b.messages <- serverFrame(fmt.Appendf(nil, `{"type":"message","room":"bench0-0","event":"message","data":%s,`+
				`"from":{"user":"anon:c7Qm2d0aXzk1v5Rt8","conn":"c7Qm2d0aXzk1v5Rt8"},"ts":1795426127500}`, data[:max(len(data)-1, 0)]))
		}
	}
}

// join and leave replace the list, as the loop may be on its way through it.
func (b *bare) join(nc net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.members = append(slices.Clip(b.members), nc)
}

func (b *bare) leave(nc net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.members = slices.DeleteFunc(slices.Clone(b.members), func(o net.Conn) bool { return o == nc })
}

// upgraded answers a WebSocket's request.
func upgraded(nc net.Conn, r *bufio.Reader) error {
	req, err := http.ReadRequest(r)
	if err != nil {
		return err
	}
	//nolint:gosec // as above
	sum := sha1.Sum([]byte(req.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_, err = fmt.Fprintf(nc, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: rooms.v1\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
	return err
}

// clientFrame reads a frame of conn, whose mask is zero.
func clientFrame(r *bufio.Reader) (payload []byte, err error) {
	var head [14]byte
	if _, err := io.ReadFull(r, head[:2]); err != nil {
		return nil, err
	}
	size, more := int(head[1]&0x7f), 4
	if size == 126 {
		more = 6
	}
	if _, err := io.ReadFull(r, head[:more]); err != nil {
		return nil, err
	}
	if size == 126 {
		size = int(binary.BigEndian.Uint16(head[:]))
	}
	payload = make([]byte, size)
	_, err = io.ReadFull(r, payload)
	return payload, err
}

// ack answers a request of the shape that rooms sends.
func ack(request []byte) []byte {
	_, id, _ := bytes.Cut(request, []byte(`"id":`))
	id, _, _ = bytes.Cut(id, []byte(`,`))
	return serverFrame(fmt.Appendf(nil, `{"type":"ack","id":%s,"room":"bench0-0"}`, id))
}

func serverFrame(payload []byte) []byte {
	return append(appendHead(make([]byte, 0, len(payload)+10), opText, 0, len(payload)), payload...)
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
