package faults

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/caddyrooms/caddy-rooms/internal/caddytest"
	"github.com/caddyrooms/caddy-rooms/internal/roomstest"
)

// instanceKilledBeforeADatabase kills one of three instances: its users are offline, last seen while it lived, except those who are elsewhere.
func instanceKilledBeforeADatabase(t *testing.T, l *ledger) {
	l.begin(t, size(600, 60), options{nodes: 3})
	elsewhere := l.on(0)[0]
	l.join(1, elsewhere.user, elsewhere.room)
	l.settled(l.checkDatabase)
	filled := time.Now()
	lost := l.kill(0)
	killed := time.Now()
	for i, cl := range lost {
		if i%5 == 1 {
			l.join(1+i%2, cl.user, cl.room)
		}
	}
	l.settled(l.checkDatabase)
	// Twice: for the lease, and for what is gathered before it is written.
	within(t, "users of a killed instance offline in the database", time.Since(killed), l.ttl+l.renewal()+4*time.Second)
	users, err := l.entries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	open := l.truth().all
	for _, cl := range lost {
		e := users[cl.user]
		if open[cl.user] == nil && (e.seen > killed.UnixMilli() || e.seen < cl.since.Add(-time.Second).UnixMilli()) {
			t.Errorf("%s was last seen %s after the kill, all had come %s before", cl.user, time.UnixMilli(e.seen).Sub(killed), killed.Sub(filled))
		}
	}
	l.settled(l.check)
	for _, cl := range lost {
		if f := l.find(1, cl.user); open[cl.user] == nil && (f.Online || f.Source != "database" || f.Stale || f.LastSeen != users[cl.user].seen) {
			t.Errorf("%s: %+v", cl.user, f)
		}
	}
	l.finish()
}

// everythingKilledButTheDatabase kills all instances and empties Redis: who comes back has his status again, the others end as offline.
func everythingKilledButTheDatabase(t *testing.T, l *ledger) {
	l.begin(t, size(600, 60), options{})
	busy := map[string]bool{}
	for i, cl := range l.all() {
		if i%2 == 0 {
			l.status(cl, "busy")
			busy[cl.user] = true
		}
	}
	hopped := l.all()[0] // keeps his status when he goes to the other instance
	l.part(hopped, (*client).drop)
	l.join(1, hopped.user, hopped.room)
	l.settled(l.check)
	l.settled(l.checkDatabase)
	l.settled(func() error {
		for user := range busy {
			if e := l.entry(user); e.status != "busy" {
				return fmt.Errorf("%s: %+v", user, e)
			}
		}
		return nil
	})
	killed := time.Now()
	lost := append(l.kill(0), l.kill(1)...)
	if err := l.store.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	for _, n := range l.nodes {
		n.Run()
	}
	for i, cl := range lost {
		if i%4 < 2 || cl.user == hopped.user {
			l.join(i%2, cl.user, cl.room)
		}
	}
	began := time.Now()
	l.settled(func() error {
		for _, cl := range l.all() {
			want := "online"
			if busy[cl.user] {
				want = "busy"
			}
			if f := l.find(0, cl.user); !f.Online || f.Status != want {
				return fmt.Errorf("%s, who was %s, is back: %+v", cl.user, want, f)
			}
		}
		return nil
	})
	t.Logf("figure: statuses restored %.2f s after the last one was back", time.Since(began).Seconds())
	l.settled(l.checkDatabase)
	within(t, "users of killed instances offline in the database, without Redis", time.Since(killed), 6*sign())
	users, err := l.entries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	open := l.truth().all
	for _, cl := range lost {
		e := users[cl.user]
		if open[cl.user] == nil && (e.seen > killed.Add(time.Second).UnixMilli() || e.seen < cl.since.Add(-time.Second).UnixMilli()) {
			t.Errorf("%s was last seen %s after the kill", cl.user, time.UnixMilli(e.seen).Sub(killed))
		}
		if busy[cl.user] && e.status != "busy" {
			t.Errorf("%s: %+v", cl.user, e)
		}
	}
	for _, cl := range l.all() {
		cl.told()
	}
	l.settled(l.check)
	l.finish()
}

// hopping has a user hop between two instances and set his status all the time: when he stays, the database says what is true.
func hopping(t *testing.T, l *ledger) {
	l.begin(t, size(0, 0), options{})
	hop, rounds := 0, 4
	if full {
		rounds = 20
	}
	var at *client
	for round := range rounds {
		for range 8 {
			hop++
			next := l.join(hop%2, "hopper", "lobby")
			switch {
			case at == nil:
			case hop%3 == 0:
				l.part(at, (*client).drop)
			default:
				l.part(at, func(cl *client) { cl.leave(1000) })
			}
			at = next
			l.status(at, fmt.Sprint("hop", hop))
		}
		if round%2 == 1 {
			l.part(at, func(cl *client) { cl.leave(1000) })
			at = nil
		}
		l.settled(l.checkDatabase)
		l.settled(func() error {
			if e := l.entry("hopper"); e.status != fmt.Sprint("hop", hop) {
				return fmt.Errorf("after %d hops: %+v", hop, e)
			}
			return nil
		})
		l.settled(l.check)
		if f := l.find(round%2, "hopper"); f.Online != (at != nil) || f.Status != fmt.Sprint("hop", hop) {
			t.Errorf("after %d hops: %+v", hop, f)
		}
	}
	l.finish()
}

