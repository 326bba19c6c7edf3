package moderation

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/bus"
	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
	"github.com/caddyrooms/caddy-rooms/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	base     = "rooms:{test}"
	patience = 20 * time.Second
)

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// instance is a table on a Redis, with the bus of an instance.
type instance struct {
	*Table
	t    *testing.T
	mute atomic.Bool // what is published does not arrive

	mu   sync.Mutex
	told []string // who was banned
}

// Receive implements bus.Receiver.
func (i *instance) Receive(_ string, payload []byte) {
	if !i.mute.Load() && payload[0] == Kind {
		i.Deliver(payload)
	}
}

// Lost implements bus.Receiver.
func (i *instance) Lost([]string) { i.Table.Lost() }

// begin starts an instance on the Redis at addr, which is in reach unless it is alone.
func begin(t *testing.T, addr string) *instance {
	t.Helper()
	db := redisdb.Open(redisdb.Options{Addr: addr, Timeout: time.Second}, zap.NewNop())
	i := &instance{t: t, Table: New(Options{Client: db.Commands(), Base: base, Timeout: time.Second})}
	b := bus.NewRedis(db, i, zap.NewNop(), bus.RedisOptions{Control: base + ":ctl:" + i.author})
	db.Start()
	b.Start()
	i.Start(func(users []string) {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.told = append(i.told, users...)
	})
	if err := b.Subscribe(t.Context(), i.channel); err != nil {
		t.Fatal(err)
	}
	i.Table.Lost()
	t.Cleanup(func() {
		for _, c := range []func() error{i.Close, b.Close, db.Close} {
			if err := c(); err != nil {
				t.Error(err)
			}
		}
	})
	return i
}

// several starts n instances on one Redis.
func several(t *testing.T, n int) (*redistest.Server, []*instance) {
	server := redistest.Start(t)
	all := make([]*instance, n)
	for i := range all {
		all[i] = begin(t, server.Addr)
	}
	return server, all
}

func (i *instance) ban(user string, d time.Duration, degraded bool) {
	i.t.Helper()
	if _, got, err := i.Ban(i.t.Context(), user, d, nil); got != degraded || err != nil {
		i.t.Fatalf("banning %s: degraded %t, %v; want degraded %t", user, got, err, degraded)
	}
}

func (i *instance) unban(user string, degraded bool) {
	i.t.Helper()
	if got, err := i.Unban(i.t.Context(), user); got != degraded || err != nil {
		i.t.Fatalf("unbanning %s: degraded %t, %v; want degraded %t", user, got, err, degraded)
	}
}

func (i *instance) slow(room string, m SlowMode) {
	i.t.Helper()
	if degraded, err := i.SetSlowMode(i.t.Context(), room, m); degraded || err != nil {
		i.t.Fatalf("slow mode of %s: degraded %t, %v", room, degraded, err)
	}
}

func (i *instance) isBanned(user string) bool {
	_, banned := i.Banned(user)
	return banned
}

// left is how long a ban lasts, in whole hours.
func (i *instance) left(user string) time.Duration {
	until, _ := i.Banned(user)
	return time.Until(until).Round(time.Hour)
}

func (i *instance) heard() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Sorted(slices.Values(i.told))
}

