package module

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// clusterConfig names users by the query, has short times, and one limit for the cluster.
const clusterConfig = `:{$PORT} {
	rooms /ws {
		user {http.request.uri.query.user}
		redis {$REDIS}
		presence {
			grace 1s
			ttl 3s
			coalesce 1ms
		}
		limit publish {
			on publish
			events 5
			window 1h
		}
	}
}`

func dial(t *testing.T, c *caddytest.Caddy, user string) *roomstest.Client {
	t.Helper()
	return roomstest.Dial(t, c.URL("/ws?user="+user), nil)
}

func startTwo(t *testing.T) (a, b *caddytest.Caddy, redis *redistest.Server) {
	t.Helper()
	redis = redistest.Start(t)
	a = caddytest.StartText(t, clusterConfig, "REDIS="+redis.URL())
	b = caddytest.StartText(t, clusterConfig, "REDIS="+redis.URL())
	a.WaitLog("redis connected")
	b.WaitLog("redis connected")
	return a, b, redis
}

func TestTwoInstances(t *testing.T) {
	a, b, _ := startTwo(t)
	ann, bob := dial(t, a, "ann"), dial(t, b, "bob")

	// Presence and membership.
	if p := ann.Join("lobby"); !slices.Equal(roomstest.Words(p["members"]), []string{"ann"}) {
		t.Fatalf("ann joined %v", p)
	}
	if p := bob.Join("lobby"); !slices.Equal(roomstest.Words(p["members"]), []string{"ann", "bob"}) {
		t.Fatalf("bob joined %v", p)
	}
	if e := ann.Events(); !slices.Equal(e, []string{"join bob"}) {
		t.Fatalf("ann saw %v", e)
	}

	// Messages, both ways.
	for _, way := range [][2]*roomstest.Client{{ann, bob}, {bob, ann}} {
		way[0].Send(`{"type":"publish","id":1,"room":"lobby","event":"chat","data":{"a" : 1}}`)
		if ack := way[0].Next("ack"); ack["degraded"] != nil {
			t.Errorf("ack = %v", ack)
		}
		m := way[1].Next("message")
		if from := m["from"].(roomstest.Object); from["conn"] != way[0].Conn || m["event"] != "chat" {
			t.Errorf("got %v", m)
		}
		way[0].Quiet() // its own echo from Redis is dropped
	}

	// Status, in the room and everywhere.
	bob.Send(`{"type":"status","room":"lobby","status":"away","state":{"typing":true}}`)
	bob.Next("presence")
	if e := ann.Next("presence")["events"].([]any)[0].(roomstest.Object); e["status"] != "away" || e["op"] != "update" {
		t.Errorf("ann saw %v", e)
	}
	bobToo := dial(t, a, "bob")
	bobToo.Send(`{"type":"status","id":1,"status":"busy"}`)
	bobToo.Next("ack")
	if e := ann.Next("presence")["events"].([]any)[0].(roomstest.Object); e["status"] != "busy" {
		t.Errorf("ann saw %v", e)
	}
	bob.Next("presence")

	// A second connection of a user, on another instance, is no event; nor is its end.
	if p := bobToo.Join("lobby"); p["count"] != 2.0 {
		t.Errorf("bob's second connection joined %v", p)
	}
	_ = bobToo.WS.Close(1000, "")
	bob.Send(`{"type":"publish","id":2,"room":"lobby"}`)
	ann.Next("message")
	bob.Next("ack")

	// The last one is.
	_ = bob.WS.Close(1000, "")
	if e := ann.Events(); !slices.Equal(e, []string{"leave bob left"}) {
		t.Errorf("ann saw %v", e)
	}
}

func TestLimitsAreTheClusters(t *testing.T) {
	a, b, _ := startTwo(t)
	here, there := dial(t, a, "ann"), dial(t, b, "ann")
	here.Join("lobby")
	there.Join("lobby")
	allowed := 0
	for i := range 20 {
		c := []*roomstest.Client{here, there}[i%2]
		c.Send(`{"type":"publish","id":%d,"room":"lobby"}`, i)
		for {
			o, err := c.Read()
			if err != nil {
				t.Fatal(err)
			}
			if o["type"] == "ack" {
				allowed++
			}
			if o["type"] == "ack" || o["type"] == "error" {
				break
			}
			if o["type"] == "pong" { // this error was held back
				break
			}
		}
		if allowed == 5 {
			break
		}
	}
	for _, c := range []*roomstest.Client{here, there} {
		c.Send(`{"type":"publish","id":"over","room":"lobby"}`)
		for {
			if o := c.Next("error", "message"); o["type"] == "error" {
				if o["code"] != "rate_limited" || o["limit"].(roomstest.Object)["remaining"] != 0.0 {
					t.Errorf("got %v", o)
				}
				break
			}
		}
	}
}

