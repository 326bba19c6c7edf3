package ws

// Batch sends to many connections and hands them to their workers together. It belongs to one goroutine, from Pool.Batch to End.
type Batch struct {
	pool *Pool
	sent int       // how often
	idle [][]*Conn // by worker: connections to hand over
}

// many is how much a Batch may send without standing behind smaller ones.
const many = 1024

// Batch returns a Batch.
func (p *Pool) Batch() *Batch {
	b, _ := p.batches.Get().(*Batch)
	if b == nil {
		b = &Batch{pool: p, idle: make([][]*Conn, len(p.workers))}
		for i := range b.idle {
			b.idle[i] = make([]*Conn, 0, turn)
		}
	}
	b.sent = 0
	return b
}

// Send queues f for c as Conn.Send does.
func (b *Batch) Send(c *Conn, f *Frame) {
	b.sent++
	if _, start := c.accept(f); !start {
		return
	}
	w := c.worker
	idle := append(b.idle[w.index], c)
	b.idle[w.index] = idle
	if len(idle) == turn {
		b.hand(w)
	}
}

func (b *Batch) hand(w *worker) {
	idle := b.idle[w.index]
	if b.sent > many {
		w.pushBulk(idle)
	} else {
		w.push(idle...)
	}
	clear(idle)
	b.idle[w.index] = idle[:0]
}

// End lets the workers have the rest. The Batch is not used afterwards.
func (b *Batch) End() {
	for _, w := range b.pool.workers {
		if len(b.idle[w.index]) > 0 {
			b.hand(w)
		}
	}
	b.pool.batches.Put(b)
}
