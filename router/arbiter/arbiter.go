// Package arbiter chooses the region node that will answer a call soonest, and says why.
//
//	Snapshot (what is measured) --+
//	Request  (what is asked)    --+--> Pick --> Choice (which node, under which regime)
//	draw in [0,1)               --+     |
//	                                    +--> Explain: the same choice, with every candidate's terms
//
// Everything is a function of its arguments: the same snapshot, request and draw give the same choice, so a kept
// decision is explained by replaying it. Pick scans all nodes: there are few of them and they are oceans apart, so a
// random sample of two would often miss the near one.
//
// The predicted time to an answer is L = n + S + W: network n there and back, service S, and the wait
// W = max(0, Q+1-c) * S/c behind Q calls at a node that works on c at once, where own calls that no report knows yet
// count twice: other routers send, too. A suspect node's L is 400 ms longer. A node's
// crowd costs a toll: W once more, for those who come later, and 3*sqrt(A*n)*S/c, three deviations of what arrives
// unseen within a round trip at A calls per second. With L' = L + toll, what is compared is the expected cost
// E = L' + (1-s)*(max(0, f-L) + 2*min L' of the others), which charges a node for the share 1-s of its calls that fail
// after f and must go elsewhere.
//
// A Node keeps those terms for one region node: it is fed with calls, answers and probes, and turned into a row of a
// snapshot. The package measures nothing, keeps no clock, probes nobody and knows no protocol: router/measure does.
package arbiter

import (
	"time"
)

// Mode is what an operator wants of a node.
type Mode uint8

// The modes, from open to closed.
const (
	Serving  Mode = iota // everything
	Cordoned             // no new offers; redemptions and reads
	Drained              // nothing
)

// Stock is what is known of one drop's units at a node.
type Stock uint8

// Absence from a map reads as StockUnknown, which is no reason to stay away.
const (
	StockUnknown Stock = iota
	StockNone
	StockHeld
)

// Kind is what a call needs of a node.
type Kind uint8

// The kinds.
const (
	Other  Kind = iota // of a service that the platform knows nothing about: a serving node
	Offer              // a price, or a purchase in one step: a serving node with stock
	Redeem             // a purchase by token: stock, and a node that is not drained
	Read               // a purchase, the drops, the keys: a node that is not drained
)

// Region is one node of a region as last measured. Immutable once it is in a Snapshot.
type Region struct {
	Key    string // names the node to the caller; unique in a snapshot
	Name   string // the region
	NodeID string // the node; may be empty for a backend that has none

	Zones []string         // residency zones that it is in
	Mode  Mode             // what an operator wants of it
	Full  bool             // its disk is full: it takes nothing new, and answers for what it took
	Stock map[string]Stock // by drop

	Reachable bool          // probes and calls reach it; false until the first answer
	Saved     bool          // what is known is of a former life or another router; nothing was measured yet
	Ejected   bool          // its calls fail although it answers
	Suspect   bool          // an answer is overdue and nothing newer came
	Held      float64       // share of the calls that it is not given yet while it warms up, 0 to 1; 0: none
	Network   time.Duration // n: there and back, smoothed; 0 while it was never measured
	Deviation time.Duration // d: mean deviation of n
	Floor     time.Duration // lowest n of the last ten minutes; 0 while unknown
	Service   time.Duration // S: one call's work without queueing

	Parallelism uint32        // c: calls worked on at once; 0 when unknown, then no wait is predicted
	InFlight    uint32        // calls inside by the last report, plus those sent since
	Unseen      uint32        // those of them that the last report cannot know
	Arrivals    float64       // calls per second that reach it, from all routers, by its own word
	SuccessRate float64       // s: share of the last calls that it answered, 0 to 1
	FailureTime time.Duration // f: how long it takes to fail; less than L counts as L
}

// Utilisation is rho, the share of its capacity that a node's arrivals take: above 1 its queue grows without end. 0 when
// it is unknown.
func (g *Region) Utilisation() float64 {
	if g.Parallelism == 0 || !(g.Arrivals > 0) {
		return 0
	}
	return min(g.Arrivals*clamp(g.Service).Seconds()/float64(g.Parallelism), mostUtilisation)
}

// Late is the predicted 99th percentile of a node's answer, with an exponential service: a viewer who waited so long
// should hedge. At the 95th percentile a calm platform spent its whole budget on hedges that lost (103 of 103), and had
// none left for a region that dies. A percentile that is learned hedges too late where it is needed: it learns the
// trouble (five times as many late calls with answers that get lost, rimlight sim, S3).
func (g *Region) Late() time.Duration {
	return network(g) + wait(g) + 2*clamp(g.Deviation) + 9*clamp(g.Service)/2
}

// Snapshot is everything that a choice looks at. Immutable.
type Snapshot struct {
	Version int64     // rises with every publication
	Time    time.Time // when it was published
	Regions []*Region // by Key
}

// Request is one call as the choice sees it.
type Request struct {
	Kind      Kind
	Drop      string        // empty: stock does not matter
	Zones     []string      // zones that may process the call; empty: any
	Preferred string        // the region that reads go to if it can serve
	Budget    time.Duration // time left to answer; 0: unlimited
	Tried     []string      // keys of nodes where this call was already
	Hedging   string        // the region whose answer is late: asks for a second one elsewhere; empty: no hedge
}

// Reason is why a candidate could not be chosen.
type Reason uint8

// The reasons, in the order in which they are looked for.
const (
	Eligible Reason = iota
	Residency
	NoStock
	Draining
	JournalFull
	Unreachable
	Ejected
	Tried
	TooFar // even its lowest network time is longer than what is left
	Loaded // too busy, suspect or warming up for a hedge; or the whole platform is too busy for second attempts
)

// String is the reason in the words of the API.
func (r Reason) String() string {
	return [...]string{
		"eligible", "residency", "no_stock", "draining", "journal_full", "unreachable", "ejected", "tried", "too_far", "loaded",
	}[r]
}

// Regime is the rule under which a choice was made.
type Regime uint8

// The regimes.
const (
	Normal       Regime = iota // the lowest expected time
	Preferred                  // the region that the caller named, for a read
	Panic                      // nothing passed every filter, or most are ejected: the best of those that fail a soft one
	LateExpected               // nothing fits the budget: the best, late as expected
	None                       // nothing could be chosen
	Spill                      // a nearer one has a queue that costs more than the way to this one
	Suspected                  // the best would be one whose answers are overdue: the next
	Hedge                      // a second answer from elsewhere, because the first is late
	Cold                       // chosen by what was saved or heard: nothing was measured yet

	Regimes // how many there are
)

// String is the regime in the words of the API.
func (r Regime) String() string {
	return [...]string{
		"normal", "preferred", "panic", "late_expected", "none", "spill", "suspect", "hedge", "cold",
	}[r]
}

// Choice is what Pick decided.
type Choice struct {
	Region   *Region       // nil in regime None
	Regime   Regime        // under which rule
	Expected time.Duration // E of the chosen node
	Others   int           // further nodes that passed as well: whether trying elsewhere makes sense
}

// Candidate is one node with the terms that were compared.
type Candidate struct {
	Region   *Region
	Reason   Reason
	Wait     time.Duration // W
	Load     float64       // rho; 0 when unknown
	Expected time.Duration // E; of a filtered candidate, what it would be
}

// Explanation is a choice with everything that went into it.
type Explanation struct {
	Choice
	Candidates []Candidate // in the snapshot's order
	Sentence   string      // for people, with the numbers that decided
}
