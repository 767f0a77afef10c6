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
		if o.State == int(fulfillmentv1.OrderState_ORDER_STATE_DELIVERED) {
			delivered[o.Drop]++
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
		if p := &e.Purchases[i]; p.State == saga.Delivered {
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
	for id, i := range x.drops {
		if count[id] != e.Config.Drops[i].Units {
			broken("drop %s has %d units, %d were created", id, count[id], e.Config.Drops[i].Units)
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
				broken("%s, record %d: %s is %s after it was %q", j.Region, entry.Sequence, unit, to, units[unit])
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
					broken("%s, record %d: the receipt does not follow the one before it", j.Region, entry.Sequence)
				}
				hash := sha256.Sum256([]byte(entry.Receipt))
				last = hash[:]
			}
		}
	}
}

// resale is how long a unit that comes back needs to find another buyer: the release, a heartbeat and a grant.
const resale = 5 * time.Second

func stockSells(e *Evidence, x *index, broken func(string, ...any)) {
	for id, i := range x.drops {
		d := e.Config.Drops[i]
		if e.WillingOfDrop[i] < 3*d.Units {
			continue
		}
		end, unsold, dead := d.Opens+d.Lasts, 0, e.heldByTheDead(d.Opens+d.Lasts)
		for _, u := range e.Units {
			// A unit that its buyer did not pay for, and that came back when nobody could ask any more, is not the
			// platform's to sell. Neither is what a dead node holds.
			if u.Drop == id && u.State != sold && u.Released < end-resale && !dead[fmt.Sprintf("%s/%d", id, u.Serial)] {
				unsold++
			}
		}
		if unsold*100 > d.Units {
			broken("%d of %d units of drop %q stayed unsold with %d willing buyers", unsold, d.Units, d.Title, e.WillingOfDrop[i])
		}
	}
}

// heldByTheDead are units, as "drop/serial", that nodes gave back unsold which were down in the last moments before an
// instant. A journal has no times: what such a node gave back earlier counts too, and was for others to sell.
func (e *Evidence) heldByTheDead(at time.Duration) map[string]bool {
	held := map[string]bool{}
	for _, j := range e.Journals {
		down := slices.ContainsFunc(e.Outages, func(o Outage) bool {
			return o.Host == j.Region && o.At < at && o.At+o.For > at-resale
		})
		if !down {
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