func TestTablesAgree(t *testing.T) {
	server, all := several(t, 3)
	a, b, c := all[0], all[1], all[2]
	mode := SlowMode{Events: 1, Window: 10 * time.Second}
	a.ban("ann", 3*time.Hour, false)
	b.ban("bob", 5*time.Hour, false)
	c.slow("lobby", mode)
	a.slow("a:b", SlowMode{Events: 3, Window: 1500 * time.Millisecond})
	for _, i := range all {
		eventually(t, "all to be known", func() bool {
			return i.left("ann") == 3*time.Hour && i.left("bob") == 5*time.Hour && len(i.SlowModes()) == 2
		})
		if m, ok := i.SlowMode("lobby"); !ok || m != mode {
			t.Errorf("slow mode of the lobby: %v, %t", m, ok)
		}
		if m, ok := i.SlowMode("a:b"); !ok || m.Window != 1500*time.Millisecond {
			t.Errorf("slow mode of a:b: %v, %t", m, ok)
		}
		if got := i.heard(); !slices.Equal(got, []string{"ann", "bob"}) {
			t.Errorf("told that %v are banned", got)
		}
	}
	if _, ok := a.SlowMode("ann"); ok || a.isBanned("lobby") {
		t.Error("a ban is taken for a slow mode, or one for a ban")
	}
	b.ban("ann", 1*time.Hour, false)
	c.unban("bob", false)
	b.slow("lobby", SlowMode{})
	for _, i := range all {
		eventually(t, "changes to be known", func() bool { return i.left("ann") == time.Hour && !i.isBanned("bob") && len(i.SlowModes()) == 1 })
	}
	late := begin(t, server.Addr)
	eventually(t, "all to be read", func() bool { return late.left("ann") == time.Hour && len(late.SlowModes()) == 1 })
	if late.isBanned("bob") || !slices.Equal(late.heard(), []string{"ann"}) {
		t.Errorf("who comes late has bob banned: %t, and was told that %v are", late.isBanned("bob"), late.heard())
	}
}

// TestBeforeABanIsShared has a ban hold where it is made before anybody can hear of it.
func TestBeforeABanIsShared(t *testing.T) {
	server, all := several(t, 1)
	called := false
	_, degraded, err := all[0].Ban(t.Context(), "ann", time.Hour, func() {
		called = true
		if n := server.Client().Exists(t.Context(), base+":mod").Val(); n != 0 || !all[0].isBanned("ann") || len(all[0].heard()) != 1 {
			t.Errorf("banned here: %t, told %v, %d keys in Redis", all[0].isBanned("ann"), all[0].heard(), n)
		}
	})
	if !called || degraded || err != nil {
		t.Errorf("called %t, degraded %t, %v", called, degraded, err)
	}
}

// TestMissedChange has a change not arrive: the next one tells that something is missing, or whoever knows that something may be.
func TestMissedChange(t *testing.T) {
	_, all := several(t, 2)
	a, b := all[0], all[1]
	a.ban("first", time.Hour, false)
	eventually(t, "the first", func() bool { return b.isBanned("first") })
	b.mute.Store(true)
	a.ban("missed", time.Hour, false)
	a.unban("first", false)
	a.slow("heard", SlowMode{1, time.Second}) // the bus is in order: what comes before this has gone by
	b.mute.Store(false)
	a.ban("next", time.Hour, false)
	eventually(t, "all after a gap", func() bool { return b.isBanned("missed") && !b.isBanned("first") && b.isBanned("next") })

	eventually(t, "the versions to agree", func() bool { return a.at() == b.at() })
	b.mute.Store(true)
	a.unban("missed", false)
	eventually(t, "the change to be known", func() bool { return a.at() > b.at() })
	b.Table.Lost()
	eventually(t, "all after a loss", func() bool { return !b.isBanned("missed") })
}

// at is the version that the instance has.
func (i *instance) at() int64 {
	i.Table.mu.RLock()
	defer i.Table.mu.RUnlock()
	return i.version
}

// TestNothingIsReadTwice has a table that is up to date ask Redis, which answers nothing.
func TestNothingIsReadTwice(t *testing.T) {
	server, all := several(t, 2)
	a, b := all[0], all[1]
	for n := range 20 {
		a.ban(fmt.Sprint(n), time.Hour, false)
	}
	eventually(t, "the versions to agree", func() bool { return b.isBanned("19") && a.at() == b.at() })
	meter := server.Meter()
	for range 3 {
		if err := b.catchUp(true); err != nil {
			t.Fatal(err)
		}
	}
	if n := meter.Cost().Calls["hgetall"]; n > 0 {
		t.Errorf("everything was read %d times", n)
	}
}

