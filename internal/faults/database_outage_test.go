package faults

import (
	"fmt"
	"testing"
	"time"
)

// redisFlushedBeforeADatabase empties Redis: nobody is told to be offline, by anyone, at any time.
func redisFlushedBeforeADatabase(t *testing.T, l *ledger) {
	l.begin(t, size(600, 60), options{})
	stop := l.gaze()
	l.settled(l.foundEverywhere)
	emptied := time.Now()
	if err := l.store.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	l.settled(l.check)
	l.settled(l.foundEverywhere)
	within(t, "every user found by every instance after FLUSHALL", time.Since(emptied), 5*complete)
	t.Logf("figure: answers by source: %v", stop())
	l.expect(nothing)
	l.settled(l.checkDatabase)
	l.finish()
}

// redisRestartedBeforeADatabase lets Redis die and come back with nothing.
func redisRestartedBeforeADatabase(t *testing.T, l *ledger) {
	l.begin(t, size(600, 60), options{nodes: 3})
	stop := l.gaze()
	l.settled(l.foundEverywhere)
	l.redis.Kill()
	l.settled(func() error { return l.foundWithoutRedis(nil) })
	l.redis.Run()
	back := time.Now()
	l.settled(l.check)
	l.settled(l.foundEverywhere)
	within(t, "every user found by every instance after a restart of Redis", time.Since(back), 5*complete)
	sources := stop()
	t.Logf("figure: answers by source: %v", sources)
	if sources["database"] == 0 || sources["redis"] == 0 || sources["memory"] == 0 {
		t.Errorf("answers by source: %v", sources)
	}
	l.expect(nothing)
	l.settled(l.checkDatabase)
	l.finish()
}

// foundWithoutRedis returns an error until each instance answers for its own users from memory, and for others from the database; those who are
// gone are not online.
func (l *ledger) foundWithoutRedis(gone map[string]time.Time) error {
	for i, node := range l.nodes {
		for _, cl := range l.all() {
			f := l.find(i, cl.user)
			if cl.node == node && (!f.Online || f.Source != "memory" || !f.Degraded || f.Stale) ||
				cl.node != node && (!f.Online || f.Source != "database" || !f.Degraded || !f.Stale || f.AsOf == 0 || f.Since == 0) {
				return fmt.Errorf("instance %d says of %s: %+v", i, cl.user, f)
			}
		}
		for user := range gone {
			if f := l.find(i, user); f.Online || f.Source != "database" || !f.Stale || f.LastSeen == 0 {
				return fmt.Errorf("instance %d says of %s, who has left: %+v", i, user, f)
			}
		}
	}
	return nil
}

// redisDownBeforeADatabase takes Redis away for a while: users of other instances are found in the database, and who comes and goes
// meanwhile is right there.
func redisDownBeforeADatabase(t *testing.T, l *ledger) {
	l.begin(t, size(600, 60), options{})
	// Who has been online before has no status yet now.
	again := l.all()[0]
	l.status(again, "old")
	l.part(again, func(cl *client) { cl.leave(1000) })
	l.settled(l.checkDatabase)
	l.settled(l.check)
	l.join(0, again.user, again.room)
	l.settled(l.checkDatabase)
	died := time.Now()
	l.redis.Kill()
	l.settled(func() error { return l.foundWithoutRedis(nil) })
	if f := l.find(1, again.user); f.Status != "online" {
		t.Errorf("%s has set no status since he came: %+v", again.user, f)
	}
	came := l.live("late")
	gone := l.shrink()
	took := l.settled(l.checkDatabase)
	t.Logf("figure: %.2f s until what changes is in the database, without Redis", took.Seconds())
	l.checkGone(gone)
	l.settled(func() error { return l.foundWithoutRedis(gone) })
	for full && time.Since(died) < time.Minute {
		<-time.After(time.Second)
	}
	l.redis.Run()
	l.settled(l.check)
	l.settled(l.foundEverywhere)
	l.settled(l.checkDatabase)
	for i, cl := range came {
		if f := l.find(1-i, cl.user); f.Status != "late" {
			t.Errorf("%s has set his status without Redis: %+v", cl.user, f)
		}
		if e := l.entry(cl.user); e.status != "late" {
			t.Errorf("%s has set his status without Redis: %+v", cl.user, e)
		}
	}
	l.settled(func() error { // what is not in Redis is certain some seconds after everything was written again
		for user := range gone {
			if f := l.find(0, user); f.Online || f.Source != "database" || f.Stale || f.LastSeen == 0 {
				return fmt.Errorf("%s has left without Redis: %+v", user, f)
			}
		}
		return nil
	})
	l.checkGone(gone)
	l.finish()
}

