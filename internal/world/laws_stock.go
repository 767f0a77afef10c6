package world

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/verifier/saga"
)

// States of a unit and of a candidate, as the stores number them.
const (
	free, leased, sold  = 1, 2, 3
	winner              = 1
	closedLease         = 3
	toRelease, released = 4, 5
)

func oneOrderPerUnit(e *Evidence, x *index, broken func(string, ...any)) {
	orders, delivered, keys := map[string]string{}, map[string]int{}, map[string]string{}
	for _, o := range e.Orders {
		if o.State == int(fulfillmentv1.OrderState_ORDER_STATE_DEAD) {
			continue
		}
		unit := fmt.Sprintf("unit %d of drop %s", o.Serial, o.Drop)
		if other, taken := orders[unit]; taken {
			broken("%s has the orders %s and %s", unit, other, o.ID)
		}
		orders[unit] = o.ID
		if end := ends[o.State]; end.Earned() {
			delivered[o.Drop]++
		}
		if o.LicenceKey != "" {
			if other, taken := keys[o.LicenceKey]; taken {
				broken("the orders %s and %s have one licence key", other, o.ID)
			}
			keys[o.LicenceKey] = o.ID
		}
	}
	for id, i := range x.drops {
		if delivered[id] > e.Config.Drops[i].Units {
			broken("drop %s delivered %d of %d units", id, delivered[id], e.Config.Drops[i].Units)
		}
	}
}

func stockAddsUp(e *Evidence, x *index, broken func(string, ...any)) {
	count := map[string]int{}
	held := map[string]*Purchase{}
	for i := range e.Purchases {
		if p := &e.Purchases[i]; p.State.Earned() {
			held[fmt.Sprintf("%s/%d", p.Drop, p.Serial)] = p
		}
	}
	for _, u := range e.Units {
		count[u.Drop]++
		p := held[fmt.Sprintf("%s/%d", u.Drop, u.Serial)]
		switch {
		case u.State == leased:
			broken("unit %d of drop %s is still leased", u.Serial, u.Drop)
		case u.State == sold && (p == nil || p.Token != u.Token):
			broken("unit %d of drop %s is sold, and no delivered purchase has it", u.Serial, u.Drop)
		case u.State == free && p != nil:
			broken("unit %d of drop %s is free, and purchase %s has it", u.Serial, u.Drop, p.ID)
		case u.State < free || u.State > sold:
			broken("unit %d of drop %s is in state %d", u.Serial, u.Drop, u.State)
		}
	}
	for _, l := range e.Leases {
		if l.Quarantined && l.State != closedLease {
			broken("lease %s is quarantined and not closed", l.ID)
		}
	}
	for id, i := range x.drops {
		if count[id] != e.Config.Drops[i].Units {
			broken("drop %s has %d units, %d were created", id, count[id], e.Config.Drops[i].Units)
		}
	}
}

func epochsAreFenced(e *Evidence, x *index, broken func(string, ...any)) {
	leases, epochs := map[string]Lease{}, map[string]int64{} // by id; by node
	for _, l := range e.Leases {
		leases[l.ID] = l
		if l.Epoch == 0 { // frozen, and nobody's
			continue
		}
		if l.Epoch < epochs[l.Node] {
			broken("lease %s was granted under epoch %d to node %s, after one of epoch %d", l.ID, l.Epoch, l.Node, epochs[l.Node])
		}
		epochs[l.Node] = max(epochs[l.Node], l.Epoch)
	}
	sealed := map[string]bool{} // node and epoch
	for _, j := range e.Journals {
		sealed[fmt.Sprintf("%s/%d", j.Node, j.Sealed)] = true
	}
	for _, p := range e.Purchases {
		if end, given := e.Tombstones[p.Lease]; given && p.State == saga.Delivered && p.Arrived > end+2*maxSkew {
			broken("purchase %s has unit %d of lease %s, which was given up before it came", p.ID, p.Serial, p.Lease)
		}
	}
	for _, l := range e.Leases {
		if sealed[fmt.Sprintf("%s/%d", l.Node, l.Epoch)] { // nothing more can come
			continue
		}
		d := e.Config.Drops[x.drops[l.Drop]]
		if end, given := e.Tombstones[l.ID]; given && end < d.Opens+d.Lasts+tokenTTL-maxSkew {
			broken("lease %s was given up after %v, while a fenced node could sell from it", l.ID, end)
		}
	}
	for _, c := range e.Candidates {
		r, genuine := x.receipts[c.Receipt]
		l, known := leases[c.Lease]
		if !known && e.restored("fulfillment") { // lost with the store, and with the disk that held it
			continue
		}
		if genuine && c.Settled != 0 && (r.epoch != l.Epoch || r.nodeID != l.Node || !slices.Contains(l.Serials, c.Serial)) {
			broken("a redemption of epoch %d of node %s settled unit %d of lease %s, of epoch %d of node %s", r.epoch, r.nodeID, c.Serial, l.ID, l.Epoch, l.Node)
		}
	}
}

