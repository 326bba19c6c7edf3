// Package presence records who is online and who is in a room.
//
// There are two implementations of [Store] with the same semantics: [Memory] for one process, and [Redis] for
// any number of instances that share a Redis. Both keep, for every room that is open on this instance, a local
// replica from which snapshots and pages are answered, and tell an [Observer] what changed in it, in order.
//
// The member of a room is a user. A user may be in a room over several connections on several instances:
// [Join] is told when the first one enters, [Leave] when the last one is gone.
package presence

import (
	"context"
	"errors"
	"time"
)

// ErrInvalid is returned for names that can't be stored: empty, over [MaxName] bytes, or with a control character.
var ErrInvalid = errors.New("presence: invalid name")

// ErrClosed is returned by every operation of a store that was closed.
var ErrClosed = errors.New("presence: store is closed")

// Errors of operations that come too early or too late.
var (
	ErrNotOpen      = errors.New("presence: room is not open")
	ErrNotConnected = errors.New("presence: connection is not connected")
	ErrConnected    = errors.New("presence: connection is connected already")
	ErrNotMember    = errors.New("presence: connection is not in the room")
)

// MaxName is the longest room, user, connection, device or status, in bytes.
const MaxName = 256

// DefaultStatus is the status of a member that never set one.
const DefaultStatus = "online"

// Op is what happened to a member of a room.
type Op string

// The three changes of a room. A change of status or state is never told as a leave and a join.
const (
	Join   Op = "join"
	Update Op = "update"
	Leave  Op = "leave"
)

// Reason is why a member left.
type Reason string

// The reasons of a leave.
const (
	ReasonLeft    Reason = "left"    // it said so
	ReasonTimeout Reason = "timeout" // its connection was lost and did not come back in time
	ReasonKicked  Reason = "kicked"  // it was removed
	ReasonNode    Reason = "node"    // the instance that held its connection died
)

// Member is a user in a room, with what its connections there have in common.
// Status, State and Device are those of the connection that has set its own last; one that joined without a word
// changes nothing.
type Member struct {
	User   string
	Status string
	State  string // a JSON object, byte for byte as the client sent it; "{}" when it sent none
	Device string // empty when the server records none
	Conns  int    // connections of the user in this room, over all instances, those held through their grace included until the user is back
	Since  int64  // when the user entered, in milliseconds since the Unix epoch, by the clock of the store
}

// Event is one change of a room. A leave carries the member as it was, with Conns 0.
type Event struct {
	Op     Op
	Member Member
	Reason Reason // of a leave
}

// Change is what one step of a room's sequence changed.
type Change struct {
	PSeq   uint64 // grows with every change of the room; not contiguous
	Count  int    // members after the change
	Events []Event
}

// Snapshot is a page of a room's members in the order of their user ids.
type Snapshot struct {
	PSeq    uint64
	Count   int // members in all
	Members []Member
	Next    string // where the next page starts; empty at the end
	// Degraded tells that the shared store is out of reach, so that members of other instances may be stale.
	Degraded bool
}

// View reads a room's replica at one moment: it is valid only inside the function that it is given to.
type View interface {
	// Member returns the member with that user id.
	Member(user string) (Member, bool)
	// Page returns at most limit members whose user id is greater than cursor, fewer if they say much of themselves (128 KiB
	// in all); limit 0 returns none, only PSeq and Count.
	Page(cursor string, limit int) Snapshot
	// Departed returns who has left the room within about an hour and is not back, the latest first, at most [MaxDeparted]. It reaches further
	// back than this instance has had the room open only with a shared store.
	Departed() []Departed
}

// Observer hears what changes. Its methods are called in the order of a room's sequence with the room locked, from
// any goroutine: they must not block and must not call the Store.
type Observer interface {
	PresenceChanged(room string, c Change)
}

// Conn is a connection as presence knows it. ID is unique over all instances and never used again.
type Conn struct {
	ID     string
	User   string
	Device string
	// Anonymous tells that the user is nobody beyond this connection, of whom no archive is told.
	Anonymous bool
}

// State is what a connection says of itself in a room. An empty field keeps what there is: on a first join the
// status is then the user's explicit one or [DefaultStatus], the state "{}".
type State struct {
	Status string
	State  string
}

// OnlineUser is a user with at least one connection anywhere.
type OnlineUser struct {
	User     string
	Status   string
	Devices  []string // of its connections, without duplicates, sorted
	Conns    int
	Since    int64 // when it came online, Unix milliseconds
	LastSeen int64 // its latest activity, Unix milliseconds, exact to a minute
}

