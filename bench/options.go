package main

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// options say what is measured, on which server.
type options struct {
	URL    string // ws or wss
	PID    int    // of the server, on this machine; 0: its CPU and memory are not known
	Admin  admin  // "": its goroutines and its heap are not known
	Redis  string // host:port; "": its CPU is not known
	Speech string

	Mode     string
	Clients  int
	RoomSize int // clients of a room; 0: all are in one
	Rooms    int // that each client joins
	Presence string
	Rate     float64 // messages a second, of all publishers together
	Size     int     // of a payload, in bytes
	Deflate  bool
	Stalled  int // further members of the first room, who do not read
	API      string
	Secret   string // of the API
	Batch    int    // messages of a request to the API; 0: a client publishes
	Warm     time.Duration
	Time     time.Duration // that is measured
}

// modes are known by the name in -mode.
var modes = map[string]func(*measurement) error{"fanout": fanout, "chat": chat, "idle": idle, "join": join}

func (o *options) flags(f *flag.FlagSet) {
	f.StringVar(&o.URL, "url", "", "the server's `URL`: ws://host/path or wss://host/path, whose certificate is not checked")
	f.IntVar(&o.PID, "pid", 0, "the server's process `id`, when it runs on this machine, for its CPU and memory")
	f.StringVar((*string)(&o.Admin), "admin", "", "`host:port` of its admin endpoint, for its goroutines and heap")
	f.StringVar(&o.Redis, "redis", "", "`host:port` of the Redis whose CPU is told")
	f.StringVar(&o.Speech, "speech", "rooms", "what it understands: "+strings.Join(slices.Sorted(maps.Keys(speeches)), " or "))
	f.StringVar(&o.Mode, "mode", "fanout", "`one` of: fanout (one more client publishes to the first room), chat (all publish, each to its room), "+
		"idle (all are silent), join (how fast they come)")
	f.IntVar(&o.Clients, "clients", 1000, "how many `clients`")
	f.IntVar(&o.RoomSize, "room-size", 0, "how many `clients` share a room; 0: all (10 with -mode chat)")
	f.IntVar(&o.Rooms, "rooms", 1, "how many `rooms` each client joins")
	f.StringVar(&o.Presence, "presence", "none", "what clients ask to be told when they join: full, count or none")
	f.Float64Var(&o.Rate, "rate", 50, "`messages` published a second")
	f.IntVar(&o.Size, "size", 128, "`bytes` of a message's data")
	f.BoolVar(&o.Deflate, "deflate", false, "offer permessage-deflate; what is compressed is counted, and not looked into")
	f.IntVar(&o.Stalled, "stalled", 0, "how many further `clients` of the first room do not read (fanout)")
	f.IntVar(&o.Batch, "batch", 0, "publish over the HTTP API, so many `messages` a request; 0: over a connection (fanout)")
	f.StringVar(&o.API, "api", "", "the `URL` at which the HTTP API begins")
	f.StringVar(&o.Secret, "secret", "", "the `secret` of the HTTP API")
	f.DurationVar(&o.Warm, "warm", time.Second, "how long messages flow before it is measured")
	f.DurationVar(&o.Time, "time", 8*time.Second, "how long it is measured")
}

// validate fills in what depends on the mode, and tells what is not possible.
func (o *options) validate() error {
	if o.Mode == "chat" && o.RoomSize == 0 {
		o.RoomSize = 10
	}
	if o.RoomSize == 0 {
		o.RoomSize = o.Clients
	}
	switch {
	case o.URL == "":
		return errors.New("-url is missing, as in: -url ws://localhost:8080/ws")
	case !strings.HasPrefix(o.URL, "ws://") && !strings.HasPrefix(o.URL, "wss://"):
		return fmt.Errorf("-url %q: it must begin with ws:// or wss://", o.URL)
	case speeches[o.Speech] == nil:
		return fmt.Errorf("-speech %q: it must be one of %v", o.Speech, slices.Sorted(maps.Keys(speeches)))
	case modes[o.Mode] == nil:
		return fmt.Errorf("-mode %q: it must be one of %v", o.Mode, slices.Sorted(maps.Keys(modes)))
	case o.Clients < 1 || o.RoomSize < 1 || o.Rooms < 1 || o.Size < 0 || o.Stalled < 0:
		return errors.New("-clients and -rooms must be 1 or more; -room-size, -size and -stalled 0 or more")
	case o.Mode == "chat" && (o.RoomSize < 2 || o.Clients%o.RoomSize != 0):
		return fmt.Errorf("-clients %d in rooms of -room-size %d: with -mode chat all rooms must be full, of 2 or more", o.Clients, o.RoomSize)
	case o.Rate <= 0 && (o.Mode == "fanout" || o.Mode == "chat"):
		return fmt.Errorf("-rate %v: it must be more than 0", o.Rate)
	case o.Batch < 0 || o.Batch > 100:
		return fmt.Errorf("-batch %d: it must be 0 to 100", o.Batch)
	case o.Batch > 0 && (o.Mode != "fanout" || o.API == ""):
		return errors.New("-batch needs -mode fanout and -api, as in: -api http://localhost:8080/api")
	case o.Time <= 0 || o.Warm < 0:
		return errors.New("-time must be more than 0, -warm 0 or more")
	case !slices.Contains([]string{"full", "count", "none"}, o.Presence):
		return fmt.Errorf("-presence %q: it must be full, count or none", o.Presence)
	}
	return nil
}

// rooms returns the rooms that the client with a number joins.
func (o *options) rooms(client int) []string {
	names := make([]string, o.Rooms)
	for i := range names {
		names[i] = fmt.Sprintf("bench%d-%d", i, client/o.RoomSize)
	}
	return names
}
