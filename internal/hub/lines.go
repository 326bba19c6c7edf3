package hub

import "sync"

// lines do things one after the other in each line, and in all lines at the same time. A line has a goroutine while something waits in it. The
// zero value is empty; the methods may be called from any goroutine.
type lines struct {
	mu      sync.Mutex
	waiting map[string][]func() // by line, those which have a goroutine; guarded by mu
	count   int                 // in waiting; guarded by mu
}

// add puts do, which must not panic, at the end of a line, unless most or more wait in all lines together. It does not wait.
func (l *lines) add(line string, most int, do func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count >= most {
		return false
	}
	l.count++
	if l.waiting == nil {
		l.waiting = make(map[string][]func())
	}
	before, works := l.waiting[line]
	l.waiting[line] = append(before, do)
	if !works {
		go l.work(line)
	}
	return true
}

// work does what waits in a line until nothing does.
func (l *lines) work(line string) {
	for do := l.next(line); do != nil; do = l.next(line) {
		do()
	}
}

// next takes the first of a line. It returns nil, and the line is gone, when nothing waits.
func (l *lines) next(line string) (do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	waiting := l.waiting[line]
	if len(waiting) == 0 {
		delete(l.waiting, line)
		return nil
	}
	do, waiting[0] = waiting[0], nil
	l.waiting[line] = waiting[1:]
	l.count--
	return do
}
