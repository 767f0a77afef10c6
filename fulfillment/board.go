package fulfillment

import (
	"sync"
	"time"

	"github.com/rimlight/rimlight/fulfillment/stock"
	"github.com/rimlight/rimlight/fulfillment/store"
)

// reportLife is how long a node's last heartbeat counts in recalls: three of the fastest. A node that is cut off is
// neither asked to give back nor waited for.
const reportLife = 3 * time.Second

// idleAfter is how long a node's units of a drop must lie untouched before its last one may be recalled: two heartbeats.
// At once, and the last units circle between empty nodes instead of being sold; much longer, and they outlast the drop.
const idleAfter = 2 * time.Second

// board holds what each node said in its last heartbeat. It is soft: after a restart it fills again within one heartbeat,
// and an empty board recalls nothing. The zero value is ready.
type board struct {
	mu    sync.Mutex // guards nodes
	nodes map[store.ID]nodeReport
}

type nodeReport struct {
	at        time.Time
	untouched map[store.ID]int  // by drop
	hungry    map[store.ID]bool // by drop

	since map[store.ID]time.Time // by drop: when untouched last changed; board keeps it
}

// report replaces what a node said before and forgets the nodes that fell silent.
func (b *board) report(node store.ID, r nodeReport) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.nodes == nil {
		b.nodes = map[store.ID]nodeReport{}
	}
	r.since = make(map[store.ID]time.Time, len(r.untouched))
	for drop, n := range r.untouched {
		r.since[drop] = r.at
		if before, ok := b.nodes[node]; ok && before.untouched[drop] == n {
			r.since[drop] = before.since[drop]
		}
	}
	b.nodes[node] = r
	for id, old := range b.nodes {
		if r.at.Sub(old.at) > reportLife {
			delete(b.nodes, id)
		}
	}
}

// of lists what is known about one drop.
func (b *board) of(drop store.ID) []stock.Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	reports := make([]stock.Report, 0, len(b.nodes))
	for id, r := range b.nodes {
		if n, hungry := r.untouched[drop], r.hungry[drop]; n > 0 || hungry {
			reports = append(reports, stock.Report{NodeID: id.String(), Untouched: n, Hungry: hungry, Idle: r.at.Sub(r.since[drop]) >= idleAfter})
		}
	}
	return reports
}
