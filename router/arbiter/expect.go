package arbiter

import (
	"math"
	"time"
)

const (
	// unmeasured stands in for the network time of a node that never answered: a zero would win every pick.
	unmeasured = 400 * time.Millisecond

	// suspicion is what an overdue answer adds: more than any ocean, so that a suspect is asked only if all are.
	suspicion = 400 * time.Millisecond

	// longest bounds every term, so that absurd reports cannot overflow the arithmetic.
	longest = time.Hour

	// mostUtilisation bounds rho against absurd reports.
	mostUtilisation = 1000

	// retryWeight is how often the second attempt counts: its caller waits for it, and it takes another call's place at
	// a node that did nothing wrong. Counted once, a node that fails in 0.2 ms ties with the healthy one behind it.
	retryWeight = 2
)

// predict is L = n + S + W, and more for a suspect.
//
// The wait counts once. Counting it up to six times near saturation, as an all-knowing balancer should, makes routers
// that all read reports a round trip old leave a node together and come back together: at 90 % load 33 % of the calls
// were late that way, and with a toll of 1.25 alone twice as many as without in a flash crowd (rimlight sim, S1 and S2).
func predict(g *Region) time.Duration {
	l := network(g) + clamp(g.Service) + wait(g)
	if g.Suspect {
		l += suspicion
	}
	return l
}

func network(g *Region) time.Duration {
	n := clamp(g.Network)
	if n == 0 && !g.Reachable {
		n = unmeasured
	}
	return n
}

// wait is W: what a call waits behind the Q inside when c of them are worked on at once.
func wait(g *Region) time.Duration {
	if g.Parallelism == 0 || g.InFlight < g.Parallelism {
		return 0
	}
	q, c := float64(g.InFlight), float64(g.Parallelism)
	return time.Duration(math.Min((q+1-c)*float64(clamp(g.Service))/c, float64(longest)))
}

// expect fills in E for every node: a failure costs the time until it shows and the retry at the best of the others.
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
		l := scores[i].predicted
		scores[i].expected = l
		g := s.Regions[i]
		if g.SuccessRate >= 1 {
			continue
		}
		elsewhere := first
		if i == first {
			elsewhere = second
		}
		if elsewhere < 0 {
			elsewhere = i
		}
		fails := max(clamp(g.FailureTime), l) // a failure never counts as quicker than an answer
		costs := float64(fails-l) + retryWeight*float64(scores[elsewhere].predicted)
		scores[i].expected += time.Duration((1 - rate(g.SuccessRate)) * costs)
	}
}

// Utilisation is the share of the whole platform's capacity that is taken: of the nodes that answer and serve, weighted
// by what each can do. 0 when nobody tells.
func (s *Snapshot) Utilisation() float64 {
	var arriving, capacity float64
	for _, g := range s.Regions {
		if g.Reachable && g.Mode == Serving {
			arriving += g.Utilisation() * float64(g.Parallelism)
			capacity += float64(g.Parallelism)
		}
	}
	if capacity == 0 {
		return 0
	}
	return arriving / capacity
}

func clamp(d time.Duration) time.Duration { return min(max(d, 0), longest) }

func rate(s float64) float64 {
	if !(s >= 0) { // also NaN
		return 0
	}
	return math.Min(s, 1)
}
