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
// W = max(0, Q+1-c) * S/c behind Q calls at a node that works on c at once. What is compared is the expected time
// E = s*L + (1-s)*(L + retry), which charges a node for the share 1-s of its calls that fail and must go elsewhere.
//
// The package also holds the estimators that make those terms out of samples, for router/measure. It measures nothing, keeps no clock and
// knows no protocol. Hedging, load spilling and warm-up ramps are not built.
package arbiter

import "time"

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
	Stock map[string]Stock // by drop

	Reachable bool          // probes and calls reach it; false until the first answer
	Network   time.Duration // n: there and back, smoothed; 0 while it was never measured
	Deviation time.Duration // d: mean deviation of n
	Service   time.Duration // S: one call's work without queueing

	Parallelism uint32  // c: calls worked on at once; 0 when unknown, then no wait is predicted
	InFlight    uint32  // Q: calls inside by the last report, plus those sent since
	SuccessRate float64 // s: share of the last calls that it answered, 0 to 1
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
}

// Reason is why a candidate could not be chosen.
type Reason uint8

// The reasons, in the order in which they are looked for.
const (
	Eligible Reason = iota
	Residency
	NoStock
	Draining
	Unreachable
	Tried
)

// String is the reason in the words of the API.
func (r Reason) String() string {
	return [...]string{"eligible", "residency", "no_stock", "draining", "unreachable", "tried"}[r]
}

// Regime is the rule under which a choice was made.
type Regime uint8

// The regimes.
const (
	Normal       Regime = iota // the lowest expected time
	Preferred                  // the region that the caller named, for a read
	Panic                      // nothing passed but for stock or reachability: the best of those
	LateExpected               // nothing fits the budget: the best, late as expected
	None                       // nothing could be chosen
)

// String is the regime in the words of the API.
func (r Regime) String() string {
	return [...]string{"normal", "preferred", "panic", "late_expected", "none"}[r]
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
	Expected time.Duration // E; of a filtered candidate, what it would be
}

// Explanation is a choice with everything that went into it.
type Explanation struct {
	Choice
	Candidates []Candidate // in the snapshot's order
	Sentence   string      // for people, with the numbers that decided
}
