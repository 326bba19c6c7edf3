package ws

import (
	"bufio"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/coder/websocket"
)

// Accept answers the upgrade request r with 101 and takes the connection over; nothing is read from it before Start. The caller has
// checked everything about the request that it wants to refuse in its own words, the origin too. After an error the response is written.
// subprotocol is chosen if the client offered it.
func (p *Pool) Accept(w http.ResponseWriter, r *http.Request, subprotocol string, limits *atomic.Pointer[Limits], owner Owner) (*Conn, error) {
	c := &Conn{pool: p, limits: limits, owner: owner, slot: -1}
	c.worker = p.workers[int(p.next.Add(1))%len(p.workers)]
	mode := websocket.CompressionDisabled
	if limits.Load().Compression {
		mode = websocket.CompressionNoContextTakeover
	}
	peer, err := websocket.Accept(&takeover{ResponseWriter: w, c: c}, r, &websocket.AcceptOptions{
		Subprotocols:       []string{subprotocol},
		InsecureSkipVerify: true, // the origin was checked
		CompressionMode:    mode,
	})
	if err != nil {
		return nil, err
	}
	c.deflates = w.Header().Get("Sec-WebSocket-Extensions") != ""
	_ = peer.CloseNow() // frees what the library holds; the socket is ours
	return c, nil
}

// takeover keeps the connection for us when coder/websocket hijacks it.
type takeover struct {
	http.ResponseWriter
	c *Conn
}

// Hijack takes the connection from the innermost writer: those around it, such as the one that counts bytes for the access log, would
// keep the request alive and hide the socket. The status still goes through all of them.
func (t *takeover) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w := t.ResponseWriter
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = u.Unwrap()
	}
	h, ok := w.(http.Hijacker)
	if !ok {
		return nil, nil, http.ErrNotSupported
	}
	nc, brw, err := h.Hijack()
	if err != nil {
		return nil, nil, err
	}
	c := t.c
	c.nc, c.socket = nc, nc
	if secure, ok := nc.(interface{ NetConn() net.Conn }); ok {
		c.socket = secure.NetConn()
	}
	if raw := rawConn(c.socket); c.socket == nc {
		c.raw = raw
	} else if raw != nil && takesAtOnce(raw) {
		c.under = raw
	}
	// A client may have sent its first frames right behind the request.
	early, _ := brw.Peek(brw.Reader.Buffered()) // they are buffered
	c.rest = append([]byte(nil), early...)
	c.heard(len(early)) // also if it is nothing: silence counts from here
	return upgraded{}, bufio.NewReadWriter(bufio.NewReaderSize(nil, 0), bufio.NewWriterSize(nil, 1)), nil
}

// upgraded is all that coder/websocket gets of a connection, to close it.
type upgraded struct{ net.Conn }

func (upgraded) Close() error { return nil }
