package state

import "slices"

// table is an immutable map in the order of its keys. Two tables share what
// they can: a changed value costs one copy of a pointer slice, which at 10,000
// entries is far cheaper than a copy of a Go map.
type table[V any] struct {
	keys   []string
	values []V
}

func (t table[V]) get(key string) (V, bool) {
	if i, ok := slices.BinarySearch(t.keys, key); ok {
		return t.values[i], true
	}
	var zero V
	return zero, false
}

// editor changes a table. It copies each slice when it first writes to it, so
// that many changes cost one copy and the table it began with stays as it was.
type editor[V any] struct {
	table[V]
	ownKeys, ownValues bool
}

func (e *editor[V]) own(keys bool) {
	if !e.ownValues {
		e.values, e.ownValues = slices.Clone(e.values), true
	}
	if keys && !e.ownKeys {
		e.keys, e.ownKeys = slices.Clone(e.keys), true
	}
}

func (e *editor[V]) set(key string, v V) {
	i, ok := slices.BinarySearch(e.keys, key)
	e.own(!ok)
	if ok {
		e.values[i] = v
		return
	}
	e.keys = slices.Insert(e.keys, i, key)
	e.values = slices.Insert(e.values, i, v)
}

func (e *editor[V]) remove(key string) {
	i, ok := slices.BinarySearch(e.keys, key)
	if !ok {
		return
	}
	e.own(true)
	e.keys = slices.Delete(e.keys, i, i+1)
	e.values = slices.Delete(e.values, i, i+1)
}