func TestMessagesFromOutside(t *testing.T) {
	a, b, redis := startTwo(t)
	ann, bob := dial(t, a, "ann"), dial(t, b, "bob")
	ann.Join("lobby")
	bob.Join("lobby")
	ann.Next("presence")
	if _, err := exec.LookPath("redis-cli"); err != nil {
		t.Skip("redis-cli is not installed: on Debian or Ubuntu, apt-get install redis-tools")
	}
	_, port, _ := strings.Cut(redis.Addr, ":")
	out, err := exec.Command("redis-cli", "-p", port, "PUBLISH", "rooms:{default}:e:lobby", `{"event":"deploy","data":{"version":7}}`).CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "2" {
		t.Fatalf("redis-cli: %v, %s", err, out)
	}
	for _, c := range []*roomstest.Client{ann, bob} {
		if m := c.Next("message"); m["event"] != "deploy" || m["from"] != nil {
			t.Errorf("got %v", m)
		}
	}
}

func TestKilledInstanceLeavesNobodyBehind(t *testing.T) {
	a, b, redis := startTwo(t)
	ann, bob, cid := dial(t, a, "ann"), dial(t, b, "bob"), dial(t, b, "cid")
	ann.Join("lobby")
	bob.Join("lobby")
	ann.Next("presence")
	cid.Join("lobby")
	ann.Next("presence")
	b.Kill()
	cidAgain := dial(t, a, "cid") // back on another instance before anyone missed him
	cidAgain.Join("lobby")
	if e := ann.Events(); !slices.Equal(e, []string{"leave bob node"}) {
		t.Errorf("ann saw %v", e)
	}
	ann.Send(`{"type":"members","id":1,"room":"lobby"}`)
	if got := roomstest.Words(ann.Next("ack")["presence"].(roomstest.Object)["members"]); !slices.Equal(got, []string{"ann", "cid"}) {
		t.Errorf("members %v", got)
	}
	client := redis.Client()
	a.Wait("the dead instance's lease to go", func() bool {
		return client.ZCard(t.Context(), "rooms:{default}:L").Val() == 1
	})
}

func TestRedisComesAndGoes(t *testing.T) {
	redis := redistest.Start(t)
	redis.Kill()
	a := caddytest.StartText(t, clusterConfig, "REDIS="+redis.URL())
	a.WaitLog("redis")
	ann, bob := dial(t, a, "ann"), dial(t, a, "bob")
	check := func(degraded any) {
		t.Helper()
		for i, c := range []*roomstest.Client{ann, bob} {
			c.Send(`{"type":"publish","id":1,"room":"lobby"}`)
			if ack := c.Next("ack"); ack["degraded"] != degraded {
				t.Errorf("ack = %v, want degraded %v", ack, degraded)
			}
			[]*roomstest.Client{ann, bob}[1-i].Next("message")
		}
	}
	ann.Send(`{"type":"join","id":1,"room":"lobby"}`)
	if ack := ann.Next("ack"); ack["degraded"] != true {
		t.Errorf("ack without Redis = %v", ack)
	}
	bob.Join("lobby")
	ann.Next("presence")
	check(true)
	redis.Run()
	a.WaitLog("redis connected")
	// The gap is told once Redis has the room; until then acks may still be degraded.
	b := caddytest.StartText(t, clusterConfig, "REDIS="+redis.URL())
	var members []string
	a.Wait("the members to be in Redis", func() bool {
		cid := dial(t, b, fmt.Sprint("cid", time.Now().UnixNano()))
		defer func() { _ = cid.WS.Close(1000, "") }()
		cid.Send(`{"type":"join","id":1,"room":"lobby"}`)
		p := cid.Next("ack")["presence"].(roomstest.Object)
		members = roomstest.Words(p["members"])
		return slices.Contains(members, "ann") && slices.Contains(members, "bob")
	})
	if n := strings.Count(a.Log(), "redis is out of reach, going on without it"); n != 1 {
		t.Errorf("one outage was told %d times", n)
	}
}
