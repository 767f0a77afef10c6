// Package lease is the book of the units that a node may sell: which serials of which lease are untouched, used or on
// their way back.
//
//	Adopt ──> untouched ── Take(drop, K) ──> used                   for ever, once it is journaled
//	              └── PlanReturn ──> returning ── Acknowledge ──> gone     for ever
//
// Invariants. A serial that a journal names never comes back (I10 of docs/settlement.md): whoever rebuilds the book
// from a journal calls Adopt, Use and Return in the journal's order and gets the same book. A lease is an immutable set;
// adopting it again changes nothing. Only leases of the current epoch are sold from or given back.
//
// It is pure and not safe for concurrent use. It does not write the journal: the caller makes a record durable before
// it acts on what the book answered.
package lease

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// ErrUnknown is a serial or lease that the book does not hold.
var ErrUnknown = errors.New("lease: unknown")

// Key is a token id: what a unit is taken for.
type Key [16]byte

// Lease is some serials of one drop, lent to this node under an epoch.
type Lease struct {
	ID, Drop string
	Epoch    int64
	Serials  []uint32 // ascending
}

// Unit is one serial and the lease that it is sold from.
type Unit struct {
	Lease  string
	Serial uint32
}

// Return is what goes back of one lease.
type Return struct {
	Lease   string
	Serials []uint32 // ascending
}

// Held says what is left of one lease.
type Held struct {
	Lease, Drop string
	Untouched   int
}

// Book is one node's. The zero value is empty and ready.
type Book struct {
	epoch  int64
	leases map[string]*entry
	drops  map[string]*drop
}

type state uint8

const (
	untouched state = iota
	used
	returning
	gone
)

type entry struct {
	Lease
	states map[uint32]state
	next   int // Serials before it are not untouched
	free   int // how many are untouched
}

type drop struct {
	leases []*entry // in the order of their adoption
	taken  map[Key]Unit
}

// SetEpoch makes one epoch current. Leases of others stay known and are not touched any more: fulfillment has put them
// aside.
func (b *Book) SetEpoch(epoch int64) { b.epoch = epoch }

// Adopt takes a lease in and tells whether it was new.
func (b *Book) Adopt(l Lease) bool {
	if _, known := b.leases[l.ID]; known {
		return false
	}
	if b.leases == nil {
		b.leases = map[string]*entry{}
	}
	e := &entry{Lease: l, states: make(map[uint32]state, len(l.Serials)), free: len(l.Serials)}
	e.Serials = slices.Clone(l.Serials)
	for _, s := range e.Serials {
		e.states[s] = untouched
	}
	b.leases[l.ID] = e
	d := b.drop(l.Drop)
	d.leases = append(d.leases, e)
	return true
}

func (b *Book) drop(id string) *drop {
	d := b.drops[id]
	if d == nil {
		if b.drops == nil {
			b.drops = map[string]*drop{}
		}
		d = &drop{taken: map[Key]Unit{}}
		b.drops[id] = d
	}
	return d
}

// Take uses a unit of the drop for K: the oldest lease's lowest serial, or what K was given before. ok is false when
// nothing is untouched.
func (b *Book) Take(dropID string, k Key) (u Unit, ok bool) {
	d := b.drops[dropID]
	if d == nil {
		return Unit{}, false
	}
	if u, again := d.taken[k]; again {
		return u, true
	}
	for _, e := range d.leases {
		if e.Epoch != b.epoch || e.free == 0 {
			continue
		}
		for ; e.next < len(e.Serials); e.next++ {
			if s := e.Serials[e.next]; e.states[s] == untouched {
				e.move(s, used)
				d.taken[k] = Unit{Lease: e.ID, Serial: s}
				return d.taken[k], true
			}
		}
	}
	return Unit{}, false
}

// Undo gives back what Take gave to K, for a caller who knows that no record of it was written or queued. Without it
// a unit that a full journal turned away would be lost to everybody until the drop's end and beyond.
func (b *Book) Undo(dropID string, k Key) {
	d := b.drops[dropID]
	if d == nil {
		return
	}
	u, ok := d.taken[k]
	e := b.leases[u.Lease]
	if !ok || e.states[u.Serial] != used {
		return
	}
	delete(d.taken, k)
	e.states[u.Serial] = untouched
	e.free++
	e.next = 0 // look through the lease anew
}

func (e *entry) move(serial uint32, to state) {
	if e.states[serial] == untouched {
		e.free--
	}
	e.states[serial] = to
}

// Use is Take as the journal tells it: the unit was given to K. Errors: ErrUnknown.
func (b *Book) Use(u Unit, k Key) error {
	e, err := b.find(u.Lease, u.Serial)
	if err != nil {
		return err
	}
	e.move(u.Serial, used)
	b.drop(e.Drop).taken[k] = u
	return nil
}

