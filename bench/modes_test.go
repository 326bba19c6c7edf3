package main

import (
	"context"
	"log"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
)

// TestMain lets the program that has the tests be the bare loop, too, as the program without them is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "bare" {
		main()
		return
	}
	caddytest.Main(m)
}

// shop returns a workshop without Socket.IO.
func shop(t *testing.T) *workshop {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w := &workshop{dir: t.TempDir(), caddy: caddytest.Binary(t), self: self}
	if w.redis, err = exec.LookPath("redis-server"); err != nil && os.Getenv("CI") != "" {
		t.Fatal(err)
	}
	return w
}

// small makes of o a load that says nothing of a server's speed.
func small(o options) options {
	o.Clients, o.Rooms, o.Rate, o.Size, o.Warm, o.Time = 10, max(o.Rooms, 1), 100, max(o.Size, 128), 50*time.Millisecond, 300*time.Millisecond
	if o.Presence == "" {
		o.Presence = "none"
	}
	return o
}

// has checks that figures are there, and above zero, and that nothing went wrong.
func (f figures) has(t *testing.T, names ...string) {
	t.Helper()
	t.Log(f)
	for _, name := range names {
		if f[name] <= 0 {
			t.Errorf("figure %s is %v, want more than 0", name, f[name])
		}
	}
	if f["clients"] != 10 || f["refused"] != 0 || f["ended"] != 0 || f["deflated"] != 0 {
		t.Errorf("found %v: want 10 clients, nobody refused or ended, nothing compressed", f)
	}
	// What is under way when the time begins and ends makes it inexact.
	if p, ok := f["delivered_percent"]; ok && (p < 50 || p > 150) {
		t.Errorf("%v %% were delivered, want about 100", p)
	}
}

var (
	delivered = []string{"published_per_s", "deliveries_per_s", "delivered_percent", "bytes_per_delivery", "p50_ms", "p99_ms", "last_p50_ms", "last_p99_ms"}
	inHeap    = append(slices.Clone(delivered), "allocs_per_delivery")
)

// TestModes makes each measurement.
func TestModes(t *testing.T) {
	w := shop(t)
	caddy, secure, shared := caddyServer("http", false, unlimited), caddyServer("https", false, generous...), caddyServer("http", true, unlimited)
	for _, tt := range []struct {
		name   string
		server launcher
		o      options
		names  []string
		linux  []string // figures that only Linux gives
	}{
		{"fanout", caddy, options{Mode: "fanout"}, inHeap, nil},
		{"fanout with TLS", secure, options{Mode: "fanout"}, inHeap, nil},
		{"fanout with Redis", shared, options{Mode: "fanout"}, inHeap, nil},
		{"fanout, bare", bareServer(), options{Mode: "fanout"}, delivered, nil},
		{"fanout, bare and merged", bareServer("-merge", "16"), options{Mode: "fanout"}, delivered, nil},
		{"fanout, bare with TLS", bareServer("-tls"), options{Mode: "fanout"}, delivered, nil},
		{"rooms", caddy, options{Mode: "fanout", RoomSize: 5}, inHeap, nil},
		{"over the API", caddy, options{Mode: "fanout", Batch: 1}, append(slices.Clone(inHeap), "us_per_publish"), nil},
		{"over the API with Redis, seven at once", caddyServer("http", true, unlimited), options{Mode: "fanout", Batch: 7}, inHeap, nil},
		{"stalled", caddy, options{Mode: "fanout", Stalled: 2, Size: 20_000}, inHeap, []string{"kb_per_stalled", "kernel_kb_per_stalled"}},
		{"chat", caddy, options{Mode: "chat", RoomSize: 5}, inHeap, nil},
		{"idle", caddy, options{Mode: "idle", Rooms: 3}, []string{"goroutines_per_conn"}, []string{"kb_per_conn"}},
		{"idle with Redis", shared, options{Mode: "idle", Presence: "full"}, []string{"goroutines_per_conn", "redis_cpu_ms"}, []string{"kb_per_conn"}},
		{"join", caddy, options{Mode: "join", Rooms: 2, Presence: "count"}, []string{"joins_per_s"}, nil},
		{"join with Redis", shared, options{Mode: "join", Presence: "full"}, []string{"joins_per_s"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f, err := w.try(t.Context(), &trial{server: tt.server, load: small(tt.o)})
			if err != nil {
				t.Fatal(err)
			}
			f.has(t, tt.names...)
			if runtime.GOOS == "linux" {
				f.has(t, tt.linux...)
			}
		})
	}
}

