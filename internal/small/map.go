// Package small has a map for what nearly always has one or two entries, such as the rooms of a connection: a map of Go takes about 260 bytes
// for the first one.
package small

import "iter"

// Map is a map. The zero value is empty and ready to use. Like Go's, it has no lock of its own.
type Map[K comparable, V any] struct {
	few  []pair[K, V] // while many is nil
	many map[K]V
}

type pair[K comparable, V any] struct {
	key   K
	value V
}

// mostFew is how many entries are looked through one by one.
const mostFew = 8

// Len returns the number of entries.
func (m *Map[K, V]) Len() int { return len(m.few) + len(m.many) }

// Get returns the value of key, and whether there is one.
func (m *Map[K, V]) Get(key K) (value V, ok bool) {
	if m.many != nil {
		value, ok = m.many[key]
		return value, ok
	}
	for i := range m.few {
		if m.few[i].key == key {
			return m.few[i].value, true
		}
	}
	return value, false
}

// Set sets the value of key.
func (m *Map[K, V]) Set(key K, value V) {
	if m.many != nil {
		m.many[key] = value
		return
	}
	for i := range m.few {
		if m.few[i].key == key {
			m.few[i].value = value
			return
		}
	}
	if len(m.few) < mostFew {
		m.few = append(m.few, pair[K, V]{key, value})
		return
	}
	m.many = make(map[K]V, 2*mostFew)
	for _, p := range m.few {
		m.many[p.key] = p.value
	}
	m.many[key], m.few = value, nil
}

// Delete removes key if it is there.
func (m *Map[K, V]) Delete(key K) {
	delete(m.many, key)
	for i := range m.few {
		if m.few[i].key == key {
			last := len(m.few) - 1
			m.few[i] = m.few[last]
			m.few[last] = pair[K, V]{}
			m.few = m.few[:last]
			return
		}
	}
}

// All ranges over the entries, in any order. The map must not be changed meanwhile.
func (m *Map[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for k, v := range m.many {
			if !yield(k, v) {
				return
			}
		}
		for _, p := range m.few {
			if !yield(p.key, p.value) {
				return
			}
		}
	}
}

// Keys ranges over the keys, as All does.
func (m *Map[K, V]) Keys() iter.Seq[K] {
	return func(yield func(K) bool) {
		for k := range m.All() {
			if !yield(k) {
				return
			}
		}
	}
}

// Values ranges over the values, as All does.
func (m *Map[K, V]) Values() iter.Seq[V] {
	return func(yield func(V) bool) {
		for _, v := range m.All() {
			if !yield(v) {
				return
			}
		}
	}
}
