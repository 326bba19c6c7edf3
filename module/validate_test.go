package module

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// load loads a handler as Caddy loads it.
func load(t *testing.T, config string) *Handler {
	t.Helper()
	h := new(Handler)
	if err := caddy.StrictUnmarshalJSON([]byte(config), h); err != nil {
		t.Fatalf("%s: %v", config, err)
	}
	return h
}

func TestValidateConfig(t *testing.T) {
	for _, tc := range []struct {
		name, config string
		want         string // in the error; empty: valid
	}{
		{"empty", `{}`, ""},
		{"anonymous with an empty user", `{"anonymous":true,"user":""}`, ""},
		{"hub", `{"hub":"a b"}`, `bad hub name "a b" (allowed: 1 to 64 of A-Z a-z 0-9 _ -)`},
		{"hub not ascii", `{"hub":"ä"}`, "bad hub name"},
		{"user", `{"user":"{rooms.user}"}`, "user contains {rooms.user}"},
		{"device", `{"device":"a {rooms.conn}"}`, "device contains {rooms.conn} (allowed: the placeholders of the request)"},
		{"origins", `{"origins":["example.com","*","https://*.example.com","localhost:3000"]}`, ""},
		{"empty origin", `{"origins":[""]}`, `bad origin pattern ""`},
		{"origin with a path", `{"origins":["https://example.com/chat"]}`, `bad origin pattern "https://example.com/chat"`},
		{"origin that is no pattern", `{"origins":["[a-"]}`, `bad origin pattern "[a-"`},
		{"auto_join", `{"auto_join":["lobby","chat:{http.request.uri.path.1}"]}`, ""},
		{"auto_join of the user", `{"auto_join":["user:{rooms.user}","{rooms.conn}"]}`, ""},
		{"auto_join of the room", `{"auto_join":["{rooms.user}:{rooms.room}"]}`, "auto_join contains {rooms.room} (allowed: {rooms.conn}, {rooms.user} and those"},
		{"auto_join of what is unknown", `{"auto_join":["{rooms.hub}"]}`, "auto_join contains {rooms.hub}"},
		{"auto_join of a name", `{"auto_join":["a b"]}`, `bad room name "a b" in auto_join`},
		{"auto_join of nothing", `{"auto_join":[""]}`, `bad room name "" in auto_join`},
		{"auto_join of too many", `{"auto_join":["a","b"],"max_rooms":1}`, "auto_join has 2 rooms, more than max_rooms, which is 1"},

		{"rooms", `{"rooms":[{"pattern":"a:*"},{"pattern":"a*"},{"pattern":"*"}]}`, ""},
		{"no pattern", `{"rooms":[{"join":"users"}]}`, "room pattern is empty"},
		{"pattern", `{"rooms":[{"pattern":"a b"}]}`, `room pattern "a b" has other characters`},
		{"pattern twice", `{"rooms":[{"pattern":"a"},{"pattern":"a"}]}`, `room "a" is repeated`},
		{"pattern after a wider one", `{"rooms":[{"pattern":"*"},{"pattern":"a*"}]}`, `room "a*" has no effect: room "*" before it`},
		{"join", `{"rooms":[{"pattern":"a","join":"admins"}]}`, `room "a": join "admins" is unknown (allowed: everyone, users, none)`},
		{"publish", `{"rooms":[{"pattern":"a","publish":"users"}]}`, `room "a": publish "users" is unknown (allowed: members, everyone, none)`},
		{"presence", `{"rooms":[{"pattern":"a","presence":"some"}]}`, `room "a": presence "some" is unknown (allowed: full, count, none)`},
		{"max_members", `{"rooms":[{"pattern":"a","max_members":-1}]}`, `room "a": max_members -1 out of range (allowed: 1 to 1000000)`},

		{"redis", `{"redis":{}}`, ""},
		{"redis mode", `{"redis":{"mode":"cluster"}}`, `redis: mode "cluster" is unknown (allowed: single)`},
		{"redis urls", `{"redis":{"urls":["redis://a","redis://b"]}}`, "redis: 2 urls are too many"},
		{"redis url", `{"redis":{"urls":["http://a"]}}`, "redis: bad url: unknown scheme"},
		{"redis url with a placeholder", `{"redis":{"urls":["{env.REDIS_URL}"],"db":2}}`, ""},
		{"redis db", `{"redis":{"db":-1}}`, "redis: db -1 out of range (allowed: 0 to 65535)"},
		{"redis key_prefix", `{"redis":{"key_prefix":"a b"}}`, `redis: bad key_prefix "a b"`},
		{"redis timeout", `{"redis":{"timeout":"2m"}}`, "redis: timeout 2m0s out of range (allowed: 10ms to 1m0s)"},
		{"redis pool_size", `{"redis":{"pool_size":-1}}`, "redis: pool_size -1 out of range"},
		{"redis tls", `{"redis":{"tls":{"cert":"a"}}}`, "redis: tls needs both cert and key"},
		{"redis tls insecure", `{"redis":{"tls":{"ca":"a","insecure_skip_verify":true}}}`, "redis: tls ca contradicts insecure_skip_verify"},

		{"presence off", `{"presence":{"grace":-1,"coalesce":-1}}`, ""},
		{"presence grace", `{"presence":{"grace":"6m"}}`, "presence: grace 6m0s out of range (allowed: 1ms to 5m0s, or -1 to turn it off)"},
		{"presence ttl", `{"presence":{"ttl":"2s"}}`, "presence: ttl 2s out of range (allowed: 3s to 10m0s)"},
		{"presence ttl off", `{"presence":{"ttl":-1}}`, "presence: ttl -1ns out of range"},
		{"presence coalesce", `{"presence":{"coalesce":"1m"}}`, "presence: coalesce 1m0s out of range"},
		{"presence full_up_to", `{"presence":{"full_up_to":-1}}`, "presence: full_up_to -1 out of range (allowed: 1 to 1000000)"},
		{"presence full_up_to high", `{"presence":{"full_up_to":1000001}}`, "presence: full_up_to 1000001 out of range"},

		{"limit name", `{"limits":[{"on":"join","events":1,"window":"1s"}]}`, `bad limit name ""`},
		{"limit without on", `{"limits":[{"name":"a","events":1,"window":"1s"}]}`, `limit "a": on is missing (allowed: connect, join, publish, status)`},
		{"limit on", `{"limits":[{"name":"a","on":"leave","events":1,"window":"1s"}]}`, `limit "a": on "leave" is unknown`},
		{"limit events", `{"limits":[{"name":"a","on":"join","window":"1s"}]}`, `limit "a": events is missing`},
		{"limit events of a log", `{"limits":[{"name":"a","on":"join","events":10001,"window":"1s","algorithm":"sliding_log"}]}`, `limit "a": events 10001 out of range for sliding_log`},
		{"limit window", `{"limits":[{"name":"a","on":"join","events":1}]}`, `limit "a": window is missing`},
		{"limit algorithm", `{"limits":[{"name":"a","on":"join","events":1,"window":"1s","algorithm":"x"}]}`, `limit "a": algorithm "x" is unknown (allowed: sliding_counter, sliding_log, gcra)`},
		{"limit scope", `{"limits":[{"name":"a","on":"join","events":1,"window":"1s","scope":"x"}]}`, `limit "a": scope "x" is unknown (allowed: cluster, instance)`},
		{"limit on_outage", `{"limits":[{"name":"a","on":"join","events":1,"window":"1s","on_outage":"x"}]}`, `limit "a": on_outage "x" is unknown (allowed: local, allow, deny)`},
		{"limit on_outage of an instance", `{"limits":[{"name":"a","on":"join","events":1,"window":"1s","scope":"instance","on_outage":"deny"}]}`, `limit "a": on_outage deny contradicts scope instance`},
		{"limit key", `{"limits":[{"name":"a","on":"join","events":1,"window":"1s","key":"{rooms.room}:{rooms.user}:{http.vars.client_ip}"}]}`, ""},
		{"limit key unknown", `{"limits":[{"name":"a","on":"join","events":1,"window":"1s","key":"x{rooms.hub}"}]}`, `limit "a": key contains {rooms.hub} (allowed: {rooms.conn}`},
		{"limit key unclosed", `{"limits":[{"name":"a","on":"join","events":1,"window":"1s","key":"{rooms.user"}]}`, ""},
		{"limit key at connect", `{"limits":[{"name":"a","on":"connect","events":1,"window":"1s","key":"{rooms.conn}"}]}`, `limit "a": key contains {rooms.conn}, which is not known on connect`},
		{"limit key at status", `{"limits":[{"name":"a","on":"status","events":1,"window":"1s","key":"{rooms.room}"}]}`, `limit "a": key contains {rooms.room}, which not every request has on status`},
		{"limit twice", `{"limits":[{"name":"a","on":"join","events":1,"window":"1s"},{"name":"a","on":"status","events":1,"window":"1s"}]}`, `limit "a" is repeated`},

		{"max_frame", `{"max_frame":255}`, "max_frame 255 out of range (allowed: 256 to 16777216 bytes)"},
		{"send_queue", `{"send_queue":1073741825}`, "send_queue 1073741825 out of range"},
		{"send_queue below max_frame", `{"send_queue":1024}`, "send_queue 1024 must be at least max_frame, which is 65536"},
		{"send_queue below a small max_frame", `{"send_queue":1024,"max_frame":1025}`, "send_queue 1024 must be at least max_frame"},
		{"send_queue of one frame", `{"send_queue":1024,"max_frame":1024}`, ""},
		{"write_timeout", `{"write_timeout":"1ms"}`, "write_timeout 1ms out of range (allowed: 100ms to 5m0s)"},
		{"ping_interval", `{"ping_interval":"500ms"}`, "ping_interval 500ms out of range (allowed: 1s to 1h0m0s)"},
		{"max_rooms", `{"max_rooms":-1}`, "max_rooms -1 out of range (allowed: 1 to 10000)"},
		{"max_connections", `{"max_connections":-2}`, "max_connections -2 out of range (allowed: 1 to 10000000, or -1 to turn it off)"},
		{"max_connections off", `{"max_connections":-1}`, ""},
		{"max_connection_age", `{"max_connection_age":"400d"}`, "max_connection_age 9600h0m0s out of range"},
		{"drain", `{"drain":"1h"}`, "drain 1h0m0s out of range"},
		{"drain off", `{"drain":-1}`, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := load(t, tc.config)
			checkError(t, h.validateConfig(), tc.want)
			h.setDefaults()
			checkError(t, h.validateConfig(), tc.want)
		})
	}
}

