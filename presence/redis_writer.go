package presence

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

const (
	maxBatch    = 50      // changes in one call
	maxPipeline = 128     // operations in one pipeline
	maxQueue    = 1 << 16 // changes that wait; beyond, writing everything again is cheaper
	retryAfter  = time.Second
)

var (
	errDown       = errors.New("presence: Redis is out of reach")
	errGone       = errors.New("presence: Redis no longer knows this instance")
	errMismatch   = errors.New("presence: Redis lost writes of this instance")
	errReordered  = errors.New("presence: scripts vanished from Redis and came back in the middle of a pipeline")
	errOverflow   = errors.New("presence: too many changes wait for Redis")
	errPaused     = errors.New("presence: this instance did not renew its lease in time")
	errRebuilding = errors.New("presence: Redis does not have everything yet")
	errPanicked   = errors.New("presence: the writer panicked")
)

// op is one thing in the writer's queue: a call of a script, or a part of one that it makes together with others.
type op struct {
	script *redis.Script
	keys   []string        // behind those of the script's head, if it has one
	args   []any           // as keys
	about  string          // operations about the same thing must not change places
	reads  bool            // it does not count as a write
	reply  func(res []any) // called by the writer with what the script said of o, before done
	lost   func()          // called when it is unknown whether Redis has it
	done   chan struct{}   // closed when err is set
	err    error           // read after done

	// Of a batch of changes: keys and args are then made when it is sent.

	room    *room
	batch   uint64
	changes []change // by connection id; room.mu and base.mu guard it until taken, then nobody changes it
	stays   bool     // the instance has connections in the room after the last change; as changes
	taken   bool     // the writer has it; base.mu guards it
	acked   bool     // room.mu guards it
	seq     uint64   // of the room, after the batch; read after done, or with room.mu once acked
}

// call is one call of a script, for one operation or for some of a kind.
type call struct {
	script  *redis.Script
	ops     []*op
	changes int
	keys    []string
	args    []any
}

func (o *op) finish(err error) {
	o.err = err
	close(o.done)
}

// push queues o. base.mu is held and the store writable.
func (s *Redis) push(o *op) *op {
	o.done = make(chan struct{})
	s.queue = append(s.queue, o)
	s.count()
	return o
}

// count notes one more thing in the queue. base.mu is held.
func (s *Redis) count() {
	s.queued++
	if s.queued > maxQueue && !s.pushing {
		s.doubt = errOverflow
	}
	s.signal()
}

func (s *Redis) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// suspect has the writer start over. It never waits; a room may be locked.
func (s *Redis) suspect(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writable() {
		s.doubt = err
		s.signal()
	}
}

// wait returns nil when o went well.
func (s *Redis) wait(ctx context.Context, o *op) error {
	if o == nil {
		return errDown
	}
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return ErrClosed
	}
}

// change implements shared.
func (s *Redis) change(r *room, c change) *op {
	s.mu.Lock()
	if !s.writable() || r.stream.iid != s.iid {
		s.mu.Unlock()
		s.detach(r)
		return nil
	}
	defer s.mu.Unlock()
	o := r.stream.last
	if o == nil || o.taken || len(o.changes) == maxBatch {
		s.batch++
		o = s.push(&op{script: changeScript, about: s.keys.members(r.name), room: r, batch: s.batch})
		r.stream.last = o
		if !r.local {
			r.stream.unseen = append(r.stream.unseen, o)
		}
	} else {
		s.count()
	}
	o.changes = append(o.changes, c)
	o.stays = len(r.own) > 0
	return o
}

// beat queues a heartbeat, behind those who were active. base.mu is held and the store writable.
func (s *Redis) beat() *op {
	for len(s.touched) > 0 {
		n := min(len(s.touched), 500)
		args := []any{s.iid}
		for _, user := range s.touched[:n] {
			args = append(args, user)
		}
		s.touched = s.touched[n:]
		s.push(&op{script: touchScript, about: s.keys.seen(), keys: []string{s.keys.counters(), s.keys.seen()}, args: args})
	}
	s.touched = nil
	s.beats++
	n := s.beats
	s.lastBeat = s.push(&op{
		script: heartbeatScript,
		about:  s.keys.leases(),
		keys:   []string{s.keys.leases(), s.keys.counters()},
		args:   []any{s.iid, s.ttl.Milliseconds()},
		reads:  true,
		reply: func(res []any) {
			s.mu.Lock()
			s.beaten = n
			s.mu.Unlock()
			for _, dead := range res {
				if dead, ok := dead.(string); ok {
					s.bury(dead)
				}
			}
		},
	})
	return s.lastBeat
}