func serialsUsedOnce(e *Evidence, x *index, broken func(string, ...any)) {
	for _, j := range e.Journals {
		units := map[string]string{} // lease and serial to what the journal last said of it
		var last []byte
		step := func(entry Entry, lease string, serial uint32, from, to string) {
			unit := fmt.Sprintf("unit %d of lease %s", serial, lease)
			if units[unit] != from {
				broken("%s, record %d: %s is %s after it was %q", j.Host, entry.Sequence, unit, to, units[unit])
			}
			units[unit] = to
		}
		for _, entry := range j.Entries {
			switch entry.Kind {
			case "leased":
				for _, serial := range entry.Serials {
					if unit := fmt.Sprintf("unit %d of lease %s", serial, entry.Lease); units[unit] == "" { // a lost answer's lease comes twice
						units[unit] = "leased"
					}
				}
			case "returned":
				for _, serial := range entry.Serials {
					step(entry, entry.Lease, serial, "leased", "returned")
				}
			case "redeemed":
				r, genuine := x.receipts[entry.Receipt]
				if !genuine {
					continue // I3 tells
				}
				step(entry, r.lease, r.serial, "leased", "used")
				if !bytes.Equal(last, r.previous) {
					broken("%s, record %d: the receipt does not follow the one before it", j.Host, entry.Sequence)
				}
				hash := sha256.Sum256([]byte(entry.Receipt))
				last = hash[:]
			}
		}
	}
}

// resale is how long a unit that comes back needs to find another buyer: the release, a heartbeat and a grant.
const resale = 5 * time.Second

// fewBuyers is how many willing viewers must still come for a unit that came back to count as wanted: that many times
// over was the whole stock.
const fewBuyers = 3

func stockSells(e *Evidence, x *index, broken func(string, ...any)) {
	for id, i := range x.drops {
		if !e.sellsOut(i) {
			continue
		}
		d := e.Config.Drops[i]
		unsold := 0
		for _, u := range e.Units {
			if u.Drop == id && u.State != sold && !e.excused(i, u) {
				unsold++
			}
		}
		if unsold*100 > d.Units {
			broken("%d of %d units of drop %q stayed unsold with %d willing buyers", unsold, d.Units, d.Title, len(e.Willing[i]))
		}
	}
}

// sellsOut tells drops that I14 is about: three times as many willing buyers as units, and nothing worse than
// partitions and dead nodes.
func (e *Evidence) sellsOut(drop int) bool {
	for _, f := range append(slices.Clone(e.Config.Schedule), e.Config.drawMix(0, time.Minute)...) {
		node := slices.Contains(e.Config.Regions, f.Host)
		if !(f.Kind == Cut || f.Kind == Replace || f.Kind == Swizzle && node || f.downs() && node) {
			return false
		}
	}
	return len(e.Willing[drop]) >= 3*e.Config.Drops[drop].Units
}

// excused tells unsold units that were not the platform's to sell: that came back from a buyer who did not pay when
// hardly anybody came any more, or that a node holds which is dead or cut off.
func (e *Evidence) excused(drop int, u Unit) bool {
	d := e.Config.Drops[drop]
	end, later := d.Opens+d.Lasts, 0
	for _, at := range e.Willing[drop] {
		if at > u.Released+resale && at < end-resale {
			later++
		}
	}
	return u.Released > 0 && later < fewBuyers || e.heldByTheDead(end)[fmt.Sprintf("%s/%d", u.Drop, u.Serial)]
}

// heldByTheDead are units, as "drop/serial", that nodes gave back unsold which were down, or cut off from fulfillment, in
// the last moments before an instant. A journal has no times: what such a node gave back earlier counts too, and was for
// others to sell.
func (e *Evidence) heldByTheDead(at time.Duration) map[string]bool {
	held := map[string]bool{}
	for _, l := range e.Leases {
		for _, serial := range l.Serials {
			if l.Quarantined {
				held[fmt.Sprintf("%s/%d", l.Drop, serial)] = true
			}
		}
	}
	for _, j := range e.Journals {
		down := slices.ContainsFunc(e.Downs, func(d Down) bool {
			return d.Host == j.Host && d.From < at && d.To > at-resale
		})
		cut := slices.ContainsFunc(e.Config.Schedule, func(f Fault) bool {
			between := f.Kind == Cut && (f.Host == j.Host && f.To == "fulfillment" || f.Host == "fulfillment" && f.To == j.Host)
			return (between || f.Kind == Swizzle && f.Host == j.Host) && f.At < at && f.At+f.For > at-resale
		})
		if !down && !cut {
			continue
		}
		drops := map[string]string{} // by lease
		for _, entry := range j.Entries {
			switch entry.Kind {
			case "leased":
				drops[entry.Lease] = entry.Drop
			case "returned":
				for _, serial := range entry.Serials {
					held[fmt.Sprintf("%s/%d", drops[entry.Lease], serial)] = true
				}
			}
		}
	}
	return held
}
