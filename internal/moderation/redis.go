package moderation

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"

	"github.com/caddyrooms/caddy-rooms/internal/redisdb"
)

// Kind begins the payloads of tables on the channel of the users: b<version before> <version> <time in microseconds>, then, each behind a
// newline, fields with decisions.
const Kind = 'b'

const (
	readEvery  = 30 * time.Second // a safety net: what changes is published
	retryAfter = time.Second      // when Redis did not answer
	batch      = 200              // decisions in a call of a script

	unread = -1 // no version of Redis's table
)

//go:embed scripts/*.lua
var scripts embed.FS

var (
	changeScript  = load("change")
	readScript    = load("read")
	restoreScript = load("restore")
)

func load(name string) *redis.Script {
	source, err := scripts.ReadFile("scripts/" + name + ".lua")
	if err != nil {
		panic(err) // embedded at build time
	}
	return redis.NewScript(string(source))
}

// run calls a script.
func (t *Table) run(ctx context.Context, script *redis.Script, args ...any) *redis.Cmd {
	ctx, cancel := context.WithTimeout(redisdb.For(ctx, "moderation"), t.timeout)
	defer cancel()
	return script.Run(ctx, t.client, []string{t.hash}, args...)
}

// Deliver takes a payload that begins with Kind, in the order of arrival. It waits for nobody.
func (t *Table) Deliver(payload []byte) {
	lines := strings.Split(string(payload[1:]), "\n")
	head, fields := strings.Fields(lines[0]), lines[1:]
	var numbers [3]int64
	ok := len(head) == len(numbers)
	for i := range numbers {
		if ok {
			var err error
			numbers[i], err = strconv.ParseInt(head[i], 10, 64)
			ok = err == nil
		}
	}
	if !ok {
		t.log.Warn("decision of another instance is malformed")
		return
	}
	prev, version := numbers[0], numbers[1]
	entries := t.parseAll(fields, numbers[2])
	t.mu.Lock()
	users := t.merge(entries)
	switch {
	case prev == t.version:
		t.version = version
	case version > t.version && t.ahead.to > 0 && prev == t.ahead.to:
		t.ahead.to = version
	case version > t.version:
		t.ahead, t.stale = run{prev, version}, true
	}
	stale := t.stale
	t.mu.Unlock()
	t.tell(users)
	if stale {
		t.signal()
	}
}

// Lost tells that payloads may not have been delivered, and that those which come from now on are.
func (t *Table) Lost() {
	t.mu.Lock()
	t.stale = true
	t.mu.Unlock()
	t.signal()
}

func (t *Table) signal() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// parseAll reads fields with decisions of Redis, whose clock shows now microseconds. What can't be read is left out.
func (t *Table) parseAll(fields []string, now int64) []entryOf {
	entries := make([]entryOf, 0, len(fields)/2)
	for pair := range slices.Chunk(fields, 2) {
		s, ok := parseField(pair[0])
		if !ok || len(pair) < 2 {
			continue // the version
		}
		e, err := parse(s.kind, pair[1], now)
		if err != nil {
			t.log.Warn("decision in redis can't be read", zap.String("field", pair[0]), zap.Error(err))
			continue
		}
		entries = append(entries, entryOf{s, e})
	}
	return entries
}

// merge takes over those of some decisions of Redis that are later than what is known. It returns the users who are banned now and were not.
// mu is held.
func (t *Table) merge(entries []entryOf) (users []string) {
	now := time.Now()
	for _, e := range entries {
		if t.entries[e.subject].stamp >= e.stamp {
			continue
		}
		_, before := t.inForce(e.subject, now)
		t.put(e.subject, e.entry)
		if _, after := t.inForce(e.subject, now); after && !before && e.kind == ban {
			users = append(users, e.name)
		}
	}
	return users
}

// follow reads what may be missing, and writes what could not be written, until the table is closed.
func (t *Table) follow() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		due := false
		select {
		case <-t.ctx.Done():
			return
		case <-t.wake:
		case <-timer.C:
			due = true
		}
		pause := readEvery/2 + rand.N(readEvery/2)
		if err := t.catchUp(due); err != nil && t.ctx.Err() == nil {
			t.log.Debug("decisions can't be read or written now", zap.Error(err))
			pause = retryAfter/2 + rand.N(retryAfter)
		}
		timer.Reset(pause)
	}
}

