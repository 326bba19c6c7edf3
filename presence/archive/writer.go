package archive

import (
	"context"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"
)

const (
	defaultFlush = 2 * time.Second
	defaultBeat  = 15 * time.Second
	defaultRetry = time.Second
	defaultRows  = 100_000

	silent = 3 // signs of life that a dead instance has missed
)

// beat is the last sign of life of an instance.
type beat struct {
	at      int64     // Unix milliseconds by its clock
	changed time.Time // when it was another one before
	moved   bool      // it was seen to change
}

// write is the writer: the one goroutine that changes anything in the database.
func (a *Archive) write() {
	defer close(a.done)
	if a.after != nil {
		select {
		case <-a.after:
		case <-a.ctx.Done():
			return
		}
	}
	for !a.writeUntilClosed() {
		a.sleep(a.opts.retry) // after a panic
	}
}

func (a *Archive) writeUntilClosed() (ended bool) {
	defer func() {
		if p := recover(); p != nil {
			a.log.Error("presence database writer panicked", zap.Any("panic", p), zap.Stack("stack"))
			a.putBack()
			a.mu.Lock()
			a.up, a.resync = false, true // it may have been in the middle of either
			a.mu.Unlock()
			ended = a.isClosed() // nobody would wait for another one
		}
	}()
	for !a.isClosed() {
		wait := time.Until(a.nextBeat)
		if err := a.step(a.ctx); err != nil {
			a.lost(err)
			wait = a.opts.retry
		} else if wait > 0 {
			a.await(wait)
			wait = min(a.opts.flush, time.Until(a.nextBeat))
		}
		a.sleep(wait)
	}
	if a.step(a.ctx) == nil && a.leave(a.ctx) != nil {
		a.log.Warn("presence database: the end of this instance was not written, the others will find out")
	}
	return true
}

func (a *Archive) isClosed() bool {
	select {
	case <-a.closing:
		return true
	default:
		return false
	}
}

// sleep returns after d, or when the archive is to be closed.
func (a *Archive) sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-a.closing:
	}
}

// await returns when there is something to write, after d, or when the archive is to be closed.
func (a *Archive) await(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-a.wake:
	case <-timer.C:
	case <-a.closing:
	}
}

// lost notes that an exchange with the database has failed.
func (a *Archive) lost(err error) {
	a.mu.Lock()
	a.up = false
	a.mu.Unlock()
	if !a.warned && a.ctx.Err() == nil {
		a.log.Warn("presence database is out of reach, trying again every second", zap.Error(err))
		a.warned = true
	}
}

// found notes that all that there was to do went well.
func (a *Archive) found() {
	a.mu.Lock()
	up := a.up
	a.up = true
	a.mu.Unlock()
	if !up {
		a.log.Info("presence database is in use", zap.String("instance", a.instance))
	}
	a.warned = false
}

// step does what there is to do now.
func (a *Archive) step(ctx context.Context) error {
	if !a.prepared {
		if err := a.prepare(ctx); err != nil {
			return err
		}
		a.prepared = true
	}
	if err := a.signIfDue(ctx); err != nil {
		return err
	}
	if err := a.writeAll(ctx); err != nil {
		return err
	}
	if err := a.bury(ctx); err != nil {
		return err
	}
	a.found()
	return nil
}

// signIfDue gives a sign of life if it is time, or if everyone who is online here is to be written anew.
func (a *Archive) signIfDue(ctx context.Context) error {
	a.mu.Lock()
	resync := a.resync
	a.mu.Unlock()
	if !resync && time.Now().Before(a.nextBeat) {
		return nil
	}
	if err := a.giveSign(ctx); err != nil {
		return err
	}
	a.nextBeat = time.Now().Add(a.opts.beat)
	return nil
}

// giveSign shows that this instance lives, and looks for the others.
func (a *Archive) giveSign(ctx context.Context) error {
	known, err := a.renew(ctx)
	if err != nil {
		return err
	}
	a.mu.Lock()
	again := a.resync || !known
	a.mu.Unlock()
	if again {
		if err := a.assert(ctx); err != nil {
			return err
		}
	}
	beats, err := a.heartbeats(ctx)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.look(beats, time.Now())
	return nil
}

// look takes in the signs of life of all instances. a.mu is held.
func (a *Archive) look(beats map[string]int64, now time.Time) {
	// After an outage all begin anew: nobody could give a sign.
	outage := now.Sub(a.looked) > 2*a.opts.beat
	a.looked = now
	maps.DeleteFunc(a.beats, func(instance string, _ beat) bool { _, there := beats[instance]; return !there })
	for instance, at := range beats {
		old, known := a.beats[instance]
		switch {
		case !known || outage:
			a.beats[instance] = beat{at: at, changed: now}
		case old.at != at:
			a.beats[instance] = beat{at: at, changed: now, moved: true}
		case instance != a.instance && now.Sub(old.changed) > silent*a.opts.beat && len(a.removed) < maxRemoved:
			a.removed[instance] = true
		}
	}
}

