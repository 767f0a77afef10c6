package sim

import (
	"math"
	"slices"
	"time"
)

// nearest takes the region with the lowest measured round trip: latency-based DNS and geo steering with a live distance.
type nearest struct {
	base
	rtt []float64 // ms, smoothed
}

// nearestGain is the weight of a new probe, as TCP's SRTT (RFC 6298).
const nearestGain = 0.125

func newNearest(e Env) Policy { return &nearest{rtt: slices.Clone(e.RTT)} }

func (p *nearest) Probed(_ time.Duration, i int, total time.Duration, r *Report) {
	if r != nil {
		p.rtt[i] += nearestGain * (toMillis(total) - p.rtt[i])
	}
}

func (p *nearest) Pick(_ time.Duration, a Ask) int { return lowest(a.Allowed, p.rtt) }

func lowest(allowed mask, of []float64) int {
	best := -1
	for i := range of {
		if allowed.has(i) && (best < 0 || of[i] < of[best]) {
			best = i
		}
	}
	return best
}

// localityFailover follows Envoy's priorities with a locality each (source/common/upstream/load_balancer_impl.cc,
// distributeLoad): everything goes to the first priority that is healthy, in the configured order of distance. With one
// host a locality, the overprovisioning factor of 1.4 makes no difference: it is whole or gone.
type localityFailover struct {
	base
	env Env
}

func newLocalityFailover(e Env) Policy { return &localityFailover{env: e} }

func (p *localityFailover) Pick(_ time.Duration, a Ask) int { return lowest(a.Allowed, p.env.RTT) }

// waterfall fills the nearest region up to a target of its capacity and lets the rest flow to the next one, as Google
// Cloud's service load balancing policy WATERFALL_BY_REGION with a max rate per endpoint, and Meta's locality rings,
// describe it. A controller with a global view plans every second by the last second's calls.
type waterfall struct {
	base
	env Env
}

const (
	waterfallTarget = 0.8 // Google's default capacity scaler and Meta's rings leave about a fifth
	waterfallEvery  = time.Second
)

func newWaterfall(e Env) Policy {
	return &waterfall{env: e}
}

func (p *waterfall) Pick(now time.Duration, a Ask) int {
	s := p.env.Shared
	s.count(now, p.env.Router)
	row := s.plan[p.env.Router]
	total := 0.0
	for i, x := range row {
		if a.Allowed.has(i) {
			total += x
		}
	}
	draw := p.env.Rand.Float64() * total
	for i, x := range row {
		if a.Allowed.has(i) {
			if draw -= x; draw < 0 {
				return i
			}
		}
	}
	return lowest(a.Allowed, p.env.RTT)
}

// shared is what the controller of the waterfall knows: one per run.
type shared struct {
	w     *world
	calls []float64 // by router, in the running second
	plan  [][]float64
	next  time.Duration
}

func newShared(w *world) *shared {
	s := &shared{w: w, calls: make([]float64, len(w.home)), next: waterfallEvery}
	s.plan = pour(w.rate, w.rtt, w.targets())
	return s
}

// targets is what each region is planned to do, calls per second.
func (w *world) targets() []float64 {
	t := make([]float64, len(w.slots))
	for i, c := range w.slots {
		t[i] = waterfallTarget * float64(c) * 1000 / w.mean
	}
	return t
}

func (s *shared) count(now time.Duration, router int) {
	if now >= s.next {
		for i := range s.calls {
			s.calls[i] /= waterfallEvery.Seconds()
		}
		s.plan = pour(s.calls, s.w.rtt, s.w.targets())
		clear(s.calls)
		s.next = now + waterfallEvery
	}
	s.calls[router]++
}

// pour gives every origin's demand to its nearest region, which takes in proportion up to its target; the rest goes on
// to the next. What no region has room for stays at the nearest.
func pour(demand []float64, rtt [][]float64, targets []float64) [][]float64 {
	left, room := slices.Clone(demand), slices.Clone(targets)
	plan := make([][]float64, len(demand))
	order := make([][]int, len(demand))
	for r := range demand {
		plan[r] = make([]float64, len(targets))
		order[r] = make([]int, len(targets))
		for i := range order[r] {
			order[r][i] = i
		}
		slices.SortStableFunc(order[r], func(a, b int) int {
			switch {
			case rtt[r][a] < rtt[r][b]:
				return -1
			case rtt[r][a] > rtt[r][b]:
				return 1
			}
			return 0
		})
	}
	for ring := range targets {
		asked := make([]float64, len(targets))
		for r := range demand {
			asked[order[r][ring]] += left[r]
		}
		granted := make([]float64, len(targets))
		for i := range targets {
			if asked[i] > 0 {
				granted[i] = math.Min(1, room[i]/asked[i])
			}
		}
		for r := range demand {
			i := order[r][ring]
			x := left[r] * granted[i]
			plan[r][i] += x
			left[r] -= x
			room[i] -= x
		}
	}
	for r := range demand {
		plan[r][order[r][0]] += left[r]
	}
	return plan
}