// Return is PlanReturn as the journal tells it: the serials are on their way back. A used serial stays used.
// Errors: ErrUnknown, then nothing changed.
func (b *Book) Return(r Return) error {
	for _, s := range r.Serials {
		if _, err := b.find(r.Lease, s); err != nil {
			return err
		}
	}
	for _, s := range r.Serials {
		if e := b.leases[r.Lease]; e.states[s] == untouched {
			e.move(s, returning)
		}
	}
	return nil
}

func (b *Book) find(leaseID string, serial uint32) (*entry, error) {
	e := b.leases[leaseID]
	if e == nil {
		return nil, fmt.Errorf("%w: lease %s", ErrUnknown, leaseID)
	}
	if _, ok := e.states[serial]; !ok {
		return nil, fmt.Errorf("%w: serial %d of lease %s", ErrUnknown, serial, leaseID)
	}
	return e, nil
}

// PlanReturn chooses up to units untouched serials of the drop to give back, the newest leases' highest first, and marks
// them: they are not sold any more. The caller makes the plan durable and then gives them back.
func (b *Book) PlanReturn(dropID string, units int) []Return {
	d := b.drops[dropID]
	if d == nil {
		return nil
	}
	var plan []Return
	for _, e := range slices.Backward(d.leases) {
		if e.Epoch != b.epoch {
			continue
		}
		if r := e.planReturn(units); len(r.Serials) > 0 {
			units -= len(r.Serials)
			plan = append(plan, r)
		}
	}
	return plan
}

// PlanReturnLease is PlanReturn of all that is untouched of one lease: Serials is empty when there is nothing.
func (b *Book) PlanReturnLease(leaseID string) Return {
	e := b.leases[leaseID]
	if e == nil || e.Epoch != b.epoch {
		return Return{Lease: leaseID}
	}
	return e.planReturn(len(e.Serials))
}

func (e *entry) planReturn(units int) Return {
	r := Return{Lease: e.ID}
	for _, s := range slices.Backward(e.Serials) {
		if units == len(r.Serials) || e.free == 0 {
			break
		}
		if e.states[s] == untouched {
			e.move(s, returning)
			r.Serials = append(r.Serials, s)
		}
	}
	slices.Sort(r.Serials)
	return r
}

// Keep undoes PlanReturn for a caller who knows that the plan is not durable and was not sent: the units are for sale again.
func (b *Book) Keep(r Return) {
	e := b.leases[r.Lease]
	if e == nil {
		return
	}
	for _, s := range r.Serials {
		if e.states[s] == returning {
			e.states[s] = untouched
			e.free++
		}
	}
	e.next = 0
}

// Returning lists what is on its way back and not acknowledged, by lease.
func (b *Book) Returning() []Return {
	var out []Return
	for _, e := range b.leases {
		r := Return{Lease: e.ID}
		for _, s := range e.Serials {
			if e.states[s] == returning {
				r.Serials = append(r.Serials, s)
			}
		}
		if len(r.Serials) > 0 && e.Epoch == b.epoch {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b Return) int { return cmp.Compare(a.Lease, b.Lease) })
	return out
}

// Acknowledge says that fulfillment has taken a return in.
func (b *Book) Acknowledge(r Return) {
	e := b.leases[r.Lease]
	if e == nil {
		return
	}
	for _, s := range r.Serials {
		if e.states[s] == returning {
			e.states[s] = gone
		}
	}
}

// Untouched is how many units of the drop Take can still give.
func (b *Book) Untouched(dropID string) int {
	n := 0
	if d := b.drops[dropID]; d != nil {
		for _, e := range d.leases {
			if e.Epoch == b.epoch {
				n += e.free
			}
		}
	}
	return n
}

// Held lists every lease of the current epoch, by id: those that are used up too.
func (b *Book) Held() []Held {
	var out []Held
	for _, e := range b.leases {
		if e.Epoch == b.epoch {
			out = append(out, Held{Lease: e.ID, Drop: e.Drop, Untouched: e.free})
		}
	}
	slices.SortFunc(out, func(a, b Held) int { return cmp.Compare(a.Lease, b.Lease) })
	return out
}

// Holding is a lease and what of it is not here any more.
type Holding struct {
	Lease
	// GivenBack will never be sold here, and was not.
	GivenBack []uint32
}

// Holdings lists every lease of every epoch, by id. The caller has made all planned returns durable.
func (b *Book) Holdings() []Holding {
	var out []Holding
	for _, e := range b.leases {
		h := Holding{Lease: e.Lease}
		for _, s := range e.Serials {
			if e.states[s] == returning || e.states[s] == gone {
				h.GivenBack = append(h.GivenBack, s)
			}
		}
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b Holding) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Forget drops all that is known of a drop that is settled: fulfillment lends nothing of it any more.
func (b *Book) Forget(dropID string) {
	if d := b.drops[dropID]; d != nil {
		for _, e := range d.leases {
			delete(b.leases, e.ID)
		}
		delete(b.drops, dropID)
	}
}
