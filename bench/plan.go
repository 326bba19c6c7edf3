package main

import (
	"fmt"
	"time"
)

// trial is one measurement on a server that is started for it.
type trial struct {
	name   string // within its group
	needs  string // "redis" or "socket.io"; "" for neither
	server launcher
	load   options // without what the server tells of itself
}

// group is trials that are made one after the other in each round, and what is read from them.
type group struct {
	name   string // what -run selects
	trials []trial
	rows   []row
}

// row is a line of the table: a figure of the trial ours, what it is to be, and what it is compared with.
type row struct {
	title    string
	figure   string
	format   string // of a value
	ours     string // the trial; the first of the group if empty
	base     string // the trial that it is compared with; none if empty
	baseNote string // what base is, where it is not the bare loop
	peer     string // the trial of the other server; none if empty
	goal     goal
}

// goal is what a row is to be. What is zero is not asked for.
type goal struct {
	ratio float64 // at most so many times the base
	most  float64 // at most so much
	least float64 // at least so much
	above float64 // at most so much more than the base
}

func (g goal) String() string {
	switch {
	case g.ratio > 0 && g.most > 0:
		return fmt.Sprintf("≤ %gx, ≤ %g", g.ratio, g.most)
	case g.ratio > 0:
		return fmt.Sprintf("≤ %gx", g.ratio)
	case g.most > 0:
		return fmt.Sprintf("≤ %g", g.most)
	case g.least > 0:
		return fmt.Sprintf("≥ %g", g.least)
	case g.above > 0:
		return fmt.Sprintf("≤ %g more", g.above)
	}
	return ""
}

// unlimited lifts limits that would hold back clients who all come from one address at once.
const unlimited = "no_default_limits"

// generous are limits that are checked and never reached, so that what they cost is measured.
var generous = []string{
	"limit connect {\n\t\t\ton connect\n\t\t\tevents 1000000\n\t\t\twindow 10s\n\t\t}",
	"limit accept {\n\t\t\ton connect\n\t\t\tkey all\n\t\t\tevents 1000000\n\t\t\twindow 1s\n\t\t\tscope instance\n\t\t}",
}

const (
	costTitle = "%s: us of server CPU a delivery"
	p99Title  = "%s: p99 ms"
)