// stopWritesEverything stops an instance right after everybody has come: they are in the database before the process has ended.
func stopWritesEverything(t *testing.T, l *ledger) {
	s := size(600, 60)
	l.cluster = start(t, s, options{program: l.program, archive: l.dsn, lines: fmt.Sprintf("drain %s", s.drain())})
	l.settled(l.checkDatabase)
	l.fill()
	sent := l.on(0)
	for _, cl := range sent {
		l.status(cl, "last")
	}
	stay := l.join(1, sent[0].user, sent[0].room)
	asked := time.Now()
	l.nodes[0].Signal(syscall.SIGTERM)
	if code := l.nodes[0].Ended(); code != 0 {
		t.Errorf("the process ended with %d", code)
	}
	ended := time.Now()
	within(t, "ended after it was asked to", ended.Sub(asked), stopTimeout)
	users, err := l.entries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, cl := range sent {
		l.part(cl, func(cl *client) { <-cl.ended })
		e := users[cl.user]
		if e.status != "last" || e.seen < cl.since.Add(-time.Second).UnixMilli() || e.seen > ended.UnixMilli() || e.online > 0 && cl.user != stay.user {
			t.Errorf("%s: %+v", cl.user, e)
		}
	}
	var instances int
	if err := l.db.QueryRowContext(t.Context(), `SELECT count(*) FROM rooms_instance`).Scan(&instances); err != nil || instances != 1 {
		t.Errorf("%d instances, %v", instances, err)
	}
	l.settled(l.checkDatabase)
	l.settled(l.check)
	l.finish()
}

// memoryKilledBeforeADatabase kills an instance without Redis: it knows afterwards who was there.
func memoryKilledBeforeADatabase(t *testing.T, l *ledger) {
	node := caddytest.StartProgram(t, l.program, fmt.Sprintf(`:{$PORT} {
		rooms /ws {
			user {http.request.uri.query.user}
			device {http.request.uri.query.device}
			presence {
				database %s
			}
		}
	}`, l.dsn))
	look := func(user string) found {
		t.Helper()
		f, err := find(t.Context(), node, user)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	came := time.Now()
	ann := roomstest.Dial(t, node.URL("/ws?user=ann&device=phone"), nil)
	bob := roomstest.Dial(t, node.URL("/ws?user=bob"), nil)
	ann.Send(`{"type":"status","id":1,"status":"busy"}`)
	ann.Next("ack")
	bob.Send(`{"type":"ping","id":1}`)
	bob.Next("pong")
	node.Wait("ann in the database", func() bool {
		var n int
		err := l.db.QueryRowContext(t.Context(), `SELECT count(*) FROM rooms_user u JOIN rooms_online o ON o.user_id = u.user_id
			WHERE u.user_id IN ('ann', 'bob') AND (u.status = 'busy' OR u.user_id = 'bob')`).Scan(&n)
		return err == nil && n == 2
	})
	if f := look("ann"); !f.Online || f.Source != "memory" || f.Status != "busy" {
		t.Errorf("ann: %+v", f)
	}
	node.Kill()
	killed := time.Now()
	node.Run()
	if f := look("ann"); f.Online || f.Source != "database" || f.Device != "phone" || f.Status != "busy" || f.Stale || f.Degraded ||
		f.LastSeen < came.UnixMilli() || f.LastSeen > killed.UnixMilli() {
		t.Errorf("ann after kill -9: %+v", f)
	}
	roomstest.Dial(t, node.URL("/ws?user=ann&device=desk"), nil)
	node.Wait("the status of ann, who is back", func() bool { f := look("ann"); return f.Online && f.Status == "busy" })
	node.Wait("bob offline in the database, and the dead instance gone", func() bool {
		var online, instances int
		err := l.db.QueryRowContext(t.Context(), `SELECT (SELECT count(*) FROM rooms_online), (SELECT count(*) FROM rooms_instance)`).Scan(&online, &instances)
		return err == nil && online == 1 && instances == 1
	})
	if f := look("bob"); f.Online || f.Source != "database" || f.LastSeen < came.UnixMilli() || f.LastSeen > killed.UnixMilli() {
		t.Errorf("bob after kill -9: %+v", f)
	}
}