// assert writes everyone who is online here, and takes away what there was.
func (a *Archive) assert(ctx context.Context) error {
	a.mu.Lock()
	a.resync = false // before the store is asked: what changes from now on is in a.rows
	a.mu.Unlock()
	err := a.enlist(ctx)
	var rows []jsonRow
	for user := range a.store.OnlineHere() {
		if err != nil {
			break
		}
		rows = append(rows, jsonRow{user.User, user.Device, user.Since, user.Status, user.Version})
		if len(rows) == batchRows {
			if err = a.writeHere(ctx, rows); err == nil {
				_, err = a.renew(ctx) // so many users may take longer than others wait for a sign
			}
			rows = nil
		}
	}
	if err == nil {
		err = a.writeHere(ctx, rows)
	}
	if err != nil {
		a.mu.Lock()
		a.resync = true
		a.mu.Unlock()
	}
	return err
}

func (a *Archive) writeHere(ctx context.Context, rows []jsonRow) error {
	if err := a.writeUsers(ctx, rows); err != nil {
		return err
	}
	return a.writeOnline(ctx, rows)
}

// writeAll writes the rows that wait.
func (a *Archive) writeAll(ctx context.Context) error {
	for {
		a.mu.Lock()
		lossy := a.lossy
		a.lossy = false
		batch := make(map[string]*row, min(len(a.rows), batchRows))
		a.writing = batch
		for user, r := range a.rows {
			if len(batch) == batchRows {
				break
			}
			batch[user] = r
			delete(a.rows, user)
		}
		a.mu.Unlock()
		if lossy {
			a.log.Warn("too many rows waited for the presence database, some are lost", zap.Int("most", a.opts.rows))
		}
		if len(batch) == 0 {
			return nil
		}
		if err := a.writeBatch(ctx, batch); err != nil {
			a.putBack()
			return err
		}
		if err := a.signIfDue(ctx); err != nil { // there may be more to write than there is time for
			return err
		}
	}
}

// writeBatch writes some rows.
func (a *Archive) writeBatch(ctx context.Context, batch map[string]*row) error {
	var users, here, left []jsonRow
	for user, r := range batch {
		users = append(users, jsonRow{user, r.device, r.seen, r.status, r.version})
		switch r.here {
		case online:
			here = append(here, jsonRow{User: user, Device: r.device, Time: r.since})
		case gone:
			left = append(left, jsonRow{User: user})
		case unchanged:
		}
	}
	if err := a.restore(ctx, here); err != nil {
		return err
	}
	if err := a.writeUsers(ctx, users); err != nil {
		return err
	}
	if err := a.writeGone(ctx, left); err != nil {
		return err
	}
	return a.writeOnline(ctx, here)
}

// putBack keeps the rows that could not be written, under what has come since.
func (a *Archive) putBack() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for user, old := range a.writing {
		if r := a.rows[user]; r != nil {
			r.under(old)
		} else {
			a.rows[user] = old
		}
	}
	a.writing = nil
}

// under adds what an older row says and r does not.
func (r *row) under(old *row) {
	if r.here == unchanged {
		r.here, r.since = old.here, old.since
	}
	if r.seen < old.seen {
		r.seen, r.device = old.seen, old.device
	}
	if r.version < old.version {
		r.status, r.version = old.status, old.version
	}
}

// restore gives back the status of users who have just come, and were online on an instance that has lost them: everything that had it in
// memory may have ended together. It asks the database only while there is an instance of which no sign of life was seen.
func (a *Archive) restore(ctx context.Context, here []jsonRow) error {
	a.mu.Lock()
	whole := true
	for instance, b := range a.beats {
		if instance != a.instance && !b.moved {
			whole = false
		}
	}
	a.mu.Unlock()
	if whole {
		return nil
	}
	statuses, err := a.cutShort(ctx, here)
	for _, s := range statuses {
		a.store.RestoreStatus(s.User, s.Status, s.Version)
	}
	return err
}

// bury ends the instances that have died.
func (a *Archive) bury(ctx context.Context) error {
	a.mu.Lock()
	removed := slices.Sorted(maps.Keys(a.removed))
	a.mu.Unlock()
	for _, instance := range removed {
		for more := true; more; {
			var err error
			if more, err = a.endSome(ctx, instance); err != nil {
				return err
			}
			if err := a.signIfDue(ctx); err != nil { // there may be very many users
				return err
			}
		}
		a.mu.Lock()
		delete(a.removed, instance)
		delete(a.beats, instance)
		a.mu.Unlock()
		a.log.Info("presence database: ended the users of a dead instance", zap.String("instance", instance))
	}
	return nil
}

// leave ends this instance.
func (a *Archive) leave(ctx context.Context) error {
	if _, err := a.renew(ctx); err != nil {
		return err
	}
	for {
		if more, err := a.endSome(ctx, a.instance); err != nil || !more {
			return err
		}
	}
}