// interval is the time to the next heartbeat, which also finds out whether Redis has lost its data.
func (s *Redis) interval() time.Duration {
	most := min(s.ttl/4, time.Second)
	return most*9/10 + rand.N(most/5+1)
}

// write is the writer: the one goroutine that changes anything under this instance's name.
func (s *Redis) write() {
	for s.ctx.Err() == nil && !s.retired {
		if s.writeLoop() {
			s.lose(errPanicked)
			s.sleep(s.ctx, retryAfter)
		}
	}
}

func (s *Redis) writeLoop() (panicked bool) {
	panicked = true
	defer s.recovered("presence writer panicked")
	for s.ctx.Err() == nil && !s.retired {
		if !s.up {
			if !s.begin() {
				s.sleep(s.ctx, retryAfter)
			}
			continue
		}
		if err := s.writeSome(); err != nil {
			s.lose(err)
			if time.Since(s.begun) < retryAfter {
				s.sleep(s.ctx, retryAfter)
			}
		}
	}
	return false
}

// writeSome sends what is queued, or waits until there is something or it is time to renew the lease.
func (s *Redis) writeSome() error {
	if time.Since(s.renewed) > s.ttl {
		return errPaused
	}
	s.mu.Lock()
	if err := s.doubt; err != nil {
		s.mu.Unlock()
		return err
	}
	if !time.Now().Before(s.nextBeat) {
		s.beat()
		s.nextBeat = time.Now().Add(s.interval())
	}
	n := min(len(s.queue), maxPipeline)
	ops := s.queue[:n:n]
	s.queue = s.queue[n:]
	for _, o := range ops {
		o.taken = true
		s.queued -= max(len(o.changes), 1)
	}
	s.mu.Unlock()
	if n > 0 {
		return s.send(ops)
	}
	timer := time.NewTimer(time.Until(s.nextBeat))
	defer timer.Stop()
	select {
	case <-s.wake:
	case <-timer.C:
	case <-s.ctx.Done():
	}
	return nil
}

// send runs ops in one pipeline, and those whose script Redis did not have once more.
func (s *Redis) send(ops []*op) error {
	s.inflight = s.calls(ops)
	for {
		again, err := s.sendOnce()
		if err != nil || len(again) == 0 {
			return err
		}
		s.inflight = again
		if err := s.loadScripts(); err != nil {
			return err
		}
	}
}

// head returns what the scripts are called with that take any number of operations, before what each of these has; nothing for others.
func (s *Redis) head(script *redis.Script) (keys []string, args []any) {
	e := s.events.Load()
	switch script {
	case changeScript:
		return []string{s.keys.counters(), s.keys.roomsOf(s.iid), s.keys.rooms()}, []any{s.iid, s.RoomChannel(""), e.Rooms, e.Head}
	case usersScript:
		return []string{s.keys.counters(), s.keys.usersOf(s.iid), s.keys.online(), s.keys.seen()}, []any{s.iid, e.Presence, e.Head}
	default:
		return nil, nil
	}
}

// calls makes as few calls of ops as may be. Changes in rooms don't concern who is online, nor the other way round, so each kind passes what
// is of the other.
func (s *Redis) calls(ops []*op) []*call {
	var calls []*call
	open := map[*redis.Script]*call{}
	for _, o := range ops {
		if o.room != nil {
			o.keys, o.args = s.changeArgs(o)
		}
		n := max(len(o.changes), 1)
		c := open[o.script]
		if c == nil || c.changes+n > maxBatch {
			c = &call{script: o.script}
			c.keys, c.args = s.head(o.script)
			calls = append(calls, c)
			if c.keys != nil {
				open[o.script] = c
			}
		}
		c.ops, c.changes = append(c.ops, o), c.changes+n
		c.keys, c.args = append(c.keys, o.keys...), append(c.args, o.args...)
		if o.script == statusScript {
			delete(open, usersScript) // a status is of who is online by then
		}
	}
	return calls
}

