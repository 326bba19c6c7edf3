package main

import (
	"fmt"
	"strings"
	"time"
)

// figures are what a measurement has found, by name. What could not be found is not there.
type figures map[string]float64

// knownFigure is a figure that there may be.
type knownFigure struct {
	name string // as in JSON
	text string // how a line tells it
	zero bool   // it is told when it is 0, too
}

// known are all figures, in the order in which a line shows them.
var known = []knownFigure{
	{"clients", "%.0f clients", true},
	{"joins_per_s", "%.0f joins/s", true},
	{"us_per_join", "%.0f us of server CPU a join", true},
	{"published_per_s", "%.1f published/s", true},
	{"deliveries_per_s", "%.0f deliveries/s", true},
	{"delivered_percent", "%.1f %% delivered", true},
	{"us_per_delivery", "%.2f us of server CPU a delivery", true},
	{"us_per_publish", "%.1f us a publish", true},
	{"allocs_per_delivery", "%.3f allocations a delivery", true},
	{"bytes_per_delivery", "%.0f bytes a delivery", true},
	{"p50_ms", "p50 %.2f ms", true},
	{"p99_ms", "p99 %.2f ms", true},
	{"last_p50_ms", "last member p50 %.2f ms", true},
	{"last_p99_ms", "last member p99 %.2f ms", true},
	{"server_cores", "%.2f cores of the server", true},
	{"client_cores", "%.2f cores of the clients", true},
	{"kb_per_conn", "%.1f KB a connection", true},
	{"kb_per_conn_collected", "%.1f KB after a collection", true},
	{"goroutines_per_conn", "%.2f goroutines a connection", true},
	{"redis_cpu_ms", "%.1f ms of Redis CPU", true},
	{"kb_per_stalled", "%.1f KB for each stalled client", true},
	{"kernel_kb_per_stalled", "%.1f KB of the kernel's", true},
	{"deflated", "deflated", false},
	{"refused", "%.0f publishes REFUSED", false},
	{"ended", "%.0f connections ENDED by the server", false},
}

func (f figures) String() string {
	var parts []string
	for _, k := range known {
		switch value, ok := f[k.name]; {
		case !ok || value == 0 && !k.zero:
		case strings.Contains(k.text, "%"):
			parts = append(parts, fmt.Sprintf(k.text, value))
		default:
			parts = append(parts, k.text)
		}
	}
	return strings.Join(parts, ", ")
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
