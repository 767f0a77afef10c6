package region

import "hash/maphash"

// table is a map from 16 random bytes to a number above 0, for the millions of them that a node keeps: one array without
// pointers, where an entry is 20 bytes and one miss of the processor's cache. With Go's maps a start from snapshots takes half
// as long again. Guarded by till.mu.
type table struct {
	seed  maphash.Seed
	slots []slot // a power of two of them, or none
	taken int    // slots that are not free
}

type slot struct {
	key   [16]byte
	value uint32 // or free, or zeroed
}

const (
	free   = 0
	zeroed = 1<<32 - 1 // the key is there, its number is 0: whatever was put behind it is still found
)

// smallest is how many slots the first entry makes: 320 bytes, since a drop of one buyer has a table too.
const smallest = 16

func newTable() table { return table{seed: maphash.MakeSeed()} }

// get is a key's number; 0: it has none.
func (t *table) get(key [16]byte) uint32 {
	if len(t.slots) == 0 {
		return 0
	}
	if s := t.find(key); s.value != zeroed {
		return s.value
	}
	return 0
}

// set gives a key a number, which may be 0 and not above 2³²-2.
func (t *table) set(key [16]byte, value uint32) {
	if 4*t.taken >= 3*len(t.slots) {
		t.grow()
	}
	s := t.find(key)
	if s.value == free {
		s.key = key
		t.taken++
	}
	if s.value = value; value == 0 {
		s.value = zeroed
	}
}

// find is the slot that a key has, or the free one that it would get.
func (t *table) find(key [16]byte) *slot {
	last := uint64(len(t.slots) - 1)
	for i := maphash.Bytes(t.seed, key[:]) & last; ; i = (i + 1) & last {
		if s := &t.slots[i]; s.value == free || s.key == key {
			return s
		}
	}
}

// grow makes room, and gives up the slots of keys whose number is 0.
func (t *table) grow() {
	old, live := t.slots, 0
	for i := range old {
		if v := old[i].value; v != free && v != zeroed {
			live++
		}
	}
	size := max(smallest, len(old))
	if 8*live >= 3*size { // else half of what is taken is of no use
		size *= 2
	}
	t.slots, t.taken = make([]slot, size), live
	for i := range old {
		if v := old[i].value; v != free && v != zeroed {
			*t.find(old[i].key) = old[i]
		}
	}
}