// Store is a presence store. Its methods may be called from any goroutine, except that the calls for one connection
// must not overlap. A context bounds the wait, not the change: what could not be written to a shared store in time is
// kept, answered as degraded, and written when the store is back.
type Store interface {
	// Open makes room known to this instance and loads its replica, if it isn't open yet. Whoever feeds a shared store
	// (see Redis.Deliver) must be subscribed to the room before it calls Open.
	Open(ctx context.Context, room string) (degraded bool, err error)
	// CloseRoom forgets the replica of a room without local members. With local members it does nothing.
	CloseRoom(room string)

	// Connect records that c is online and returns the status that its user has set everywhere, or "".
	Connect(ctx context.Context, c Conn) (status string, degraded bool, err error)
	// Disconnect takes connection id out of all its rooms and offline after hold (0: at once). It never waits for the store.
	// The leave is told with reason. A user who has another connection in a room by then causes no event there.
	Disconnect(id string, hold time.Duration, reason Reason)
	// Release ends the time that connections of user are held for which were lost on this instance, in one room or, with room "", in all:
	// they leave at once. It never waits for the store.
	Release(user, room string, reason Reason)

	// Join enters connection id, which must be connected, into an open room, or updates it if it is in. admit, if not nil, is called exactly
	// once, before Join returns without an error, with the room locked: no change that its view has is told to the Observer
	// afterwards, and every later one is. It must not block and must not call the Store.
	Join(ctx context.Context, room, id string, s State, admit func(v View, degraded bool)) error
	// Leave takes connection id out of room at once. Leaving a room one isn't in is no error. depart is called as Join's admit.
	Leave(ctx context.Context, room, id string, reason Reason, depart func(degraded bool)) error
	// Update changes the status or state of connection id in room; no change, no event.
	Update(ctx context.Context, room, id string, s State) (degraded bool, err error)
	// SetStatus sets the status of a user in every room, on every instance, and for rooms joined later.
	SetStatus(ctx context.Context, user, status string) (degraded bool, err error)
	// Touch marks the user of connection id as active now. It never waits for the store.
	Touch(id string)

	// View calls f with the open room locked; false when the room isn't open.
	View(room string, f func(v View, degraded bool)) bool
	// User returns a user who is online; false when nobody of that id is. When a shared store is out of reach, or has lost who is online and does
	// not have everyone again, that is an error, and the user is as this instance knows it.
	User(ctx context.Context, id string) (u OnlineUser, online bool, err error)
	// Online returns at most limit (1 to 1,000) online users in the order of their ids, after cursor, with the next cursor.
	Online(ctx context.Context, cursor string, limit int) (users []OnlineUser, next string, err error)
	// OnlineCount returns how many users are online.
	OnlineCount(ctx context.Context) (int, error)

	// Rooms returns at most limit (1 to 1,000) rooms with members anywhere whose names begin with prefix, in the order of their names, which is that
	// of their bytes, after one of them. next is where the following page starts, and empty at the end alone: a page may be shorter, as rooms
	// that turn empty while it is read are left out. When a shared store is out of reach, or has lost its data and does not have everyone again,
	// that is an error, and the rooms are those that this instance knows.
	Rooms(ctx context.Context, prefix, after string, limit int) (rooms []RoomCount, next string, err error)
	// RoomCount returns how many are in a room, with an error as Rooms does.
	RoomCount(ctx context.Context, room string) (RoomCount, error)
	// CountRooms returns how many rooms have members, with an error as Rooms does.
	CountRooms(ctx context.Context) (int, error)
	// Instances returns the nodes of the instances that run, by their leases, this one included, sorted: one for each instance, also of those that
	// have the same name. One that has died is among them for up to a lease, one that was closed is not. With an error, as Rooms has it, it is this one alone.
	Instances(ctx context.Context) ([]string, error)

	// SetArchive has the store tell a from now on, and begins with who is online here; nil has it tell nobody. It returns the archive that was
	// told before. The caller closes that: the next one writes nothing before. A store that is closed tells nobody any more, but leaves its archive
	// to the caller too.
	SetArchive(a Archive) (before Archive)
	// Seen returns what the archive knows of a user; false when there is nothing, or no archive.
	Seen(ctx context.Context, id string) (s Seen, known bool, err error)

	// Close gives up all connections of this instance and stops the store's goroutines. Members still in are told as gone
	// after hold by the instances that stay, unless they are back by then; with hold 0 they leave at once.
	Close(ctx context.Context, hold time.Duration) error
}