// databaseDown takes the database away: nobody notices, and nothing is lost.
func databaseDown(t *testing.T, l *ledger) {
	l.begin(t, size(600, 60), options{})
	died := time.Now()
	l.down()
	came := l.live("late")
	gone := l.shrink()
	for _, n := range l.nodes {
		n.WaitLog("presence database is out of reach")
	}
	l.settled(l.check)
	if l.proxy != nil {
		for user := range gone {
			if f := l.find(0, user); f.Online {
				t.Errorf("%s has left: %+v", user, f)
			}
		}
	}
	for full && time.Since(died) < time.Minute {
		<-time.After(time.Second)
	}
	l.back()
	back := time.Now()
	l.settled(l.checkDatabase)
	within(t, "everything in the database after an outage of it", time.Since(back), 5*time.Second)
	l.checkGone(gone)
	l.checkStatuses(came, "late")
	l.settled(l.foundEverywhere)
	l.finish()
}

// checkStatuses waits until the database has a status of clients.
func (l *ledger) checkStatuses(of []*client, want string) {
	l.Helper()
	l.settled(func() error {
		for _, cl := range of {
			if e := l.entry(cl.user); e.status != want {
				return fmt.Errorf("%s: %+v, want %q", cl.user, e, want)
			}
		}
		return nil
	})
}

// databaseStalled freezes the database: everything is answered before it answers again.
func databaseStalled(t *testing.T, l *ledger) {
	l.begin(t, size(600, 60), options{})
	frozen := time.Now()
	l.proxy.Freeze()
	var came []*client
	took := l.timed(func() { came = l.live("late") })
	t.Logf("figure: joins, statuses, pings and messages answered %.2f s into a stall of the database", took.Seconds())
	gone := l.shrink()
	l.settled(l.check)
	for full && time.Since(frozen) < 5*time.Second {
		<-time.After(100 * time.Millisecond)
	}
	if e := l.entry("late0"); e != (entry{}) {
		t.Errorf("the stall is over, or was none: %+v", e)
	}
	l.proxy.Thaw()
	l.settled(l.checkDatabase)
	l.checkGone(gone)
	l.checkStatuses(came, "late")
	l.finish()
}

// redisAndDatabaseDown takes both away: instances know their own users, and say that they know nothing of others.
func redisAndDatabaseDown(t *testing.T, l *ledger) {
	l.begin(t, size(600, 60), options{})
	l.redis.Kill()
	l.down()
	came := l.live("late")
	gone := l.shrink()
	l.settled(func() error {
		for i, node := range l.nodes {
			for _, cl := range l.all() {
				if f := l.find(i, cl.user); f.Online != (cl.node == node) || f.Source != "memory" || !f.Degraded {
					return fmt.Errorf("instance %d says of %s: %+v", i, cl.user, f)
				}
			}
		}
		return nil
	})
	for _, n := range l.nodes {
		n.WaitLog("presence database is out of reach")
	}
	l.back()
	l.settled(l.checkDatabase)
	l.checkGone(gone)
	l.checkStatuses(came, "late")
	l.settled(func() error { return l.foundWithoutRedis(gone) })
	l.redis.Run()
	l.settled(l.check)
	l.settled(l.foundEverywhere)
	l.settled(l.checkDatabase)
	l.checkStatuses(came, "late")
	l.finish()
}