func (t *Table) catchUp(due bool) (err error) {
	defer func() {
		if r := recover(); r != nil {
			t.log.Error("panic in moderation", zap.Any("error", r), zap.ByteString("stack", debug.Stack()))
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	t.mu.Lock()
	if due && t.clock > 0 {
		t.sweep()
	}
	t.stale = t.stale || due
	t.mu.Unlock()
	for {
		more, err := t.readAll()
		if err != nil {
			t.Lost()
			return err
		}
		if !more {
			break
		}
	}
	return t.writeAll()
}

// readAll reads what Redis has, unless nothing is missing. more tells that it is to be called again.
func (t *Table) readAll() (more bool, err error) {
	t.mu.Lock()
	if !t.stale && len(t.forgotten) == 0 {
		t.mu.Unlock()
		return false, nil
	}
	t.stale = false
	args := []any{t.version}
	n := min(len(t.forgotten), batch)
	for _, e := range t.forgotten[:n] {
		args = append(args, e.field(), e.stamp)
	}
	t.forgotten = slices.Clone(t.forgotten[n:])
	t.mu.Unlock()

	reply, err := t.run(t.ctx, readScript, args...).Slice()
	if err != nil {
		return false, fmt.Errorf("reading decisions: %w", err)
	}
	now, err := strconv.ParseInt(fmt.Sprint(reply[0]), 10, 64)
	if err != nil {
		return false, fmt.Errorf("reading decisions: %w", err)
	}
	var lost []entryOf
	if len(reply) == 3 {
		if lost, err = t.take(now, reply[1], reply[2]); err != nil {
			return false, fmt.Errorf("reading decisions: %w", err)
		}
	}
	t.mu.Lock()
	t.clock, t.read = now, time.Now()
	more = t.stale || len(t.forgotten) > 0
	t.mu.Unlock()
	for some := range slices.Chunk(lost, batch) {
		args := []any{t.channel}
		for _, e := range some {
			args = append(args, e.field(), e.value)
		}
		if err := t.run(t.ctx, restoreScript, args...).Err(); err != nil {
			t.mu.Lock()
			t.version = unread
			t.mu.Unlock()
			return false, fmt.Errorf("putting decisions back: %w", err)
		}
	}
	return more, nil
}

var errReply = errors.New("unexpected reply")

// take takes over the table that Redis has, and returns what it lacks of what is known here.
func (t *Table) take(now int64, atVersion, all any) (lost []entryOf, err error) {
	version, err := strconv.ParseInt(fmt.Sprint(atVersion), 10, 64)
	list, ok := all.([]any)
	if err != nil || !ok {
		return nil, errReply
	}
	fields := make([]string, len(list))
	for i := range list {
		fields[i], _ = list[i].(string)
	}
	there := make(map[subject]int64, len(fields)/2)
	entries := t.parseAll(fields, now)
	for _, e := range entries {
		there[e.subject] = e.stamp
	}
	t.mu.Lock()
	users := t.merge(entries)
	t.version = version
	if a := t.ahead; a.to > version && a.from <= version {
		t.version = a.to // the messages that came meanwhile
	}
	t.ahead = run{}
	for s, e := range t.entries {
		if there[s] < e.stamp {
			lost = append(lost, entryOf{s, e})
		}
	}
	t.mu.Unlock()
	t.tell(users)
	return lost, nil
}

// writeAll writes what could not be written.
func (t *Table) writeAll() error {
	t.mu.Lock()
	waiting := make(map[subject]*change)
	for s, c := range t.unwritten {
		if !c.busy {
			c.busy = true
			waiting[s] = c
		}
	}
	t.mu.Unlock()
	var failed error
	for s, c := range waiting {
		switch {
		case failed != nil:
			t.settle(s, c, false, nil)
		default:
			failed = t.write(t.ctx, s, c, false)
		}
	}
	return failed
}

// write writes a change, which is busy. fresh tells that it was made right now.
func (t *Table) write(ctx context.Context, s subject, c *change, fresh bool) error {
	age, note := "", ""
	if !fresh {
		age = strconv.FormatInt(time.Since(c.made).Microseconds(), 10)
	}
	if c.note || !fresh {
		note = "1"
	}
	reply, err := t.run(ctx, changeScript, t.channel, s.field(), age, t.author, c.number, c.what(), note).StringSlice()
	if err == nil && len(reply) != 2 {
		err = errReply
	}
	if err != nil {
		t.settle(s, c, false, nil)
		return fmt.Errorf("writing decision: %w", err)
	}
	now, err := strconv.ParseInt(reply[0], 10, 64)
	if err != nil {
		t.settle(s, c, false, nil)
		return fmt.Errorf("writing decision: %w", err)
	}
	var holding []entryOf
	if reply[1] != "" {
		holding = t.parseAll([]string{s.field(), reply[1]}, now)
	}
	t.settle(s, c, true, holding)
	return nil
}

// settle ends the writing of a change. When it is written, Redis has the decision in holding, or none.
func (t *Table) settle(s subject, c *change, written bool, holding []entryOf) {
	t.mu.Lock()
	c.busy = false
	var users []string
	if written {
		_, before := t.inForce(s, time.Now())
		if t.unwritten[s] == c {
			t.pend(s, nil)
		}
		t.merge(holding)
		if _, after := t.inForce(s, time.Now()); after && !before && s.kind == ban {
			users = append(users, s.name)
		}
	}
	t.mu.Unlock()
	t.tell(users)
}
