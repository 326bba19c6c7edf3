package presence

import (
	"cmp"
	"iter"
	"slices"
	"sort"
)

// blockSize is how many users a block of an order has at most.
const blockSize = 256

// order is the users of a room in the order of their ids. It is kept in blocks, so that whoever comes or goes moves the users of one block
// only, however many there are. It has no lock of its own: a room's guards it.
type order struct {
	blocks [][]*person // none is empty
}

// find returns where the user of that id is, or belongs. There must be a block.
func (o *order) find(user string) (block, at int, found bool) {
	block = max(0, sort.Search(len(o.blocks), func(i int) bool { return o.blocks[i][0].shown.User > user })-1)
	at, found = slices.BinarySearchFunc(o.blocks[block], user, func(p *person, user string) int { return cmp.Compare(p.shown.User, user) })
	return block, at, found
}

// add puts p in, who is not there yet.
func (o *order) add(p *person) {
	if len(o.blocks) == 0 {
		o.blocks = [][]*person{{p}}
		return
	}
	block, at, _ := o.find(p.shown.User)
	b := slices.Insert(o.blocks[block], at, p)
	o.blocks[block] = b
	if len(b) > blockSize {
		half := len(b) / 2
		o.blocks = slices.Insert(o.blocks, block+1, slices.Clone(b[half:]))
		o.blocks[block] = slices.Delete(b, half, len(b))
	}
}

// remove takes the user of that id out, who is there.
func (o *order) remove(user string) {
	block, at, _ := o.find(user)
	o.blocks[block] = slices.Delete(o.blocks[block], at, at+1)
	switch next := block + 1; {
	case len(o.blocks[block]) == 0:
		o.blocks = slices.Delete(o.blocks, block, next)
	case next < len(o.blocks) && len(o.blocks[block])+len(o.blocks[next]) <= blockSize/2:
		o.blocks[block] = append(o.blocks[block], o.blocks[next]...)
		o.blocks = slices.Delete(o.blocks, next, next+1)
	}
}

// after returns the users whose ids are greater than cursor.
func (o *order) after(cursor string) iter.Seq[*person] {
	return func(yield func(*person) bool) {
		if len(o.blocks) == 0 {
			return
		}
		block, at, found := o.find(cursor)
		if found {
			at++
		}
		for ; block < len(o.blocks); block, at = block+1, 0 {
			for _, p := range o.blocks[block][at:] {
				if !yield(p) {
					return
				}
			}
		}
	}
}
