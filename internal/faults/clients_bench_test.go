package faults

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

// BenchmarkRedisClients has clients come to a Caddy, so many at a time, each join one room of ten with presence, stay until all are there, and
// go. joins/s and caddy-us/op, the CPU of Caddy, are from the first dial to the last answer; what Redis takes is of the whole life of a client.
// It needs a file descriptor for each operation, so -benchtime must be a number of them, as in 5000x.
func BenchmarkRedisClients(b *testing.B) {
	server := redistest.Start(b)
	for _, callers := range []int{1, 16, 256} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			caddy := caddytest.StartText(b, fmt.Sprintf(`:{$PORT} {
				rooms /ws {
					user {http.request.uri.query.user}
					no_default_limits
					redis %s
					presence {
						grace 0s
					}
				}
			}`, server.URL()))
			store := server.Client()
			caddy.Wait("the hub", func() bool {
				conn, err := bareJoin(caddy.Addr, "first", "first")
				return err == nil && conn.Close() == nil
			})
			caddy.Wait("the first to be gone", func() bool { return online(b, store) == 0 })
			conns := make([]net.Conn, b.N)
			meter, before := server.Meter(), cpu(b, caddy)
			b.ResetTimer()
			var next atomic.Int64
			var joining sync.WaitGroup
			for range callers {
				joining.Go(func() {
					for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
						conn, err := bareJoin(caddy.Addr, fmt.Sprint("user", i), fmt.Sprint("room", i/10))
						if err != nil {
							b.Error(err)
							return
						}
						conns[i] = conn
					}
				})
			}
			joining.Wait()
			b.StopTimer()
			b.ReportMetric((cpu(b, caddy)-before)*1e6/float64(b.N), "caddy-us/op")
			for _, conn := range conns {
				if conn != nil {
					_ = conn.Close()
				}
			}
			caddy.Wait("all to be gone", func() bool { return online(b, store) == 0 })
			meter.Report(b, b.N)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "joins/s")
			caddy.Kill()
		})
	}
}

// online returns how many users are online, by the store.
func online(b *testing.B, store *redis.Client) int64 {
	n, err := store.ZCard(b.Context(), "rooms:{default}:on").Result()
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// cpu returns how many seconds of CPU a Caddy has taken.
func cpu(b *testing.B, caddy *caddytest.Caddy) float64 {
	resp, err := http.Get("http://" + caddy.Admin + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "process_cpu_seconds_total "); ok {
			seconds, err := strconv.ParseFloat(value, 64)
			if err != nil {
				b.Fatal(err)
			}
			return seconds
		}
	}
	b.Skip("caddy does not tell its CPU time on this system")
	return 0
}

// bareJoin connects a client that costs as little as may be, joins a room, and returns when the server has answered.
func bareJoin(addr, user, room string) (net.Conn, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(caddytest.Patience)); err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(conn, "GET /ws?user=%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: rooms.v1\r\n\r\n", user, addr)
	if err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(conn, 4096)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("upgrade answered with %s", resp.Status)
	}
	join := fmt.Sprintf(`{"type":"join","id":1,"room":%q,"presence":"full"}`, room)
	// A masked text frame; with a key of zeros the payload stays as it is.
	if _, err := conn.Write(append([]byte{0x81, 0x80 | byte(len(join)), 0, 0, 0, 0}, join...)); err != nil {
		return nil, err
	}
	for {
		frame, err := readFrame(r)
		if err != nil {
			return nil, err
		}
		if bytes.Contains(frame, []byte(`"type":"ack"`)) {
			return conn, nil
		}
		if bytes.Contains(frame, []byte(`"type":"error"`)) {
			return nil, fmt.Errorf("joining: %s", frame)
		}
	}
}

// readFrame reads a frame of a server, and returns its payload.
func readFrame(r io.Reader) ([]byte, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:2]); err != nil {
		return nil, err
	}
	size := uint64(head[1])
	switch size {
	case 126:
		if _, err := io.ReadFull(r, head[:2]); err != nil {
			return nil, err
		}
		size = uint64(binary.BigEndian.Uint16(head[:]))
	case 127:
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, err
		}
		size = binary.BigEndian.Uint64(head[:])
	}
	payload := make([]byte, size)
	_, err := io.ReadFull(r, payload)
	return payload, err
}