// TestEmptied empties Redis: what holds is put back, and what was lifted stays so, also when a table that missed it is first.
func TestEmptied(t *testing.T) {
	server, all := several(t, 3)
	a, b, c := all[0], all[1], all[2]
	a.ban("ann", 2*time.Hour, false)
	a.ban("bob", time.Hour, false)
	a.ban("cid", 9*time.Hour, false)
	a.ban("dan", time.Hour, false)
	a.slow("lobby", SlowMode{2, time.Minute})
	for _, i := range all {
		eventually(t, "all to be known", func() bool { return i.isBanned("dan") && len(i.SlowModes()) == 1 && i.at() == a.at() })
	}
	b.mute.Store(true)
	a.unban("bob", false)
	c.ban("cid", time.Hour, false)
	eventually(t, "changes to be known", func() bool { return c.at() == a.at() && c.at() > b.at() })
	if err := server.Client().FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	c.unban("dan", false) // that Redis has nothing to lift does not mean that nobody knows it
	if err := b.catchUp(true); err != nil {
		t.Fatal(err)
	}
	if n := server.Client().HLen(t.Context(), base+":mod").Val(); n != 6 {
		t.Errorf("there are %d fields, want five and a version", n)
	}
	if err := a.catchUp(true); err != nil {
		t.Fatal(err)
	}
	b.mute.Store(false)
	b.Table.Lost()
	for _, i := range []*instance{a, b, c, begin(t, server.Addr)} {
		eventually(t, "all to be as it was", func() bool {
			return i.left("ann") == 2*time.Hour && i.left("cid") == time.Hour && !i.isBanned("bob") && !i.isBanned("dan") && len(i.SlowModes()) == 1
		})
	}
}

// TestPutBackLate has an instance put back what has changed since it looked.
func TestPutBackLate(t *testing.T) {
	server, all := several(t, 1)
	a, redis := all[0], server.Client()
	a.ban("ann", time.Hour, false)
	before := redis.HGet(t.Context(), base+":mod", "bann").Val()
	a.unban("ann", false)
	now, version := redis.HGet(t.Context(), base+":mod", "bann").Val(), redis.HGet(t.Context(), base+":mod", "v").Val()
	if n, err := a.run(t.Context(), restoreScript, a.channel, "bann", before, "bann", now).Int(); n != 0 || err != nil {
		t.Errorf("%d put back, %v", n, err)
	}
	if got := redis.HMGet(t.Context(), base+":mod", "bann", "v").Val(); got[0] != now || got[1] != version {
		t.Errorf("Redis has %v, want %v and version %v", got, now, version)
	}
}

// TestChangesWhileReading has changes arrive between what Redis answers and the answer.
func TestChangesWhileReading(t *testing.T) {
	for _, test := range []struct {
		answer string
		want   int64
	}{
		{"150", 150}, // another one is missing
		{"200", 400},
		{"300", 400},
		{"500", 500},
	} {
		i := New(Options{})
		i.version, i.stale = 100, false
		i.Deliver([]byte("b200 300 1\nbann\n1 x 1 1 3600000"))
		i.Deliver([]byte("b300 400 1\nbbob\n1 x 1 1 3600000"))
		if _, err := i.take(1, test.answer, []any{}); err != nil || i.version != test.want {
			t.Errorf("behind an answer of version %s the version is %d, %v; want %d", test.answer, i.version, err, test.want)
		}
		_, ann := i.Banned("ann")
		_, bob := i.Banned("bob")
		if !ann || !bob || !i.stale {
			t.Errorf("ann is banned: %t, bob: %t, stale %t", ann, bob, i.stale)
		}
	}
}

