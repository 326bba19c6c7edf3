package faults

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/freeport"
)

// TestReloadRejected offers configurations that can't be, all with limits and rules that would be felt: nothing changes, and nothing is left
// of them.
func TestReloadRejected(t *testing.T) { reloadRejected(t, size(1000, 100), "") }

func reloadRejected(t testing.TB, s scale, program string) {
	rounds, pace := 2, 100*time.Millisecond
	if full {
		rounds, pace = 9, 200*time.Millisecond
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	const lines = "ping_interval 5s\n" // soon after, what is left of a visitor is forgotten
	const felt = lines + "limit never {\non publish\nevents 1\nwindow 1h\n}\nroom * {\npublish none\n}\n"
	wrong := []struct {
		name   string
		answer string // part of it
		edition
	}{
		{"syntax", "unrecognized subdirective", edition{lines: felt + "nonsense"}},
		{"two handlers contradict each other", "not the same redis", edition{lines: felt, beside: "rooms /other {\nanonymous\nredis redis://127.0.0.1:1\n}"}},
		{"an address that can't be", "99999", edition{lines: felt, sites: "http://localhost:99999 {\n}"}},
		{"a file that isn't there", "/not/there.crt", edition{lines: felt, sites: "https://localhost:" + port(freeport.Addr(t)) + " {\ntls /not/there.crt /not/there.key\n}"}},
		{"a port that is taken", "address already in use", edition{lines: felt, sites: "http://localhost:" + port(taken.Addr().String()) + " {\n}"}},
		{"another handler is wrong", "/not/there.ca", edition{
			lines:  felt,
			beside: "rooms /other other {\nanonymous\nredis rediss://127.0.0.1:1 {\ntls {\nca /not/there.ca\n}\n}\n}",
		}},
	}
	c := start(t, s, options{program: program})
	right := edition{lines: lines, beside: "respond /version right"}
	for i := range c.nodes {
		c.reload(i, right)
	}
	w := c.gather(pace)
	visits := c.visitors()
	before, links := []footprint{c.footprint(0), c.footprint(1)}, c.links()
	for range rounds {
		for _, e := range wrong {
			e.beside += "\nrespond /version wrong"
			for i, node := range c.nodes {
				if status, answer := node.Reload(c.config(e.edition)); status == http.StatusOK || !strings.Contains(answer, e.answer) {
					t.Errorf("%s: %d %s, want %q", e.name, status, answer, e.answer)
				}
				<-time.After(pace / 2)
				if version := c.site(i, "/version"); version != "right" {
					t.Errorf("%s: the site answers %q", e.name, version)
				}
			}
		}
	}
	visits.stop(t)
	w.hush()
	c.talk()
	c.settled(c.check)
	c.flat(before, links)
	w.disperse()
	w.undisturbed()
	w.verify()
	// What is right is taken still.
	right.lines = felt
	c.reload(0, right)
	ctx, cancel := c.context()
	defer cancel()
	if _, err := c.on(0)[0].say(ctx, "forbidden"); err == nil || !strings.Contains(err.Error(), "forbidden") {
		t.Errorf("under rules that forbid it, publishing gives %v", err)
	}
	c.finish()
}

// site returns what an instance answers on a path.
func (c *cluster) site(node int, path string) string {
	c.Helper()
	resp, err := http.Get("http://" + c.nodes[node].Addr + path)
	if err != nil {
		return fmt.Sprint(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Sprint(err)
	}
	return string(b)
}

func port(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }
