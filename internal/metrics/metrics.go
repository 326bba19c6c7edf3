// Package metrics counts what hubs do, for Prometheus. What is counted belongs to the process, by the name of the hub: it outlives
// configurations and hubs of that name, so that no value ever goes back. No label has a room, a user, a key or an address in it.
package metrics

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Hub is the metrics of the hubs of one name. As a [prometheus.Collector] it may be registered with any number of registries. Its fields
// never change; all that they lead to may be used from any goroutine.
type Hub struct {
	Received, Sent           prometheus.Counter // messages, from and to clients
	ReceivedBytes, SentBytes prometheus.Counter // as on the connections, without TLS

	DroppedSlow    prometheus.Counter // were waiting for a client that was too slow
	DroppedBus     prometheus.Counter // did not get to the other instances
	DroppedOutside prometheus.Counter // came from outside and were malformed or too large

	Broadcast prometheus.Histogram // seconds that handing a message to all members here takes
	BusLag    prometheus.Histogram // seconds from the publisher's timestamp to its arrival from another instance

	Joins, Updates, Leaves prometheus.Counter // presence events of rooms that are open here

	Reaps           prometheus.Counter // dead instances whose members this one has removed
	Reconciliations prometheus.Counter // times that everything of this instance was written to Redis again, and rooms were read again

	DroppedDatabase prometheus.Counter // rows for the presence database

	limits     *prometheus.CounterVec
	closes     *prometheus.CounterVec
	roundTrips *prometheus.HistogramVec
	errors     *prometheus.CounterVec

	gauges     gaugeDescs
	collectors []prometheus.Collector

	mu      sync.Mutex
	sources []*func() Gauges // of the living hubs, oldest first; guarded by mu
}

// Gauges are how things stand with a hub.
type Gauges struct {
	Connections int
	Rooms       int  // with a member that is connected here
	Members     int  // connections in rooms, each as often as it is in one
	OutboxBytes int  // that wait to be sent
	Shared      bool // there is a Redis
	RedisUp     bool // and it can be reached

	Archived     bool // there is a presence database
	DatabaseUp   bool // and it can be reached
	DatabaseRows int  // that wait to be written
}

type gaugeDescs struct {
	connections, rooms, members, outboxBytes, redisUp, databaseUp, databaseRows *prometheus.Desc
}

var hubs = struct {
	sync.Mutex
	byName map[string]*Hub
}{byName: make(map[string]*Hub)}

// For returns the metrics of the hubs of that name, for the life of the process.
func For(hub string) *Hub {
	hubs.Lock()
	defer hubs.Unlock()
	h := hubs.byName[hub]
	if h == nil {
		h = New(hub)
		hubs.byName[hub] = h
	}
	return h
}

const namespace, subsystem = "caddy", "rooms"

// New returns metrics of their own, which nobody else counts in.
func New(hub string) *Hub {
	labels := prometheus.Labels{"hub": hub}
	h := new(Hub)
	counters := func(name, help string, variable ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: name, Help: help, ConstLabels: labels,
		}, variable)
		h.collectors = append(h.collectors, v)
		return v
	}
	counter := func(name, help string) prometheus.Counter { return counters(name, help).WithLabelValues() }
	histograms := func(name, help string, buckets []float64, variable ...string) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Subsystem: subsystem, Name: name, Help: help, ConstLabels: labels, Buckets: buckets,
		}, variable)
		h.collectors = append(h.collectors, v)
		return v
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return histograms(name, help, buckets).WithLabelValues().(prometheus.Histogram)
	}
	gauge := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(namespace, subsystem, name), help, nil, labels)
	}

	h.Received = counter("messages_received_total", "Messages that clients have sent.")
	h.Sent = counter("messages_sent_total", "Messages that were sent to clients.")
	h.ReceivedBytes = counter("received_bytes_total", "Bytes read from WebSocket connections, without TLS.")
	h.SentBytes = counter("sent_bytes_total", "Bytes written to WebSocket connections, without TLS.")
	dropped := counters("messages_dropped_total", "Messages that were not delivered, by reason: slow (the client did not take them), "+
		"bus (not handed to the other instances), outside (published in Redis, malformed or too large).", "reason")
	h.DroppedSlow = dropped.WithLabelValues("slow")
	h.DroppedBus = dropped.WithLabelValues("bus")
	h.DroppedOutside = dropped.WithLabelValues("outside")
	h.Broadcast = histogram("broadcast_duration_seconds", "How long it takes to hand a message to all members on this instance.", broadcastBuckets)
	h.BusLag = histogram("bus_lag_seconds", "From the publisher's timestamp to the arrival from another instance.", lagBuckets)
	events := counters("presence_events_total", "Changes of presence in the rooms that are open on this instance.", "op")
	h.Joins, h.Updates, h.Leaves = events.WithLabelValues("join"), events.WithLabelValues("update"), events.WithLabelValues("leave")
	h.Reaps = counter("reaps_total", "Dead instances whose members were removed by this one.")
	h.Reconciliations = counter("reconciliations_total", "Times that this instance has written its presence to Redis again and read its rooms.")
	h.DroppedDatabase = counter("database_dropped_total", "Rows that were not written to the presence database because too many waited.")
	h.limits = counters("limit_decisions_total", "Decisions of rate limits, by outcome: allowed, refused, observed (would have been refused), "+
		"unavailable (refused without Redis).", "limit", "outcome")
	h.closes = counters("closes_total", "Connections that have ended, by close code.", "code")
	h.roundTrips = histograms("redis_round_trip_seconds", "How long Redis took to answer, by what it was asked for.", roundTripBuckets, "operation")
	h.errors = counters("redis_errors_total", "Commands and pipelines that Redis did not answer or refused.", "operation")
	h.gauges = gaugeDescs{
		connections: gauge("connections", "Open connections."),
		rooms:       gauge("rooms", "Rooms with a member on this instance."),
		members:     gauge("members", "Memberships of connections of this instance."),
		outboxBytes: gauge("outbox_bytes", "Bytes that wait to be sent to clients."),
		redisUp:     gauge("redis_up", "Whether Redis can be reached."),

		databaseUp:   gauge("database_up", "Whether the presence database can be reached."),
		databaseRows: gauge("database_rows", "Rows that wait to be written to the presence database."),
	}
	return h
}

