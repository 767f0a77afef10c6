// Package lease is the book of the units that a node may sell: which serials of which lease are untouched, used or on
// their way back.
//
//	Adopt ──> untouched ── Take(drop) ──> used                      for ever, once it is journaled
//	              └── PlanReturn ──> returning ── Acknowledge ──> gone     for ever
//
// Invariants. A serial that a journal names never comes back (I10 of docs/settlement.md): whoever rebuilds the book
// from a journal calls Adopt, Use and Return in the journal's order and gets the same book. A lease is an immutable set;
// adopting it again changes nothing. Only leases of the current epoch are sold from or given back.
//
// It is pure and not safe for concurrent use. It does not write the journal: the caller makes a record durable before
// it acts on what the book answered. Nor does it know what a unit was taken for: one K, one unit is the caller's to keep.
package lease

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// ErrUnknown is a serial or lease that the book does not hold.
var ErrUnknown = errors.New("lease: unknown")

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
	states []state // of Serials, at the same places
	next   int     // Serials before it are not untouched
	free   int     // how many are untouched
}

type drop struct {
	leases []*entry // in the order of their adoption
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
	e := &entry{Lease: l, states: make([]state, len(l.Serials)), free: len(l.Serials)}
	e.Serials = slices.Clone(l.Serials)
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
		d = &drop{}
		b.drops[id] = d
	}
	return d
}

// Take uses a unit of the drop: the oldest lease's lowest serial. ok is false when nothing is untouched.
func (b *Book) Take(dropID string) (u Unit, ok bool) {
	d := b.drops[dropID]
	if d == nil {
		return Unit{}, false
	}
	for _, e := range d.leases {
		if e.Epoch != b.epoch || e.free == 0 {
			continue
		}
		for ; e.next < len(e.Serials); e.next++ {
			if e.states[e.next] == untouched {
				e.move(e.next, used)
				return Unit{Lease: e.ID, Serial: e.Serials[e.next]}, true
			}
		}
	}
	return Unit{}, false
}

// Undo gives back what Take gave, for a caller who knows that no record of it was written or queued. Without it a unit
// that a full journal turned away would be lost to everybody until the drop's end and beyond.
func (b *Book) Undo(u Unit) {
	e, i, err := b.find(u.Lease, u.Serial)
	if err != nil || e.states[i] != used {
		return
	}
	e.states[i] = untouched
	e.free++
	e.next = 0 // look through the lease anew
}

// move changes the state of the serial at a place.
func (e *entry) move(i int, to state) {
	if e.states[i] == untouched {
		e.free--
	}
	e.states[i] = to
}

// place is where a serial is in its lease. Most leases are runs without a gap.
func (e *entry) place(serial uint32) (i int, ok bool) {
	if len(e.Serials) > 0 && serial >= e.Serials[0] {
		if i = int(serial - e.Serials[0]); i < len(e.Serials) && e.Serials[i] == serial {
			return i, true
		}
	}
	return slices.BinarySearch(e.Serials, serial)
}

// Use is Take as the journal tells it. Errors: ErrUnknown.
func (b *Book) Use(u Unit) error {
	e, i, err := b.find(u.Lease, u.Serial)
	if err != nil {
		return err
	}
	e.move(i, used)
	return nil
}

// Return is PlanReturn as the journal tells it: the serials are on their way back. A used serial stays used.
// Errors: ErrUnknown, then nothing changed.
func (b *Book) Return(r Return) error {
	for _, s := range r.Serials {
		if _, _, err := b.find(r.Lease, s); err != nil {
			return err
		}
	}
	for _, s := range r.Serials {
		if e, i, _ := b.find(r.Lease, s); e.states[i] == untouched {
			e.move(i, returning)
		}
	}
	return nil
}

func (b *Book) find(leaseID string, serial uint32) (e *entry, i int, err error) {
	if e = b.leases[leaseID]; e == nil {
		return nil, 0, fmt.Errorf("%w: lease %s", ErrUnknown, leaseID)
	}
	i, ok := e.place(serial)
	if !ok {
		return nil, 0, fmt.Errorf("%w: serial %d of lease %s", ErrUnknown, serial, leaseID)
	}
	return e, i, nil
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
	for i, s := range slices.Backward(e.Serials) {
		if units == len(r.Serials) || e.free == 0 {
			break
		}
		if e.states[i] == untouched {
			e.move(i, returning)
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
		if i, ok := e.place(s); ok && e.states[i] == returning {
			e.states[i] = untouched
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
		for i, s := range e.Serials {
			if e.states[i] == returning {
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
		if i, ok := e.place(s); ok && e.states[i] == returning {
			e.states[i] = gone
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
		for i, s := range e.Serials {
			if e.states[i] == returning || e.states[i] == gone {
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
