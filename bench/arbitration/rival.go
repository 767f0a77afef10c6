package main

import (
	"slices"
	"sync"
	"time"

	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/measure"
	"github.com/rimlight/rimlight/router/sim"
)

const (
	// probeEvery is how often a rival hears of a region's probe, as in the simulator.
	probeEvery = time.Second
	// recentWeight smooths the residence that rivals ask for.
	recentWeight = 0.1
)

// rival puts a balancer of the simulator into the data plane. It is told what the router's probes and calls find, chooses
// among all regions that it has not tried, and never hedges.
type rival struct {
	plan  *sim.Plan
	index map[string]int // region by name
	began time.Time

	mu     sync.Mutex
	policy sim.Policy
	rows   []*arbiter.Region // as last seen
	probed []time.Duration   // when the policy last heard
	recent []time.Duration   // smoothed residence
	sent   [][]time.Duration // of the calls under way, oldest first
}

func newRival(plan *sim.Plan, name string, router int) (*rival, error) {
	n := len(plan.Regions)
	r := &rival{
		plan: plan, index: map[string]int{}, began: time.Now(), rows: make([]*arbiter.Region, n),
		probed: make([]time.Duration, n), recent: make([]time.Duration, n), sent: make([][]time.Duration, n),
	}
	for i, region := range plan.Regions {
		r.index[region] = i
	}
	var err error
	r.policy, err = plan.Policy(name, router, 1, func(i int) bool { return r.rows[i] != nil && r.rows[i].Reachable })
	return r, err
}

// Pick implements forward.Policy.
func (r *rival) Pick(s *arbiter.Snapshot, q arbiter.Request, _ float64) arbiter.Choice {
	if q.Hedging != "" {
		return arbiter.Choice{Regime: arbiter.None}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Since(r.began)
	var tried []int
	for _, g := range s.Regions {
		i := r.index[g.Name]
		r.look(now, i, g)
		if slices.Contains(q.Tried, g.Key) {
			tried = append(tried, i)
		}
	}
	others := len(s.Regions) - len(tried) - 1
	if others < 0 {
		return arbiter.Choice{Regime: arbiter.None}
	}
	i := r.policy.Pick(now, r.plan.NewAsk(tried, q.Budget))
	if i < 0 || r.rows[i] == nil {
		return arbiter.Choice{Regime: arbiter.None}
	}
	// The data plane gives an attempt up after four times what was expected: as late as the simulator's routers do.
	return arbiter.Choice{Region: r.rows[i], Expected: r.plan.Attempt / 4, Others: others}
}

// look tells the policy of a region's last good probe, about once a second.
func (r *rival) look(now time.Duration, i int, g *arbiter.Region) {
	if r.rows[i] == g {
		return
	}
	r.rows[i] = g
	if g.Reachable && (r.probed[i] == 0 || now-r.probed[i] >= probeEvery) {
		r.probed[i] = now
		r.policy.Probed(now, i, g.Network, &sim.Report{
			InFlight: int(g.InFlight), Parallelism: int(g.Parallelism), Service: g.Service, Recent: max(r.recent[i], g.Service), Arrivals: g.Arrivals,
		})
	}
}

// Sent implements forward.Policy.
func (r *rival) Sent(key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := r.region(key)
	now := time.Since(r.began)
	r.sent[i] = append(r.sent[i], now)
	r.policy.Sent(now, i)
}

// Done implements forward.Policy.
func (r *rival) Done(key string, o measure.Outcome) {
	if o.Late {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	i := r.region(key)
	now := time.Since(r.began)
	total := o.Total
	if len(r.sent[i]) > 0 {
		if total == 0 { // it brought no answer: the oldest is the likeliest
			total = now - r.sent[i][0]
		}
		r.sent[i] = r.sent[i][1:]
	}
	end := sim.Outcome{Total: total, Verdict: verdict(o.Verdict, total >= r.plan.Attempt*9/10)}
	if l := o.Load; l != nil {
		residence := l.GetResidence().AsDuration()
		r.recent[i] += time.Duration(recentWeight * float64(residence-r.recent[i]))
		end.Report = &sim.Report{
			InFlight: int(l.GetInFlight()), Parallelism: int(l.GetParallelism()), Service: l.GetServiceTime().AsDuration(),
			Residence: residence, Recent: r.recent[i], Arrivals: l.GetArrivalsPerSecond(),
		}
	}
	r.policy.Done(now, i, end)
}

// verdict is the data plane's in the simulator's words. Its Broken is a reset, or a time that was over.
func verdict(v measure.Verdict, timedOut bool) sim.Verdict {
	switch v {
	case measure.Good:
		return sim.Answered
	case measure.Failed:
		return sim.Failed
	case measure.Shed:
		return sim.Exhausted
	case measure.Broken:
		if timedOut {
			return sim.TimedOut
		}
		return sim.Broken
	default:
		return sim.Cancelled
	}
}

// region is whose node a key names.
func (r *rival) region(key string) int {
	for i, g := range r.rows {
		if g != nil && g.Key == key {
			return i
		}
	}
	panic("arbitration: an attempt at a node that was never chosen: " + key)
}
