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

	// tollRate is how often the wait counts. A constant: one that rises with utilisation multiplies that figure's noise,
	// and routers that all read it leave a node together and come back together. At 1 they join long queues: the
	// flash crowd's mean is 85 ms for 72. At 3 they leave too soon, over oceans: three times as many late calls.
	tollRate = 2

	// ownWeight is what an own call counts that the last report cannot know: whoever finds a node attractive is not alone.
	// At 1 a flash crowd had half as many late calls again; at 6 routers keep away from nodes that are free.
	ownWeight = 2

	// doubt is how many deviations of unseen arrivals a node is charged with. At 0 the calls that leave a full region fill
	// a small far one within its round trip: a flash crowd had twice as many late calls.
	doubt = 3
)

// predict is L = n + S + W, and more for a suspect.
func predict(g *Region, wait time.Duration) time.Duration {
	l := network(g) + clamp(g.Service) + wait
	if g.Suspect {
		l += suspicion
	}
	return l
}

// toll is what a node's crowd costs beyond this call's own wait: (tollRate-1)*W for those who come after it, and doubt
// standard deviations of the work that arrives during one round trip, which no report can tell (arrivals are nearly
// Poisson, so their number deviates by its root). It is no time that this call takes.
func toll(g *Region, wait time.Duration) time.Duration {
	if g.Parallelism == 0 {
		return 0
	}
	unseen := 0.0
	if g.Arrivals > 0 { // not NaN
		unseen = math.Sqrt(min(g.Arrivals, mostArrivals) * network(g).Seconds())
	}
	t := (tollRate-1)*float64(wait) + doubt*unseen*float64(clamp(g.Service))/float64(g.Parallelism)
	return time.Duration(min(t, float64(longest)))
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
	q, c := float64(g.InFlight)+(ownWeight-1)*float64(g.Unseen), float64(g.Parallelism)
	if c == 0 || q < c {
		return 0
	}
	return time.Duration(min((q+1-c)*float64(clamp(g.Service))/c, float64(longest)))
}

// expect fills in E for every node: a failure costs the time until it shows and the retry at the best of the others.
func expect(s *Snapshot, scores []score) {
	less := func(a, b int) bool { return scores[a].predicted+scores[a].toll < scores[b].predicted+scores[b].toll }
	first, second := -1, -1
	for i := range scores {
		switch {
		case !scores[i].in:
		case first < 0 || less(i, first):
			first, second = i, first
		case second < 0 || less(i, second):
			second = i
		}
	}
	for i := range scores {
		l := scores[i].predicted
		scores[i].expected = l + scores[i].toll
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
		costs := float64(fails-l) + retryWeight*float64(scores[elsewhere].predicted+scores[elsewhere].toll)
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
	return min(s, 1)
}
