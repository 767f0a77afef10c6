package arbiter

import (
	"math"
	"slices"
	"time"
)

const (
	// Expected times this close to the best count as equal; an ocean is never traded for a tie.
	// Wider ties send more calls further than they must: at 30 % and 15 % a flash crowd had a third more late ones.
	tieFloor = 2 * time.Millisecond
	tieShare = 0.05

	// The softness of the draw among equals: exp(-(E-best)/T).
	temperatureFloor = time.Millisecond
	temperatureShare = 0.04

	// fullFrom is the platform's utilisation above which a call gets one attempt: a second one only takes another call's
	// place, and crosses an ocean for it. Without this, 39 % of the calls were late or shed at 1.3 times the capacity; with
	// it 24 %, of which 23 are physics.
	fullFrom = 1

	// hedgeBelow is the utilisation that a node must be under to get second copies of calls.
	hedgeBelow = 0.8

	// Pick scores up to onStack nodes without touching a large stack frame, up to onLargeStack without allocating.
	onStack      = 64
	onLargeStack = 1024
)

// A candidate's tier: how much has to be given up to choose it. The lowest one that has anybody wins.
type tier uint8

const (
	passes      tier = iota
	failing          // soft: it is ejected, but it answers some calls
	withoutUnit      // soft: it answers, if only to say that it has none
	outOfReach       // soft: perhaps it is back
	never            // the other filters are not given up
)

// score is what one scan over the nodes finds of each.
type score struct {
	tier      tier
	in        bool
	wait      time.Duration // W
	predicted time.Duration // L
	toll      time.Duration
	expected  time.Duration // E
}

// Pick chooses a node. The draw in [0,1) breaks near ties, and decides whether a node that warms up or is nearly full
// gets this call. It allocates nothing up to 1,024 nodes.
func Pick(s *Snapshot, r Request, draw float64) Choice {
	switch n := len(s.Regions); {
	case n <= onStack:
		var scores [onStack]score
		return pick(s, &r, draw, scores[:n])
	case n <= onLargeStack:
		return pickLarge(s, &r, draw)
	default:
		return pick(s, &r, draw, make([]score, n))
	}
}

//go:noinline
func pickLarge(s *Snapshot, r *Request, draw float64) Choice {
	var scores [onLargeStack]score
	return pick(s, r, draw, scores[:len(s.Regions)])
}

// pick fills in the scores, one per node.
func pick(s *Snapshot, r *Request, draw float64, scores []score) Choice {
	best, passing, ejected := never, 0, 0
	odd := false // any is suspect or warms up
	full := s.full(r)
	for i, g := range s.Regions {
		_, t := judge(g, r, full)
		w := wait(g)
		scores[i] = score{tier: t, wait: w, predicted: predict(g, w), toll: toll(g, w)}
		best = min(best, t)
		odd = odd || g.Suspect || g.Held > 0
		switch t {
		case passes:
			passing++
		case failing:
			ejected++
		}
	}
	if best == never || r.Hedging != "" && best != passes {
		return Choice{Regime: None}
	}
	// Most of the platform failing at once is rather our own doing, or overload that ejecting makes worse: use all.
	distrust := best == passes && ejected > passing && r.Hedging == ""
	others := -1
	for i := range scores {
		scores[i].in = scores[i].tier == best || distrust && scores[i].tier == failing
		if scores[i].in {
			others++
		}
	}
	expect(s, scores)

	i, regime := choose(s, r, draw, scores, odd)
	switch {
	case i < 0:
		return Choice{Regime: None}
	case best == outOfReach && s.Regions[i].Saved:
		regime = Cold
	case best != passes || distrust:
		regime = Panic
	}
	return Choice{Region: s.Regions[i], Regime: regime, Expected: scores[i].expected, Others: others}
}

// choose decides among those that are in; -1: nobody will do.
func choose(s *Snapshot, r *Request, draw float64, scores []score, odd bool) (int, Regime) {
	fits := func(i int) bool {
		return scores[i].expected-scores[i].toll+2*clamp(s.Regions[i].Deviation) <= r.Budget
	}
	prefers := func(i int) bool { return s.Regions[i].Name == r.Preferred && !s.Regions[i].Suspect }
	switch late := r.Budget > 0 && !narrow(scores, fits); {
	case late && r.Hedging != "":
		return -1, None
	case late:
		return drawAmongBest(scores, draw), LateExpected
	case r.Hedging != "":
		return drawAmongBest(scores, draw), Hedge
	case r.Kind == Read && r.Preferred != "" && narrow(scores, prefers):
		return drawAmongBest(scores, draw), Preferred
	}
	if odd {
		warm := another(draw, 1)
		narrow(scores, func(i int) bool { return !(warm < s.Regions[i].Held) })
	}

	i := drawAmongBest(scores, draw)
	if spilled(s, scores, i) {
		return i, Spill
	}
	if odd && !s.Regions[i].Suspect && shunned(s, scores, scores[i].expected) {
		return i, Suspected
	}
	return i, Normal
}

