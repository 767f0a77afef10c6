package arbiter

import (
	"math"
	"slices"
	"time"
)

const (
	// retryCost is what a failed attempt costs on top of asking elsewhere: half of the 200 ms that an interaction may
	// take, and the call's only retry. Without it a node that fails in 0.2 ms ties with the healthy one behind it.
	retryCost = 100 * time.Millisecond

	// unmeasured stands in for the network time of a node that never answered: a zero would win every pick.
	unmeasured = 400 * time.Millisecond

	// longest bounds every term, so that absurd reports cannot overflow the arithmetic.
	longest = time.Hour

	// Expected times this close to the best count as equal; an ocean is never traded for a tie.
	tieFloor = 2 * time.Millisecond
	tieShare = 0.05

	// The softness of the draw among equals: exp(-(E-best)/T).
	temperatureFloor = time.Millisecond
	temperatureShare = 0.04

	// onStack is how many nodes Pick scores without allocating.
	onStack = 128
)

// A candidate's tier: how much has to be given up to choose it. The lowest one that has anybody wins.
type tier uint8

const (
	passes      tier = iota
	withoutUnit      // soft: it answers, if only to say that it has none
	outOfReach       // soft: perhaps it is back
	never            // residency, draining and tried are not given up
)

// score is what one scan over the nodes finds of each.
type score struct {
	tier      tier
	in        bool
	predicted time.Duration // L
	expected  time.Duration // E
}

// Pick chooses a node. The draw in [0,1) breaks near ties. It allocates nothing up to 128 nodes.
func Pick(s *Snapshot, r Request, draw float64) Choice {
	var stack [onStack]score
	scores := stack[:0]
	if len(s.Regions) > onStack {
		scores = make([]score, 0, len(s.Regions))
	}
	return pick(s, &r, draw, scores)
}

func pick(s *Snapshot, r *Request, draw float64, scores []score) Choice {
	best := never
	for _, g := range s.Regions {
		_, t := judge(g, r)
		best = min(best, t)
		scores = append(scores, score{tier: t, predicted: predict(g)})
	}
	if best == never {
		return Choice{Regime: None}
	}
	others := -1
	for i := range scores {
		if scores[i].tier == best {
			scores[i].in = true
			others++
		}
	}
	expect(s, scores)

	regime := Normal
	fits := func(i int) bool { return scores[i].expected+2*clamp(s.Regions[i].Deviation) <= r.Budget }
	prefers := func(i int) bool { return s.Regions[i].Name == r.Preferred }
	switch {
	case r.Budget > 0 && !narrow(scores, fits):
		regime = LateExpected
	case r.Kind == Read && r.Preferred != "" && narrow(scores, prefers):
		regime = Preferred
	}
	if best != passes {
		regime = Panic
	}
	i := drawAmongBest(scores, draw)
	return Choice{Region: s.Regions[i], Regime: regime, Expected: scores[i].expected, Others: others}
}

// judge says which filter a node fails first, and what choosing it anyway would give up.
func judge(g *Region, r *Request) (Reason, tier) {
	reason, t := Eligible, passes
	fail := func(why Reason, gives tier) {
		if reason == Eligible {
			reason = why
		}
		t = max(t, gives)
	}
	if len(r.Zones) > 0 && !overlap(g.Zones, r.Zones) {
		fail(Residency, never)
	}
	if (r.Kind == Offer || r.Kind == Redeem) && r.Drop != "" && g.Stock[r.Drop] == StockNone {
		fail(NoStock, withoutUnit)
	}
	if g.Mode == Drained || g.Mode == Cordoned && (r.Kind == Offer || r.Kind == Other) {
		fail(Draining, never)
	}
	if !g.Reachable {
		fail(Unreachable, outOfReach)
	}
	if slices.Contains(r.Tried, g.Key) {
		fail(Tried, never)
	}
	return reason, t
}

func overlap(a, b []string) bool {
	for _, x := range a {
		if slices.Contains(b, x) {
			return true
		}
	}
	return false
}

// predict is L = n + S + W.
func predict(g *Region) time.Duration {
	n := clamp(g.Network)
	if n == 0 && !g.Reachable {
		n = unmeasured
	}
	return n + clamp(g.Service) + wait(g)
}

// wait is W: what a call waits behind the Q inside when c of them are worked on at once.
func wait(g *Region) time.Duration {
	if g.Parallelism == 0 {
		return 0
	}
	q, c := float64(g.InFlight), float64(g.Parallelism)
	w := math.Max(0, q+1-c) * float64(clamp(g.Service)) / c
	return time.Duration(math.Min(w, float64(longest)))
}

// expect fills in E for every node: a failure costs the retry, which goes to the best of the others.
func expect(s *Snapshot, scores []score) {
	first, second := -1, -1
	for i := range scores {
		switch {
		case !scores[i].in:
		case first < 0 || scores[i].predicted < scores[first].predicted:
			first, second = i, first
		case second < 0 || scores[i].predicted < scores[second].predicted:
			second = i
		}
	}
	for i := range scores {
		elsewhere := first
		if i == first {
			elsewhere = second
		}
		if elsewhere < 0 {
			elsewhere = i
		}
		failing := 1 - rate(s.Regions[i].SuccessRate)
		retry := float64(retryCost + scores[elsewhere].predicted)
		scores[i].expected = scores[i].predicted + time.Duration(failing*retry)
	}
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
	weight := func(i int) float64 { return math.Exp(-float64(scores[i].expected-lowest) / softness) }

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

func clamp(d time.Duration) time.Duration { return min(max(d, 0), longest) }

func rate(s float64) float64 {
	if !(s >= 0) { // also NaN
		return 0
	}
	return math.Min(s, 1)
}
