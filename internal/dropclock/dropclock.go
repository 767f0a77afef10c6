// Package dropclock tells where a drop is in its life by the clock alone.
//
//	PLANNED ── Lead before open ──> ARMED ── open ──> OPEN ── close ──> DRAINING ── longest TTL + Grace ──> CLOSED
//
// Fulfillment and every node compute it from the same frozen terms, each on its own clock, so opening and closing need
// no message. Every interval holds its first instant and not its last.
//
// It knows neither PAUSED (an operator's word) nor SETTLED (the verifier's): those are facts that somebody stored, and
// whoever stored them lets them win over the clock.
package dropclock

import "time"

const (
	// Lead is how long before its opening a drop is ARMED: its terms are frozen and nodes fetch stock. Shorter than the
	// slowest heartbeat (5 s) and an idle node would open empty-handed.
	Lead = 10 * time.Second
	// Grace is G of docs/settlement.md: how far two clocks of the platform may differ before a token that one of them
	// still honours is refused by the other.
	Grace = 2 * time.Second
	// LongestBack and the quarter of MostBack are how much of a drop's window slow answers can give back at most: what a
	// show has planned next must not wait for longer, and a platform that is down for a minute needs an operator.
	LongestBack = 30 * time.Second
	shareBack   = 4
)

// MostBack is by how much a drop that was planned to be open for so long may close later because answers were slow.
func MostBack(planned time.Duration) time.Duration { return min(LongestBack, planned/shareBack) }

// State is a rimlight.offer.v1.DropState: the numbers are the same.
type State int

// The states, in the order of a drop's life.
const (
	Planned  State = 1
	Armed    State = 2
	Open     State = 3
	Paused   State = 4
	Draining State = 5
	Closed   State = 6
	Settled  State = 7
)

// StateAt is the state at now of a drop that is open in [openTime, closeTime) and whose longest-lived offer token is
// valid for longestTTL.
func StateAt(openTime, closeTime time.Time, longestTTL time.Duration, now time.Time) State {
	switch {
	case now.Before(openTime.Add(-Lead)):
		return Planned
	case now.Before(openTime):
		return Armed
	case now.Before(closeTime):
		return Open
	case now.Before(OverAt(closeTime, longestTTL)):
		return Draining
	default:
		return Closed
	}
}

// OverAt is the instant from which nothing of the drop can be redeemed any more: the last token was issued just before
// closeTime, lives for longestTTL, and is honoured for Grace more.
func OverAt(closeTime time.Time, longestTTL time.Duration) time.Time {
	return closeTime.Add(longestTTL + Grace)
}

var names = [...]string{Planned: "PLANNED", Armed: "ARMED", Open: "OPEN", Paused: "PAUSED", Draining: "DRAINING", Closed: "CLOSED", Settled: "SETTLED"}

// String is the name that people and error metadata see.
func (s State) String() string {
	if s < Planned || int(s) >= len(names) {
		return "UNKNOWN"
	}
	return names[s]
}

// Live tells whether units of the drop may be lent and sold.
func (s State) Live() bool { return s == Armed || s == Open || s == Draining }