// sendOnce runs what is in flight, and returns what must run again. After an error, in flight is what failed and what comes after.
func (s *Redis) sendOnce() (again []*call, err error) {
	sent := time.Now()
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
	defer cancel()
	pipe := s.client.Pipeline()
	cmds := make([]*redis.Cmd, len(s.inflight))
	for i, c := range s.inflight {
		cmds[i] = c.script.EvalSha(ctx, pipe, c.keys, c.args...)
	}
	_, failed := pipe.Exec(ctx)
	for _, cmd := range cmds {
		c := s.inflight[0]
		res, err := cmd.Slice()
		if err != nil && cmd.Err() == nil {
			err = failed // no connection: go-redis leaves the commands as they are when Redis refused to set it up
		}
		switch {
		case err != nil && redis.HasErrorPrefix(err, "NOSCRIPT"):
			again = append(again, c)
			err = nil
		case err != nil:
			err = fmt.Errorf("presence: writing to Redis: %w", err)
		case slices.ContainsFunc(again, c.sharesWith):
			err = errReordered
		default:
			err = s.answered(c, res, sent)
		}
		if err != nil {
			s.inflight = append(again, s.inflight...)
			return nil, err
		}
		s.inflight = s.inflight[1:]
	}
	return again, nil
}

// sharesWith tells whether anything of other is about the same as anything of c.
func (c *call) sharesWith(other *call) bool {
	return slices.ContainsFunc(c.ops, func(o *op) bool {
		return slices.ContainsFunc(other.ops, func(p *op) bool { return p.about == o.about })
	})
}

func (s *Redis) loadScripts() error {
	ctx, cancel := context.WithTimeout(s.ctx, s.timeout)
	defer cancel()
	for _, script := range allScripts {
		if err := script.Load(ctx, s.client).Err(); err != nil {
			return fmt.Errorf("presence: loading scripts into Redis: %w", err)
		}
	}
	return nil
}

// answered takes the reply to c.
func (s *Redis) answered(c *call, res []any, sent time.Time) error {
	w, _ := res[0].(int64)
	if w == 0 {
		return errGone
	}
	if !c.ops[0].reads {
		s.w++
	}
	if w != s.w {
		return errMismatch
	}
	if c.script == heartbeatScript {
		s.renewed = sent
	}
	res = res[1:]
	each := len(res) / len(c.ops)
	for i, o := range c.ops {
		said := res[i*each : (i+1)*each]
		if o.reply != nil {
			o.reply(said)
		}
		if o.room != nil {
			seq, _ := said[0].(int64)
			changed, _ := said[1].(int64)
			s.ack(o, uint64(seq), changed == 1)
		}
		o.finish(nil)
	}
	return nil
}

// changeArgs returns what o is in a call of changeScript.
func (s *Redis) changeArgs(o *op) ([]string, []any) {
	room := o.room.name
	stays := 0
	if o.stays {
		stays = 1
	}
	args := make([]any, 0, 4+5*len(o.changes))
	args = append(args, room, o.batch, stays, len(o.changes))
	for _, c := range o.changes {
		switch {
		case c.gone:
			args = append(args, "-", c.id, string(c.reason))
		case c.entry.since == 0 && c.entry.quiet:
			args = append(args, "0", c.id, c.entry.content())
		case c.entry.since == 0:
			args = append(args, "+", c.id, c.entry.content())
		default: // it has been there under a former name
			args = append(args, "=", c.id, c.entry.content(), c.entry.ver, c.entry.since)
		}
	}
	return []string{s.keys.members(room), s.keys.counts(room), s.keys.seq(room), s.keys.departed(room)}, args
}

// sleep returns false when ctx ended before d.
func (s *Redis) sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// warn logs once that Redis is out of reach.
func (s *Redis) warn(err error) {
	s.mu.Lock()
	warned := s.warned
	s.warned = true
	s.mu.Unlock()
	if !warned && s.ctx.Err() == nil {
		s.log.Warn("presence is degraded, trying again every second", zap.Error(err))
	}
}