func checkError(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case err == nil && want != "":
		t.Errorf("no error, want %q", want)
	case err != nil && (want == "" || !strings.Contains(err.Error(), want)):
		t.Errorf("error %q, want %q", err, want)
	}
}

func TestSetDefaults(t *testing.T) {
	h := load(t, `{"rooms":[{"pattern":"*"}],"redis":{},"limits":[
		{"name":"a","on":"connect","events":1,"window":"1s"},
		{"name":"b","on":"join","events":1,"window":"1s","scope":"instance"}]}`)
	h.setDefaults()
	want := &Handler{
		Hub:   "default",
		User:  "{http.auth.user.id}",
		Rooms: []RoomRule{{Pattern: "*", Join: "everyone", Publish: "members", Presence: "full"}},
		Redis: &RedisConfig{Mode: "single", KeyPrefix: "rooms", Timeout: caddy.Duration(2 * time.Second)},
		Presence: &PresenceConfig{
			Grace: caddy.Duration(15 * time.Second), TTL: caddy.Duration(20 * time.Second), Coalesce: caddy.Duration(50 * time.Millisecond),
			FullUpTo: 500,
		},
		Limits: []LimitConfig{
			{
				Name: "a", On: "connect", Key: "{http.vars.client_ip}", Events: 1, Window: caddy.Duration(time.Second),
				Algorithm: "sliding_counter", Scope: "cluster", OnOutage: "local",
			},
			{
				Name: "b", On: "join", Key: "{rooms.user}", Events: 1, Window: caddy.Duration(time.Second),
				Algorithm: "sliding_counter", Scope: "instance",
			},
		},
		MaxFrame:       64 << 10,
		SendQueue:      1 << 20,
		WriteTimeout:   caddy.Duration(10 * time.Second),
		PingInterval:   caddy.Duration(25 * time.Second),
		MaxRooms:       64,
		MaxConnections: 100_000,
		Drain:          caddy.Duration(4 * time.Second),
		Metrics:        "on",
	}
	checkConfig(t, h, want)
	h.setDefaults()
	checkConfig(t, h, want)
	if err := h.validateConfig(); err != nil {
		t.Errorf("the defaults are invalid: %v", err)
	}
}