// TestRounds checks that trials take turns, that one that fails does not end the run, and that what can't be measured is left out.
func TestRounds(t *testing.T) {
	w := shop(t)
	w.redis = ""
	var order []string
	recorded := func(name string, l launcher) trial {
		return trial{name: name, server: func(ctx context.Context, w *workshop) (*server, error) {
			order = append(order, name)
			return l(ctx, w)
		}, load: small(options{Mode: "fanout"})}
	}
	broken := recorded("broken", caddyServer("http", false, "no_such_word"))
	shared := recorded("shared", caddyServer("http", true, unlimited))
	shared.needs = "redis"
	g := group{
		name:   "g",
		trials: []trial{recorded("ours", caddyServer("http", false, unlimited)), recorded("bare", bareServer()), broken, shared},
		rows:   []row{{title: "p99", figure: "p99_ms", format: "%.1f", base: "bare", peer: "broken", goal: goal{most: 1e9}}},
	}
	var told strings.Builder
	lines, failed, err := w.measure(t.Context(), log.New(&told, "", 0), []group{g}, 2)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"ours", "bare", "broken", "broken", "bare", "ours"}; !slices.Equal(order, want) {
		t.Errorf("the order was %v, want %v", order, want)
	}
	if failed != 2 || !strings.Contains(told.String(), "no_such_word") {
		t.Errorf("%d trials failed, want 2, and their log in:\n%s", failed, told.String())
	}
	l := lines[0]
	if len(l.Values.Ours) != 2 || len(l.Values.Base) != 2 || len(l.Values.Peer) != 0 || l.Result != "pass" || l.Ratio == "" {
		t.Errorf("got %+v", l)
	}
}

// TestUnwell checks what is told of servers that do not do their part.
func TestUnwell(t *testing.T) {
	w := shop(t)
	for name, tt := range map[string]struct {
		directives []string
		o          options
		want       string
	}{
		"refused upgrade":  {[]string{"limit connect {\n on connect\n events 3\n window 1m\n }"}, options{Mode: "idle"}, "429"},
		"refused join":     {[]string{unlimited, "room no* {\n}"}, options{Mode: "idle"}, "forbidden"},
		"refused messages": {[]string{unlimited, "room * {\n publish none\n }"}, options{Mode: "fanout"}, `[1-9]\d* publishes were refused`},
		"uncompressed":     {[]string{unlimited}, options{Mode: "fanout", Deflate: true}, "the server does not compress"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.try(t.Context(), &trial{server: caddyServer("http", false, tt.directives...), load: small(tt.o)})
			if err == nil || !regexp.MustCompile(tt.want).MatchString(err.Error()) {
				t.Errorf("got %v, want an error like %q", err, tt.want)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	for args, want := range map[string]string{
		"":                                   "-url is missing",
		"-url http://x":                      "must begin with ws://",
		"-url ws://x -mode shout":            `-mode "shout": it must be one of [chat fanout idle join]`,
		"-url ws://x -speech x":              `-speech "x": it must be one of [rooms socket.io]`,
		"-url ws://x -clients 0":             "must be 1 or more",
		"-url ws://x -mode chat -rate 0":     "-rate 0: it must be more than 0",
		"-url ws://x -time 0s":               "-time must be more than 0",
		"-url ws://x -presence some":         "must be full, count or none",
		"-url ws://x -mode chat -clients 15": "with -mode chat all rooms must be full",
		"some":                               "the commands are all and bare",
	} {
		if err := run(t.Context(), strings.Fields(args)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("bench %s: got %v, want an error with %q", args, err, want)
		}
	}
}