// spilled tells whether another one would have been chosen but for its queue.
func spilled(s *Snapshot, scores []score, chosen int) bool {
	for i := range scores {
		if w := scores[i].wait; w > 0 && scores[i].in && scores[i].expected > scores[chosen].expected &&
			scores[i].expected-tollRate*w < scores[chosen].expected {
			return true
		}
	}
	return false
}

// shunned tells whether a suspect would have been better than the choice but for the suspicion.
func shunned(s *Snapshot, scores []score, chosen time.Duration) bool {
	for i := range scores {
		if scores[i].tier == passes && s.Regions[i].Suspect && scores[i].expected-suspicion < chosen {
			return true
		}
	}
	return false
}

// judge says which filter a node fails first, and what choosing it anyway would give up.
func judge(g *Region, r *Request, full bool) (Reason, tier) {
	reason, t := Eligible, passes
	if len(r.Zones) > 0 && !overlap(g.Zones, r.Zones) {
		return Residency, never
	}
	if (r.Kind == Offer || r.Kind == Redeem) && r.Drop != "" && g.Stock[r.Drop] == StockNone {
		reason, t = NoStock, withoutUnit
	}
	if g.Mode == Drained || g.Mode == Cordoned && (r.Kind == Offer || r.Kind == Other) {
		return first(reason, Draining), never
	}
	if g.Full && r.Kind != Read {
		return first(reason, JournalFull), never
	}
	if !g.Reachable {
		reason, t = first(reason, Unreachable), outOfReach
	}
	if g.Ejected {
		reason, t = first(reason, Ejected), max(t, failing)
	}
	if len(r.Tried) > 0 && slices.Contains(r.Tried, g.Key) {
		return first(reason, Tried), never
	}
	if r.Budget > 0 && g.Floor > r.Budget {
		return first(reason, TooFar), never
	}
	if full {
		return first(reason, Loaded), never
	}
	if r.Hedging != "" {
		switch {
		case g.Name == r.Hedging:
			return first(reason, Tried), never
		case g.Suspect || g.Held > 0 || g.Utilisation() >= hedgeBelow:
			return first(reason, Loaded), never
		}
	}
	return reason, t
}

// full tells whether the platform has no room for a second attempt at this call. A purchase is worth one.
func (s *Snapshot) full(r *Request) bool {
	return len(r.Tried) > 0 && r.Kind != Redeem && s.Utilisation() > fullFrom
}

func first(found, next Reason) Reason {
	if found != Eligible {
		return found
	}
	return next
}

func overlap(a, b []string) bool {
	for _, x := range a {
		if slices.Contains(b, x) {
			return true
		}
	}
	return false
}

// narrow keeps those that the rule keeps, and changes nothing when it would keep nobody.
func narrow(scores []score, keep func(int) bool) bool {
	found := false
	for i := range scores {
		if scores[i].in && keep(i) {
			found = true
			break
		}
	}
	if found {
		for i := range scores {
			scores[i].in = scores[i].in && keep(i)
		}
	}
	return found
}

// drawAmongBest draws among the near ties of the lowest expected time, the better the likelier. At least one is in.
func drawAmongBest(scores []score, draw float64) int {
	best := -1
	for i := range scores {
		if scores[i].in && (best < 0 || scores[i].expected < scores[best].expected) {
			best = i
		}
	}
	lowest := scores[best].expected
	limit := lowest + max(tieFloor, time.Duration(tieShare*float64(lowest)))
	softness := math.Max(float64(temperatureFloor), temperatureShare*float64(lowest))
	weight := func(i int) float64 {
		if scores[i].expected == lowest {
			return 1
		}
		return math.Exp(-float64(scores[i].expected-lowest) / softness)
	}

	total := 0.0
	for i := range scores {
		if scores[i].in && scores[i].expected <= limit {
			total += weight(i)
		}
	}
	rest := draw * total
	for i := range scores {
		if scores[i].in && scores[i].expected <= limit {
			if rest -= weight(i); rest < 0 {
				return i
			}
		}
	}
	return best // a draw of 1 or rounding
}

// another makes a further draw in [0,1) out of a choice's only one, so that one number replays all of it. The mixing is
// SplitMix64's (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
func another(draw float64, nth uint64) float64 {
	x := math.Float64bits(draw) + nth*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return float64((x^x>>31)>>11) / (1 << 53)
}
