package presence

import (
	"context"
	"iter"
	"slices"
)

// Archive keeps what shall outlive a store, and the Redis behind it: see package archive. It belongs to one store, which tells it what
// happens on this instance. Came, Went, SetStatus and Removed are called with a lock held, for one user in the order of what happened: they
// must not block, and must not call the store.
type Archive interface {
	// Start is called once, before all others but User and Close. The instance has no other archive that writes once after is closed, which is
	// nil when there was none: until then nothing may be written, as the end of one might undo what the next one has begun.
	Start(instance string, store Archived, after <-chan struct{})
	// Came tells that a user whose first connection on this instance has come is online since a time, in Unix milliseconds, and again when it
	// turns out that he was online before, elsewhere.
	Came(user, device string, at int64)
	// Went tells that the last one has ended; the user was connected until that time, in Unix milliseconds.
	Went(user, device string, at int64)
	// SetStatus tells that a user has set a status everywhere. One of a lower version is older, whoever tells it.
	SetStatus(user, status string, version uint64)
	// Removed tells that an instance has died.
	Removed(instance string)
	// User returns what is kept of a user; false when nothing is. It may be called from any goroutine.
	User(ctx context.Context, id string) (s Seen, known bool, err error)
	// Health tells whether the archive is in reach, and how many users' changes wait to be written. It may be called from any goroutine.
	Health() (up bool, waiting int)
	// Done is closed when nothing more is written.
	Done() <-chan struct{}
	// Close writes what is not written yet, makes everyone on this instance offline, and ends the archive. What can't be done until ctx ends
	// is left.
	Close(ctx context.Context) error
}

// Archived is the store, as an archive sees it.
type Archived interface {
	// OnlineHere returns the users with a connection on this instance.
	OnlineHere() iter.Seq[Here]
	// RestoreStatus gives a user who is online here the status that he had set everywhere, unless a newer one is known.
	RestoreStatus(user, status string, version uint64)
}

// Here is a user with a connection on this instance.
type Here struct {
	User, Device string
	Since        int64  // on any instance, Unix milliseconds
	Status       string // that the user has set everywhere, "" for none
	Version      uint64 // of the status
}

// Seen is what an archive knows of a user. Times are Unix milliseconds.
type Seen struct {
	User     string
	Online   bool // on an instance that gives signs of life; this instance's own connections are none of it
	Since    int64
	LastSeen int64
	Device   string // the last one
	Status   string // the last that the user has set everywhere, if Online since he came; "" if none
	AsOf     int64  // when all this was known to be true
}

// SetArchive implements Store.
func (b *base) SetArchive(a Archive) (before Archive) {
	b.mu.Lock()
	before, b.archive = b.archive, a
	if before != nil {
		b.written = before.Done()
	}
	if a != nil {
		a.Start(b.boot, archived{b}, b.written)
	}
	b.mu.Unlock()
	return before
}

// Seen implements Store.
func (b *base) Seen(ctx context.Context, id string) (s Seen, known bool, err error) {
	if err := checkName("user", id); err != nil {
		return Seen{}, false, err
	}
	b.mu.Lock()
	a, closed := b.archive, b.closed
	b.mu.Unlock()
	switch {
	case closed:
		return Seen{}, false, ErrClosed
	case a == nil:
		return Seen{}, false, nil
	}
	return a.User(ctx, id)
}

// archiveStatus tells the archive of an explicit status. base.mu is held.
func (b *base) archiveStatus(name, status string, ver uint64) {
	if b.archive == nil {
		return
	}
	if u := b.users[name]; u != nil {
		for c := range u.conns.Values() {
			if c.Anonymous {
				return
			}
		}
	}
	b.archive.SetStatus(name, status, ver)
}

// archived implements Archived.
type archived struct{ *base }

// OnlineHere implements Archived.
func (b archived) OnlineHere() iter.Seq[Here] {
	b.mu.Lock()
	here := make([]Here, 0, len(b.users))
	for name, u := range b.users {
		for c := range u.conns.Values() {
			if !c.Anonymous {
				here = append(here, Here{User: name, Device: c.Device, Since: u.came, Status: u.status, Version: u.statusVer})
			}
			break
		}
	}
	b.mu.Unlock()
	return slices.Values(here)
}

// RestoreStatus implements Archived.
func (b archived) RestoreStatus(name, status string, version uint64) {
	b.mu.Lock()
	u := b.users[name]
	if u == nil || version <= u.statusVer || b.closed {
		b.mu.Unlock()
		return
	}
	b.mu.Unlock()
	b.setStatus(name, version, status)
	if b.shared != nil {
		b.shared.asserted(name)
	}
}
