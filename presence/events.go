package presence

// Events are Redis channels on which other programs hear what changes, each change once, from the script that makes it: see docs/events.md.
// Nothing is told on an empty one.
type Events struct {
	Presence string // users come online and go offline
	Users    string // users set their status everywhere
	Rooms    string // users join and leave rooms
	// Head is what each event begins with: a JSON object that is not closed and has a member.
	Head string
}

// SetEvents has changes told on these channels from now on. It may be called from any goroutine.
func (s *Redis) SetEvents(e Events) { s.events.Store(&e) }

// reset returns what registerScript needs to tell that what was told before may not be true any more: not at all when Redis has no instance,
// else where it could not be written.
func (e *Events) reset() []any {
	args := []any{e.Head}
	for _, channel := range []string{e.Presence, e.Rooms} {
		if channel != "" {
			args = append(args, channel)
		}
	}
	return args
}