// Buckets, in seconds.
var (
	broadcastBuckets = []float64{10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 1}
	lagBuckets       = []float64{1e-3, 2e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 2.5, 5, 10}
	roundTripBuckets = []float64{100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 500e-3, 1, 2.5, 5}
)

// Watch adds the gauges of a hub until stop is called. They are read for each scrape, from any goroutine.
func (h *Hub) Watch(gauges func() Gauges) (stop func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	source := &gauges
	h.sources = append(h.sources, source)
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.sources = slices.DeleteFunc(slices.Clone(h.sources), func(s *func() Gauges) bool { return s == source })
	}
}

// Describe implements [prometheus.Collector].
func (h *Hub) Describe(to chan<- *prometheus.Desc) {
	for _, c := range h.collectors {
		c.Describe(to)
	}
	g := h.gauges
	for _, d := range []*prometheus.Desc{g.connections, g.rooms, g.members, g.outboxBytes, g.redisUp, g.databaseUp, g.databaseRows} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (h *Hub) Collect(to chan<- prometheus.Metric) {
	for _, c := range h.collectors {
		c.Collect(to)
	}
	h.mu.Lock()
	sources := h.sources
	h.mu.Unlock()
	var sum Gauges
	for _, read := range sources {
		g := (*read)()
		sum.Connections += g.Connections
		sum.Rooms += g.Rooms
		sum.Members += g.Members
		sum.OutboxBytes += g.OutboxBytes
		sum.DatabaseRows += g.DatabaseRows
		// The latest hub's: those before it are on their way out.
		sum.Shared, sum.RedisUp, sum.Archived, sum.DatabaseUp = g.Shared, g.RedisUp, g.Archived, g.DatabaseUp
	}
	gauge := func(d *prometheus.Desc, v int) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	gauge(h.gauges.connections, sum.Connections)
	gauge(h.gauges.rooms, sum.Rooms)
	gauge(h.gauges.members, sum.Members)
	gauge(h.gauges.outboxBytes, sum.OutboxBytes)
	if sum.Shared {
		gauge(h.gauges.redisUp, truth(sum.RedisUp))
	}
	if sum.Archived {
		gauge(h.gauges.databaseUp, truth(sum.DatabaseUp))
		gauge(h.gauges.databaseRows, sum.DatabaseRows)
	}
}

// truth is a yes as 1 and a no as 0.
func truth(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// Decisions are the counters of one limit; the zero value counts nothing.
type Decisions struct{ allowed, refused, observed, unavailable prometheus.Counter }

// Limit returns the counters of the limit of that name.
func (h *Hub) Limit(name string) Decisions {
	of := func(outcome string) prometheus.Counter { return h.limits.WithLabelValues(name, outcome) }
	return Decisions{allowed: of("allowed"), refused: of("refused"), observed: of("observed"), unavailable: of("unavailable")}
}

// Allowed counts an event that passed.
func (d Decisions) Allowed() { inc(d.allowed) }

// Refused counts an event over the limit.
func (d Decisions) Refused() { inc(d.refused) }

// Observed counts an event over a limit that only observes.
func (d Decisions) Observed() { inc(d.observed) }

// Unavailable counts an event that was refused because nobody could decide.
func (d Decisions) Unavailable() { inc(d.unavailable) }

func inc(c prometheus.Counter) {
	if c != nil {
		c.Inc()
	}
}

// Closed counts a connection that has ended. The peer may choose any code: those that nobody asks for are counted together.
func (h *Hub) Closed(code string) { h.closes.WithLabelValues(code).Inc() }

// RoundTrip records an exchange with Redis.
func (h *Hub) RoundTrip(operation string, took time.Duration, failed bool) {
	h.roundTrips.WithLabelValues(operation).Observe(took.Seconds())
	if errors := h.errors.WithLabelValues(operation); failed {
		errors.Inc()
	}
}
