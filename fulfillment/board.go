package fulfillment

import (
	"sync"
	"time"

	"github.com/rimlight/rimlight/fulfillment/stock"
)

// reportLife is how long a node's last heartbeat counts in recalls: three of the fastest. A node that is cut off is
// neither asked to give back nor waited for.
const reportLife = 3 * time.Second

// board holds what each node said in its last heartbeat. It is soft: after a restart it fills again within one heartbeat,
// and an empty board recalls nothing. The zero value is ready.
type board struct {
	mu    sync.Mutex // guards nodes
	nodes map[string]nodeReport
}

type nodeReport struct {
	at        time.Time
	untouched map[string]int  // by drop id
	hungry    map[string]bool // by drop id
}

// report replaces what nodeID said before and forgets the nodes that fell silent.
func (b *board) report(nodeID string, r nodeReport) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.nodes == nil {
		b.nodes = map[string]nodeReport{}
	}
	b.nodes[nodeID] = r
	for id, old := range b.nodes {
		if r.at.Sub(old.at) > reportLife {
			delete(b.nodes, id)
		}
	}
}

// of lists what is known about one drop.
func (b *board) of(dropID string) []stock.Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	reports := make([]stock.Report, 0, len(b.nodes))
	for id, r := range b.nodes {
		if n, hungry := r.untouched[dropID], r.hungry[dropID]; n > 0 || hungry {
			reports = append(reports, stock.Report{NodeID: id, Untouched: n, Hungry: hungry})
		}
	}
	return reports
}
