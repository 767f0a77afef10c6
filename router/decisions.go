package router

import (
	"sync"
	"time"

	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/forward"
)

// keptDecisions is how many decisions a router remembers: at 60 calls a minute an hour, in a flash crowd seconds.
const keptDecisions = 4096

// The window over which a node's share of the calls is told: 12 buckets of 5 s.
const (
	shareBuckets = 12
	shareWidth   = 5 * time.Second
)

// decisions is the ring of the last ones, and who won the calls of the last minute.
type decisions struct {
	base time.Time // of the steady clock

	mu   sync.Mutex
	ring []*forward.Decision // the decision number n is at n % keptDecisions
	byID map[string]int64    // number by id
	next int64               // number of the next one
	won  map[string]*arbiter.Window
	all  *arbiter.Window
}

func newDecisions() *decisions {
	return &decisions{
		base: time.Now(), byID: map[string]int64{}, won: map[string]*arbiter.Window{},
		all: arbiter.NewWindow(shareBuckets, shareWidth),
	}
}

func (d *decisions) add(decision *forward.Decision) {
	now := time.Since(d.base)
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.ring) < keptDecisions {
		d.ring = append(d.ring, decision)
	} else {
		slot := &d.ring[d.next%keptDecisions]
		delete(d.byID, (*slot).ID)
		*slot = decision
	}
	d.byID[decision.ID] = d.next
	d.next++

	d.all.Add(now, true)
	if n := len(decision.Attempts); n > 0 && decision.Attempts[n-1].Choice.Region != nil {
		key := decision.Attempts[n-1].Choice.Region.Key
		if d.won[key] == nil {
			d.won[key] = arbiter.NewWindow(shareBuckets, shareWidth)
		}
		d.won[key].Add(now, true)
	}
}

// find is the decision with an id; nil if it is not kept.
func (d *decisions) find(id string) *forward.Decision {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n, ok := d.byID[id]; ok {
		return d.ring[n%keptDecisions]
	}
	return nil
}

// list gives up to limit decisions that match, newest first, from number before downwards (negative: the newest), and
// the number to go on before; 0 when there are no more.
func (d *decisions) list(before int64, limit int, match func(*forward.Decision) bool) (found []*forward.Decision, more int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if before < 0 || before > d.next {
		before = d.next
	}
	oldest := max(0, d.next-keptDecisions)
	for n := before - 1; n >= oldest; n-- {
		if decision := d.ring[n%keptDecisions]; match(decision) {
			if len(found) == limit {
				return found, n + 1
			}
			found = append(found, decision)
		}
	}
	return found, 0
}

// lastMinute is how many calls there were.
func (d *decisions) lastMinute() int {
	now := time.Since(d.base)
	d.mu.Lock()
	defer d.mu.Unlock()
	_, all := d.all.Counts(now)
	return all
}

// shares tells which part of the last minute's calls each node answered, by key.
func (d *decisions) shares() map[string]float64 {
	now := time.Since(d.base)
	d.mu.Lock()
	defer d.mu.Unlock()
	shares := map[string]float64{}
	_, all := d.all.Counts(now)
	for key, w := range d.won {
		_, n := w.Counts(now)
		if n == 0 {
			delete(d.won, key) // so that nodes long gone are forgotten
			continue
		}
		shares[key] = float64(n) / float64(all)
	}
	return shares
}
