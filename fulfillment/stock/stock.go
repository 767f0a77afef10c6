// Package stock decides how much of a drop's free stock a node is lent, and what a rich node is asked to give back.
//
//	free ──Size──> leases of nodes ──Recall──> free ──Size──> the node that starves
//
// Lend too much and a dead node, or one without viewers, sits on units that others would sell; lend too little and every
// sale waits for the centre. docs/settlement.md 2.2 has the figures: everything at the start lost 25 % of the stock with
// one of four nodes dead, free/32 (a 1/8 of a fair share of four) lost 4 %.
//
// It is pure: no ids, no store, no clock. A recall is a wish; nothing here takes a unit from anybody.
package stock

// shareOfFairShare: a lease is 1/8 of what each node would get if all that is free were shared out at once.
const shareOfFairShare = 8

// Size is how many units a node that wants wanted is lent when free units are free and nodes nodes are alive: free/(8 x
// nodes), single units below 2 x nodes free so that the last ones go where they sell, at least 1 while anything is
// free, never more than wanted. Fewer than one node counts as one.
func Size(free, wanted, nodes int) int {
	nodes = max(nodes, 1)
	if free <= 0 || wanted <= 0 {
		return 0
	}
	if free < 2*nodes {
		return 1
	}
	return min(max(free/(shareOfFairShare*nodes), 1), wanted)
}

// Enough is a number of free units from which on Size gives everything that is wanted: counting further is of no use.
func Enough(wanted, nodes int) int { return shareOfFairShare * max(nodes, 1) * max(wanted, 1) }

// Report is what one node last said about one drop.
type Report struct {
	// NodeID orders nodes that are equally rich.
	NodeID string
	// Untouched units: lent to it, not sold, not on their way back.
	Untouched int
	// Hungry: it would sell one if it had one. It says nothing about viewers: an idle node is hungry, too.
	Hungry bool
	// Idle: its untouched units have not changed for a while, so nobody seems to want them here.
	Idle bool
}

// starving: it would sell and has nothing to sell.
func (r Report) starving() bool { return r.Hungry && r.Untouched == 0 }

// surplus is what it can spare. A node that sells, or that was lent its last unit just now, keeps it: else two empty
// nodes would pass one unit to and fro faster than a viewer can take it. An idle node spares its last, which goes round
// slowly until it meets a viewer.
func (r Report) surplus() int {
	if r.Idle {
		return r.Untouched
	}
	return r.Untouched - 1
}

// Recall is how many untouched units node nodeID is asked to give back when nothing of the drop is free. Only the
// richest node is asked, for half its surplus rounded up, and only while somebody starves: repeated at every heartbeat
// this empties idle nodes to their last unit in a few steps, without taking from a node more than the starving need
// while they need it.
func Recall(nodeID string, reports []Report) int {
	var richest Report
	starving := false
	for _, r := range reports {
		starving = starving || r.starving()
		if r.surplus() > richest.surplus() || r.surplus() == richest.surplus() && r.surplus() > 0 && r.NodeID < richest.NodeID {
			richest = r
		}
	}
	if !starving || richest.NodeID != nodeID || richest.surplus() <= 0 {
		return 0
	}
	return (richest.surplus() + 1) / 2
}
