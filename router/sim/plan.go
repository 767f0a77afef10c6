package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Plan is a part made concrete, for a run outside of virtual time: bench/arbitration plays it with real processes.
type Plan struct {
	Regions []string          // that serve
	Slots   []int             // by region: calls worked on at once
	Waiting []int             // by region: calls that may wait, more are shed
	Origins []string          // by router: where it is
	RTT     [][]time.Duration // by router and region: there and back
	Rates   []float64         // by router: calls per second
	Faults  []PlannedFault
	End     time.Duration // of arrivals
	Work    time.Duration // a call's mean
	// Patience is the viewer's, and what a failed call counts as; Attempt is what one attempt may take.
	Patience, Attempt time.Duration

	w *world
}

// PlannedFault is a fault with its region and the routers whose links it means.
type PlannedFault struct {
	Fault
	From, To time.Duration
	Region   int    // -1: none
	Routers  []bool // by router
}

// NewPlan makes a part concrete as the simulator does, with calls that take work times as long and are as many times
// rarer. Crowds and zones are not in a plan.
func NewPlan(s *Scenario, part int, o Options, work float64) (*Plan, error) {
	p := &s.Parts[part]
	if len(p.Crowds) > 0 || p.Restricted > 0 {
		return nil, fmt.Errorf("sim: part %q of %s has crowds or a zone, which only the simulator plays", p.Name, s.ID)
	}
	w, err := build(s, p, o)
	if err != nil {
		return nil, err
	}
	w.mean *= work
	for i := range w.rate {
		w.rate[i] /= work
	}
	plan := &Plan{
		Regions: w.regions, Slots: w.slots, Origins: w.origins, Rates: w.rate, End: w.end, Work: millis(w.mean),
		Patience: millis(deadlineMillis), Attempt: millis(tryMillis), w: w,
	}
	for _, slots := range w.slots {
		plan.Waiting = append(plan.Waiting, slots*queuePerSlot)
	}
	for _, row := range w.rtt {
		trips := make([]time.Duration, len(row))
		for i, ms := range row {
			trips[i] = millis(ms)
		}
		plan.RTT = append(plan.RTT, trips)
	}
	for _, f := range w.faults {
		plan.Faults = append(plan.Faults, PlannedFault{f.Fault, f.from, f.to, f.region, f.routers})
	}
	return plan, nil
}

// Work is how long a call takes at a region without faults: exponential, and the same wherever it is done. call is any
// number that is the call's own.
func Work(mean time.Duration, call uint64) time.Duration {
	return time.Duration(float64(mean) * exponential(uniform(0, drawWork, call, 0)))
}

// Luck is a draw in [0,1) that a call has at a region: whether a gray failure meets it.
func Luck(call, region uint64) float64 { return uniform(0, drawGray, call, region) }

// Policy makes a rival for one router, which knows all regions. connects tells whether a connection to a region would
// succeed now. Rivals that ask for probes of their own or for a central controller do not work outside of the simulator.
func (p *Plan) Policy(name string, router int, seed uint64, connects func(region int) bool) (Policy, error) {
	spec, err := Lookup(name)
	if err != nil {
		return nil, err
	}
	if slices.Contains([]string{"prequal", "waterfall"}, name) {
		return nil, fmt.Errorf("sim: %s needs more of a router than a choice", name)
	}
	made := spec.Make(Env{
		Router: router, Regions: p.Regions, Zone: p.w.zone, RTT: p.w.rtt[router], Slots: p.Slots, Shared: newShared(p.w),
		Rand: rand.New(rand.NewPCG(mix(seed^drawPolicy), uint64(router))), Wake: func(time.Duration) {}, Probe: func(int) {},
		Connects: func(_ time.Duration, region int) bool { return connects(region) },
	})
	made.Known(0, p.w.present, 0)
	return made, nil
}

// Simulate plays the plan in virtual time. The bound's name is a policy, too.
func (p *Plan) Simulate(policy string, seed uint64) (*Tally, error) {
	if policy == boundName {
		return &Tally{p.w.bound(seed)}, nil
	}
	spec, err := Lookup(policy)
	if err != nil {
		return nil, err
	}
	return &Tally{play(p.w, spec, seed)}, nil
}

// NewAsk is a choice among the regions that were not tried.
func (p *Plan) NewAsk(tried []int, remaining time.Duration) Ask {
	a := Ask{Allowed: p.w.present, Remaining: remaining}
	for _, i := range tried {
		a.Allowed &^= bit(i)
		a.Tried |= bit(i)
	}
	return a
}

// Tally counts the calls of a run of a plan in the simulator's terms.
type Tally struct{ o *outcome }

// NewTally is empty.
func (p *Plan) NewTally() *Tally { return &Tally{newOutcome(p.w)} }

// Call counts a call: when it came, how long it took, how it ended, and which region answered it; -1: none.
func (t *Tally) Call(at, took time.Duration, v Verdict, region int) {
	t.o.arrive(at)
	t.o.end(at, took, v)
	if region >= 0 {
		t.o.routed(at, region)
	}
}

// Counts tells whether a call that came then is in the figures.
func (t *Tally) Counts(at time.Duration) bool { return t.o.counts(at) }

// Spent adds the attempts and probes that the calls cost.
func (t *Tally) Spent(attempts, probes int) {
	t.o.attempts += attempts
	t.o.probes += probes
}

// Calls is how many are in the figures.
func (t *Tally) Calls() int { return t.o.calls }

// Summarise makes a row of the tallies of a scenario's parts, each with as many seeds: [part][seed].
func Summarise(scenario, policy string, parts [][]*Tally) Row {
	return summarise(scenario, policy, len(parts[0]), len(parts), func(part, seed int) *outcome { return parts[part][seed].o })
}
