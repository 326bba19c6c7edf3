package presence

type op struct{}
type stream struct{}

func (r *room) row(id string) string { return id }