func TestSetDefaultsKeepsWhatIsSet(t *testing.T) {
	const config = `{"hub":"a","user":"u","rooms":[{"pattern":"*","join":"none","publish":"none","presence":"none"}],
		"redis":{"mode":"single","key_prefix":"p","timeout":1000000000},
		"presence":{"grace":-1,"ttl":5000000000,"coalesce":-1,"full_up_to":1},
		"limits":[{"name":"a","on":"join","key":"k","events":1,"window":1000000000,"algorithm":"gcra","scope":"cluster","on_outage":"deny"}],
		"max_frame":1024,"send_queue":2048,"write_timeout":1000000000,"ping_interval":1000000000,"max_rooms":1,
		"max_connections":-1,"max_connection_age":3600000000000,"drain":-1,"metrics":"off"}`
	h := load(t, config)
	h.setDefaults()
	checkConfig(t, h, load(t, config))
}

// checkConfig compares configurations, not what a handler has besides.
func checkConfig(t *testing.T, got, want *Handler) {
	t.Helper()
	g, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	w, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if string(g) != string(w) {
		t.Errorf("got  %s\nwant %s", g, w)
	}
}

func TestLimits(t *testing.T) {
	publish := LimitConfig{
		Name: "publish", On: "publish", Key: "{rooms.conn}", Events: 50, Window: caddy.Duration(time.Second),
		Algorithm: "sliding_counter", Scope: "instance",
	}
	status, join := publish, publish
	status.Name, status.On = "status", "status"
	join.Name, join.On, join.Events = "join", "join", 100
	connect := LimitConfig{
		Name: "connect", On: "connect", Key: "{http.vars.client_ip}", Events: 200, Window: caddy.Duration(10 * time.Second),
		Algorithm: "sliding_counter", Scope: "cluster", OnOutage: "local",
	}
	accept := LimitConfig{
		Name: "accept", On: "connect", Key: "all", Events: 2000, Window: caddy.Duration(time.Second),
		Algorithm: "sliding_counter", Scope: "instance",
	}
	own := func(name string) LimitConfig {
		return LimitConfig{Name: name, On: "publish", Events: 5, Window: caddy.Duration(time.Second)}
	}
	for _, tc := range []struct {
		name    string
		handler *Handler
		want    []LimitConfig
	}{
		{"defaults", &Handler{}, []LimitConfig{publish, status, join, connect, accept}},
		{"none", &Handler{NoDefaultLimits: true}, nil},
		{"further", &Handler{Limits: []LimitConfig{own("a")}}, []LimitConfig{publish, status, join, connect, accept, own("a").withDefaults()}},
		{"replaced", &Handler{Limits: []LimitConfig{own("publish")}}, []LimitConfig{status, join, connect, accept, own("publish").withDefaults()}},
		{"only own", &Handler{NoDefaultLimits: true, Limits: []LimitConfig{own("a")}}, []LimitConfig{own("a").withDefaults()}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.handler.limits(); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
		})
	}
	h := &Handler{Limits: defaultLimits}
	if err := h.validateConfig(); err != nil {
		t.Errorf("the default limits are invalid: %v", err)
	}
}