// plan returns all groups. measured is how long traffic is.
func plan(measured time.Duration) []group {
	traffic := func(rate float64, clients, size int) options {
		return options{Mode: "fanout", Clients: clients, Rooms: 1, Presence: "none", Rate: rate, Size: size, Warm: time.Second, Time: measured}
	}
	still := func(mode string, clients, roomSize int, presence string) options {
		return options{Mode: mode, Clients: clients, Rooms: 1, RoomSize: roomSize, Presence: presence, Time: 8 * time.Second}
	}
	ours := caddyServer("http", false, unlimited)
	oursRedis := caddyServer("http", true, unlimited)

	var groups []group
	add := func(g group) { groups = append(groups, g) }

	for _, f := range []struct {
		rate, p99Ratio, p99Most float64
		merge                   string
	}{{50, 1.5, 0, "1"}, {150, 0, 20, "1"}, {500, 0, 0, "16"}, {1000, 0, 0, "16"}} {
		title, note := fmt.Sprintf("fan-out, 1,000 members, %g msg/s", f.rate), ""
		if f.merge != "1" {
			note = "merged"
		}
		g := group{
			name:   fmt.Sprintf("fanout-%g", f.rate),
			trials: []trial{{"ours", "", ours, traffic(f.rate, 1000, 128)}, {"bare", "", bareServer("-merge", f.merge), traffic(f.rate, 1000, 128)}},
			rows: []row{
				{title: fmt.Sprintf(costTitle, title), figure: "us_per_delivery", format: "%.2f", base: "bare", baseNote: note, goal: goal{ratio: 1.15}},
				{title: fmt.Sprintf(p99Title, title), figure: "p99_ms", format: "%.1f", base: "bare", baseNote: note, goal: goal{ratio: f.p99Ratio, most: f.p99Most}},
			},
		}
		if f.rate == 150 {
			g.rows = append(g.rows, row{title: title + ": allocations a delivery", figure: "allocs_per_delivery", format: "%.3f", goal: goal{most: .05}})
		}
		add(g)
	}
	add(group{
		name: "fanout-10000",
		trials: []trial{
			{"ours", "", ours, traffic(10, 10_000, 128)},
			{"bare", "", bareServer(), traffic(10, 10_000, 128)},
		},
		rows: []row{
			{title: "fan-out, 10,000 members, 10 msg/s: us of server CPU a delivery", figure: "us_per_delivery", format: "%.2f", base: "bare", goal: goal{ratio: 1.25}},
			{title: "fan-out, 10,000 members, 10 msg/s: ms to the last member (median)", figure: "last_p50_ms", format: "%.1f", base: "bare", goal: goal{most: 60}},
		},
	})
	add(group{
		name: "fanout-tls",
		trials: []trial{
			{"ours", "", caddyServer("https", false, unlimited), traffic(50, 1000, 128)},
			{"bare", "", bareServer("-tls"), traffic(50, 1000, 128)},
		},
		rows: []row{
			{title: "fan-out with TLS, 1,000 members, 50 msg/s: us of server CPU a delivery", figure: "us_per_delivery", format: "%.2f", base: "bare", baseNote: "with TLS"},
			{title: "fan-out with TLS, 1,000 members, 50 msg/s: p99 ms", figure: "p99_ms", format: "%.1f", base: "bare", baseNote: "with TLS"},
		},
	})
	for _, rate := range []float64{50, 150} {
		title := fmt.Sprintf("fan-out with Redis, 1,000 members, %g msg/s", rate)
		add(group{
			name: fmt.Sprintf("fanout-redis-%g", rate),
			trials: []trial{
				{"ours", "redis", oursRedis, traffic(rate, 1000, 128)},
				{"bare", "", bareServer(), traffic(rate, 1000, 128)},
				{"peer", "socket.io", socketIOServer, traffic(rate, 1000, 128)},
			},
			rows: []row{
				{title: fmt.Sprintf(costTitle, title), figure: "us_per_delivery", format: "%.2f", base: "bare", peer: "peer"},
				{title: fmt.Sprintf(p99Title, title), figure: "p99_ms", format: "%.1f", base: "bare", peer: "peer"},
				{title: title + ": % delivered in time", figure: "delivered_percent", format: "%.1f", base: "bare", peer: "peer"},
			},
		})
	}
	deflated := traffic(50, 1000, 1024)
	deflated.Deflate = true
	add(group{
		name: "deflate",
		trials: []trial{
			{"ours", "", caddyServer("http", false, unlimited, "compression"), deflated},
			{"bare", "", bareServer(), traffic(50, 1000, 1024)},
		},
		rows: []row{
			{title: "deflate, 1,000 members, 1 KiB, 50 msg/s: us of server CPU a delivery", figure: "us_per_delivery", format: "%.2f", base: "bare", baseNote: "not compressed", goal: goal{ratio: 1.4}},
			{title: "deflate: bytes of a message", figure: "bytes_per_delivery", format: "%.0f", base: "bare", baseNote: "not compressed"},
		},
	})
	chatting := traffic(1000, 5000, 128)
	chatting.Mode, chatting.RoomSize = "chat", 10
	add(group{
		name:   "chat",
		trials: []trial{{"ours", "", ours, chatting}},
		rows: []row{
			{title: "chat, 500 rooms of 10, 1,000 msg/s: us of server CPU a delivery", figure: "us_per_delivery", format: "%.1f", goal: goal{most: 14}},
			{title: "chat, 500 rooms of 10, 1,000 msg/s: p99 ms", figure: "p99_ms", format: "%.1f"},
		},
	})
	add(group{
		name: "idle",
		trials: []trial{
			{"plain", "", ours, still("idle", 10_000, 0, "none")},
			{"presence", "", caddyServer("http", false, generous...), still("idle", 10_000, 10, "full")},
			{"tls", "", caddyServer("https", false, unlimited), still("idle", 10_000, 0, "none")},
		},
		rows: []row{
			{title: "idle connection: KB of memory, after 8 s", figure: "kb_per_conn", format: "%.1f", goal: goal{most: 10}},
			{title: "idle connection: KB of memory, after a collection", figure: "kb_per_conn_collected", format: "%.1f", goal: goal{most: 8}},
			{title: "idle connection: goroutines", figure: "goroutines_per_conn", format: "%.2f", goal: goal{most: 1}},
			{title: "idle, with presence and limits: KB of memory, after 8 s", figure: "kb_per_conn", format: "%.1f", ours: "presence"},
			{title: "idle, with presence and limits: KB of memory, after a collection", figure: "kb_per_conn_collected", format: "%.1f", ours: "presence"},
			{title: "idle, with TLS: KB of memory, after 8 s", figure: "kb_per_conn", format: "%.1f", ours: "tls", goal: goal{most: 26}},
			{title: "idle, with TLS: KB of memory, after a collection", figure: "kb_per_conn_collected", format: "%.1f", ours: "tls", goal: goal{most: 20}},
		},
	})
	add(group{
		name: "idle-redis",
		trials: []trial{
			{"ours", "redis", oursRedis, still("idle", 5000, 0, "none")},
			{"peer", "socket.io", socketIOServer, still("idle", 5000, 0, "none")},
		},
		rows: []row{{title: "idle connection with Redis: KB of memory, after 8 s", figure: "kb_per_conn", format: "%.1f", peer: "peer"}},
	})
	add(group{
		name: "joins",
		trials: []trial{
			{"full", "", ours, still("join", 5000, 10, "full")},
			{"none", "", ours, still("join", 5000, 10, "none")},
			{"crowd", "", ours, still("join", 2000, 0, "full")},
		},
		rows: []row{
			{title: "joins with presence, rooms of 10: a second", figure: "joins_per_s", format: "%.0f", goal: goal{least: 5000}},
			{title: "joins with presence, rooms of 10: us of server CPU", figure: "us_per_join", format: "%.0f"},
			{title: "joins without presence, rooms of 10: a second", figure: "joins_per_s", format: "%.0f", ours: "none"},
			{title: "joins without presence, rooms of 10: us of server CPU", figure: "us_per_join", format: "%.0f", ours: "none"},
			{title: "joins with presence, all 2,000 in one room: a second", figure: "joins_per_s", format: "%.0f", ours: "crowd"},
		},
	})
	add(group{
		name: "joins-redis",
		trials: []trial{
			{"ours", "redis", oursRedis, still("join", 5000, 10, "full")},
			{"peer", "socket.io", socketIOServer, still("join", 5000, 10, "full")},
		},
		rows: []row{
			{title: "joins with presence and Redis, rooms of 10: a second", figure: "joins_per_s", format: "%.0f", peer: "peer", goal: goal{least: 4000}},
			{title: "joins with presence and Redis, rooms of 10: us of server CPU", figure: "us_per_join", format: "%.0f", peer: "peer"},
		},
	})
	for _, clients := range []int{1, 10, 100} {
		socket := traffic(1000, clients, 128)
		single, hundred := socket, socket
		single.Batch, hundred.Batch = 1, 100
		title := fmt.Sprintf("1,000 msg/s over the HTTP API to %d members", clients)
		add(group{
			name:   fmt.Sprintf("api-%d", clients),
			trials: []trial{{"single", "", ours, single}, {"hundred", "", ours, hundred}, {"socket", "", ours, socket}},
			rows: []row{
				{title: title + ": us of server CPU a message", figure: "us_per_publish", format: "%.1f", base: "socket", baseNote: "over a socket", goal: goal{ratio: 2}},
				{title: title + ", 100 a request: us of server CPU a message", figure: "us_per_publish", format: "%.1f", ours: "hundred", base: "socket", baseNote: "over a socket"},
			},
		})
	}
	members := still("idle", 10_000, 10, "full")
	members.Rooms, members.Warm, members.Time = 10, 5*time.Second, 25*time.Second
	nobody := still("idle", 1, 1, "full")
	nobody.Warm, nobody.Time = members.Warm, members.Time
	add(group{
		name: "redis-idle",
		trials: []trial{
			{"ours", "redis", oursRedis, members},
			{"nobody", "redis", oursRedis, nobody},
		},
		rows: []row{{
			title: "100,000 idle members (10,000 clients in 10 rooms of 10): ms of Redis CPU in 25 s", figure: "redis_cpu_ms", format: "%.1f", base: "nobody",
			baseNote: "one member", goal: goal{above: 5},
		}},
	})
	crowd := traffic(300, 100, 128)
	crowd.Time = 8 * time.Second // so that what waits stays under send_queue
	withStalled := crowd
	withStalled.Stalled = 100
	add(group{
		name:   "stalled",
		trials: []trial{{"ours", "", ours, withStalled}, {"without", "", ours, crowd}},
		rows: []row{
			{title: "each of 100 stalled clients, 9 s at 300 msg/s: KB of ours", figure: "kb_per_stalled", format: "%.1f", goal: goal{most: 64}},
			{title: "each of 100 stalled clients: KB of the kernel's", figure: "kernel_kb_per_stalled", format: "%.1f", goal: goal{most: 64}},
			{title: "its 100 neighbours: p99 ms", figure: "p99_ms", format: "%.1f", base: "without", baseNote: "none stalled", goal: goal{ratio: 2}},
		},
	})
	return groups
}