// TestTakenBack takes Redis back to an earlier state, as a restart does that has lost the last seconds.
func TestTakenBack(t *testing.T) {
	server, all := several(t, 2)
	a, b := all[0], all[1]
	admin := server.Client()
	a.ban("ann", time.Hour, false)
	earlier := admin.Dump(t.Context(), base+":mod").Val()
	b.ban("bob", time.Hour, false)
	b.unban("ann", false)
	eventually(t, "all to be known", func() bool { return a.isBanned("bob") && !a.isBanned("ann") })
	if err := admin.RestoreReplace(t.Context(), base+":mod", 0, earlier).Err(); err != nil {
		t.Fatal(err)
	}
	a.ban("cid", time.Hour, false) // and so later than what b has
	b.Table.Lost()
	eventually(t, "the new one", func() bool { return b.isBanned("cid") })
	c := begin(t, server.Addr)
	eventually(t, "all to be as it was", func() bool { return c.isBanned("bob") && !c.isBanned("ann") && c.isBanned("cid") })
}

// TestOutOfReach changes things on an instance that is cut off, and elsewhere meanwhile: the later one counts.
func TestOutOfReach(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	a, b := begin(t, proxy.Addr), begin(t, server.Addr)
	b.ban("lifted later", time.Hour, false)
	b.ban("banned later", time.Hour, false)
	b.ban("lifted here", time.Hour, false)
	eventually(t, "all to be known", func() bool { return a.isBanned("lifted here") })

	proxy.Cut()
	a.ban("new", 3*time.Hour, true)
	a.ban("lifted later", 5*time.Hour, true)
	a.unban("lifted here", true)
	a.unban("new again", true)
	a.ban("new again", time.Hour, true)
	for _, user := range []string{"new", "lifted later", "banned later", "new again"} {
		if !a.isBanned(user) {
			t.Errorf("%s is not banned while Redis is out of reach", user)
		}
	}
	if a.isBanned("lifted here") {
		t.Error("banned although lifted while Redis is out of reach")
	}
	b.unban("lifted later", false)
	b.unban("banned later", false)
	a.ban("banned later", 7*time.Hour, true)
	proxy.Restore()
	for name, i := range map[string]*instance{"a": a, "b": b} {
		eventually(t, "the later ones to count on "+name, func() bool {
			return i.left("new") == 3*time.Hour && !i.isBanned("lifted later") && i.left("banned later") == 7*time.Hour &&
				!i.isBanned("lifted here") && i.isBanned("new again")
		})
	}
	a.ban("shared", time.Hour, false)
	if got := b.heard(); !slices.Contains(got, "new") || !slices.Contains(got, "banned later") {
		t.Errorf("told that %v are banned", got)
	}
}

// TestLateWrite has Redis do a change that its author has given up, after the next one about the same user.
func TestLateWrite(t *testing.T) {
	server, all := several(t, 2)
	a, b := all[0], all[1]
	given := &change{decision: decision{until: time.Now().Add(time.Hour)}, number: 1, made: time.Now(), busy: true}
	a.number = 1
	a.ban("ann", time.Hour, false)
	a.unban("ann", false)
	if err := a.write(t.Context(), subject{ban, "ann"}, given, true); err != nil {
		t.Fatal(err)
	}
	if value := server.Client().HGet(t.Context(), base+":mod", "bann").Val(); !strings.HasSuffix(value, " 0") {
		t.Errorf("Redis has %q", value)
	}
	eventually(t, "the versions to agree", func() bool { return a.at() == b.at() && a.at() > 0 })
	if a.isBanned("ann") || b.isBanned("ann") {
		t.Error("banned by what came too late")
	}
}

// TestConflicts has all instances change the same few things at the same time, with payloads lost on the way.
func TestConflicts(t *testing.T) {
	server, all := several(t, 3)
	var wg sync.WaitGroup
	for _, i := range all {
		wg.Go(func() {
			for n := range 100 {
				user := fmt.Sprint("user", rand.N(5))
				switch {
				case n%10 == 9:
					i.mute.Store(!i.mute.Load())
				case rand.N(2) == 0:
					i.ban(user, time.Duration(1+rand.N(50))*time.Hour, false)
				default:
					i.unban(user, false)
				}
			}
			i.mute.Store(false)
			i.Table.Lost()
		})
	}
	wg.Wait()
	want := server.Client().HGetAll(t.Context(), base+":mod").Val()
	delete(want, "v")
	for _, i := range append(all, begin(t, server.Addr)) {
		eventually(t, "the table to be that of Redis", func() bool {
			i.Table.mu.RLock()
			defer i.Table.mu.RUnlock()
			got := make(map[string]string)
			for s, e := range i.entries {
				got[s.field()] = e.value
			}
			return len(i.unwritten) == 0 && maps.Equal(got, want)
		})
	}
}

// TestEndsAreForgotten looks after what is over, as if hours had passed.
func TestEndsAreForgotten(t *testing.T) {
	server, all := several(t, 2)
	a, b := all[0], all[1]
	redis := server.Client()
	a.ban("short", 10*time.Millisecond, false)
	a.ban("shortened", 3*time.Hour, false)
	a.ban("shortened", 10*time.Millisecond, false)
	a.ban("long", 500*time.Hour, false)
	a.slow("lobby", SlowMode{1, time.Second})
	a.slow("lifted", SlowMode{1, time.Second})
	a.slow("lifted", SlowMode{})
	a.unban("nobody", false)
	for _, i := range all {
		eventually(t, "short bans to end", func() bool {
			return i.isBanned("long") && !i.isBanned("short") && !i.isBanned("shortened") && i.at() == a.at()
		})
	}
	for _, step := range []struct {
		after time.Duration
		left  []string
	}{
		{30 * time.Minute, []string{"blong", "bshort", "bshortened", "slifted", "slobby"}},
		{2 * time.Hour, []string{"blong", "bshortened", "slifted", "slobby"}},
		{5 * time.Hour, []string{"blong", "slifted", "slobby"}},
		{MaxBan + 2*time.Hour, []string{"blong", "slobby"}}, // its own time has not passed
	} {
		b.Table.mu.Lock()
		b.Table.read = time.Now().Add(-step.after)
		b.Table.mu.Unlock()
		if err := b.catchUp(true); err != nil {
			t.Fatal(err)
		}
		fields := slices.DeleteFunc(slices.Sorted(slices.Values(redis.HKeys(t.Context(), base+":mod").Val())), func(f string) bool { return f == "v" })
		if !slices.Equal(fields, step.left) {
			t.Errorf("after %s Redis has %v, want %v", step.after, fields, step.left)
		}
		b.Table.mu.RLock()
		if n := len(b.entries); n != len(step.left) {
			t.Errorf("after %s the table has %d entries, want %d", step.after, n, len(step.left))
		}
		b.Table.mu.RUnlock()
	}
}

// TestNonsense has others write into the table what no instance would.
func TestNonsense(t *testing.T) {
	server, all := several(t, 2)
	a, b := all[0], all[1]
	redis := server.Client()
	if err := redis.HSet(t.Context(), base+":mod", "v", "1", "bann", "x", "bbob", "1 x 1 1 x", "slobby", "1 x 1 1 0 5", "b", "", "other", "1").Err(); err != nil {
		t.Fatal(err)
	}
	for _, payload := range []string{"b", "b1 2", "b1 x 3\nbann\n1 x 1 1 5", "b1 2 3\nbann", "b1 2 3\n\n", "b1 2 3\nbann\n1 x 1 1 -5"} {
		if err := redis.Publish(t.Context(), a.channel, payload).Err(); err != nil {
			t.Fatal(err)
		}
	}
	a.ban("ann", time.Hour, false)
	eventually(t, "the ban", func() bool { return b.isBanned("ann") })
	if a.isBanned("bob") || len(b.SlowModes()) > 0 {
		t.Error("nonsense holds")
	}
}

func TestMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		m := New(Options{})
		m.Start(func(users []string) { told = append(told, users...) })
		defer m.Close()
		until, degraded, err := m.Ban(t.Context(), "ann", time.Minute, nil)
		if got, banned := m.Banned("ann"); !banned || got != until || degraded || err != nil || until != time.Now().Add(time.Minute) {
			t.Errorf("banned %t until %v, %v, degraded %t, %v", banned, got, until, degraded, err)
		}
		time.Sleep(time.Minute - 1)
		if _, banned := m.Banned("ann"); !banned {
			t.Error("not banned just before the end")
		}
		time.Sleep(1 * time.Nanosecond)
		if _, banned := m.Banned("ann"); banned {
			t.Error("banned at the end")
		}
		_, _, _ = m.Ban(t.Context(), "bob", time.Hour, nil)
		_, _, _ = m.Ban(t.Context(), "bob", time.Minute, nil) // he knows
		_, _ = m.Unban(t.Context(), "bob")
		_, _, _ = m.Ban(t.Context(), "ann", time.Hour, nil)
		if _, banned := m.Banned("bob"); banned || !slices.Equal(told, []string{"ann", "bob", "ann"}) {
			t.Errorf("bob is banned: %t; told %v", banned, told)
		}
		for range MaxBans / 5 {
			_, _, _ = m.Ban(t.Context(), fmt.Sprint(rand.Int()), time.Second, nil)
			time.Sleep(time.Millisecond)
		}
		if n := len(m.entries); n > 5000 {
			t.Errorf("%d entries for a thousand bans at a time", n)
		}
		_ = m.Close()
		if _, err := m.Unban(t.Context(), "ann"); !errors.Is(err, ErrClosed) {
			t.Errorf("a change after the end: %v", err)
		}
		if _, banned := m.Banned("ann"); !banned {
			t.Error("nothing is known after the end")
		}
	})
}

func TestBounds(t *testing.T) {
	m := New(Options{})
	defer m.Close()
	for n := range MaxBans {
		if _, _, err := m.Ban(t.Context(), fmt.Sprint(n), time.Hour, nil); err != nil {
			t.Fatal(err)
		}
	}
	for n := range MaxSlowModes {
		if _, err := m.SetSlowMode(t.Context(), fmt.Sprint(n), SlowMode{1, time.Second}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := m.Ban(t.Context(), "ann", time.Hour, nil); !errors.Is(err, ErrTooMany) || !strings.Contains(err.Error(), "allowed: 100000") {
		t.Errorf("one ban too many: %v", err)
	}
	if _, err := m.SetSlowMode(t.Context(), "lobby", SlowMode{1, time.Second}); !errors.Is(err, ErrTooMany) || !strings.Contains(err.Error(), "10000 slow modes") {
		t.Errorf("one slow mode too many: %v", err)
	}
	if _, _, err := m.Ban(t.Context(), "7", 2*time.Hour, nil); err != nil {
		t.Errorf("changing a ban: %v", err)
	}
	if _, err := m.Unban(t.Context(), "7"); err != nil {
		t.Error(err)
	}
	if _, _, err := m.Ban(t.Context(), "ann", time.Hour, nil); err != nil {
		t.Errorf("a ban in the place of another: %v", err)
	}
}

// TestReadingCostsNothing holds that looks in the path of each message allocate nothing.
func TestReadingCostsNothing(t *testing.T) {
	m := New(Options{})
	defer m.Close()
	_, _, _ = m.Ban(t.Context(), "ann", time.Hour, nil)
	_, _ = m.SetSlowMode(t.Context(), "lobby", SlowMode{1, time.Second})
	n := testing.AllocsPerRun(100, func() {
		_, a := m.Banned("ann")
		_, b := m.SlowMode("lobby")
		_, c := m.SlowMode("den")
		if !a || !b || c {
			t.Error("wrong")
		}
	})
	if n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// SlowModes returns all slow modes, by room.
func (t *Table) SlowModes() map[string]SlowMode {
	all := make(map[string]SlowMode)
	if t.known[slowMode].Load() == 0 {
		return all
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	t.each(slowMode, func(name string, d decision) { all[name] = d.slow })
	return all
}
