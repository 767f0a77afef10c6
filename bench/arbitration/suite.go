package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sync/errgroup"

	"github.com/rimlight/rimlight/internal/wan"
	"github.com/rimlight/rimlight/router/sim"
)

// The scenarios and policies that are played. prequal-full is the best rival of the simulated S3, S5 and S6 that chooses by
// itself; nearest is what DNS does; least_request is grpc-go's, two random choices.
var (
	scenarios = []string{"S3", "S5", "S6"}
	policies  = []string{"rimlight", "nearest", "least_request", "prequal-full"}
)

const (
	// What two cores carry: four regions with two slots each, so 1,000 calls a second in all, and half of the scenarios'
	// load: 200 a second. Client, router and node take about a millisecond of processor for each. Two slots at 20 % let a
	// call wait about as often as the simulator's eight at 40 %.
	regions  = 4
	capacity = 0.25
	lighter  = 0.5
	slower   = 1
	// pace shortens the scenarios: faults last 2.5 s instead of 5.
	pace = 0.5
	// seeds of the simulated runs beside the one of processes.
	seeds = 5
)

// suite is everything that is played.
type suite struct {
	scenarios []*sim.Scenario
	policies  []string
	matrix    *wan.Matrix
	csv       string // the same
	parallel  int
	smoke     bool
	program   string
	progress  func(string)
}

// playing is one policy in one part.
type playing struct {
	scenario, part int
	policy         string
}

func newSuite(o options) (*suite, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	s := &suite{policies: policies, parallel: o.parallel, smoke: o.smoke, program: program, progress: func(string) {}}
	if o.policy != "" {
		if !slices.Contains(policies, o.policy) {
			return nil, fmt.Errorf("unknown policy %q: there are %s", o.policy, strings.Join(policies, ", "))
		}
		s.policies = []string{o.policy}
	}
	all, err := sim.Scenarios()
	if err != nil {
		return nil, err
	}
	for _, one := range all {
		if slices.Contains(scenarios, one.ID) && (o.scenario == "" || o.scenario == one.ID) {
			s.scenarios = append(s.scenarios, one)
		}
	}
	if len(s.scenarios) == 0 {
		return nil, fmt.Errorf("unknown scenario %q: there are %s", o.scenario, strings.Join(scenarios, ", "))
	}
	if o.smoke {
		s.scenarios, s.policies, s.parallel = []*sim.Scenario{smokeScenario()}, policies[:2], 2
	}
	if s.csv, err = regionsOnly(); err != nil {
		return nil, err
	}
	if s.matrix, err = wan.Parse(strings.NewReader(s.csv)); err != nil {
		return nil, err
	}
	for _, scenario := range s.scenarios {
		for i := range scenario.Parts {
			scaled(&scenario.Parts[i])
		}
	}
	return s, nil
}

// scaled makes a part small and short.
func scaled(p *sim.Part) {
	p.Regions, p.Routers = regions, regions
	p.Load *= lighter
	p.Measure = pace * cmp.Or(p.Measure, simulatorsMeasure)
	p.Seconds *= pace
	for i := range p.Faults {
		p.Faults[i].From *= pace
		p.Faults[i].To *= pace
	}
}

// simulatorsMeasure is from when calls count where a part does not say: s.
const simulatorsMeasure = 2

// smokeScenario kills a region and brings it back within four seconds.
func smokeScenario() *sim.Scenario {
	return &sim.Scenario{ID: "smoke", Parts: []sim.Part{{
		Name: "reset", Load: 0.1, Regions: regions, Seconds: 8, Measure: 1, Faults: []sim.Fault{{Kind: "kill_reset", Region: "busiest", From: 2, To: 5}},
	}}}
}

// regionsOnly is the matrix without the places that have no region in the simulator: a router each of twenty places would be
// more processes than cores carry.
func regionsOnly() (string, error) {
	one := &sim.Scenario{ID: "any", Parts: []sim.Part{{Name: "any", Load: 1, Seconds: 1, Regions: regions}}}
	whole, err := sim.NewPlan(one, 0, sim.Options{Matrix: wan.Default()}, 1)
	if err != nil {
		return "", err
	}
	var csv strings.Builder
	fmt.Fprintln(&csv, "provider,snapshot,from,to,min_ms,avg_ms,max_ms,mdev_ms")
	for _, from := range whole.Regions {
		for _, to := range whole.Regions {
			rtt, _ := wan.Default().RTT(from, to)
			ms := float64(rtt) / float64(time.Millisecond)
			fmt.Fprintf(&csv, "gcp,2020-06,%s,%s,%v,%v,%v,0\n", from, to, ms, ms, ms)
		}
	}
	return csv.String(), nil
}

func (s *suite) options() sim.Options { return sim.Options{Matrix: s.matrix, Capacity: capacity} }

// run plays everything and compares.
func (s *suite) run(ctx context.Context) (*report, error) {
	r := &report{}
	simulated, err := s.simulate()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "rimlight-arbitration-")
	if err != nil {
		return nil, fmt.Errorf("making a directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // the run's result does not depend on it
	measured, late, err := s.play(ctx, dir)
	if err != nil {
		return nil, err
	}
	r.Simulated = simulated
	r.GeneratorLate = quantile(late, 99)
	for i, scenario := range s.scenarios {
		var mine []sim.Row
		disturbed := false
		for _, policy := range s.policies {
			var tallies [][]*sim.Tally
			busy := false
			all := newHistogram()
			for k := range scenario.Parts {
				m := measured[playing{i, k, policy}]
				tallies = append(tallies, []*sim.Tally{m.tally})
				all.Merge(m.latency)
				busy = busy || m.busy()
			}
			row := sim.Summarise(scenario.ID, policy, tallies)
			row.P50, row.P99, row.P999 = quantile(all, 50), quantile(all, 99), quantile(all, 99.9)
			row.Over200Low, row.Over200High = row.Over200-noise(row.Over200, tallies), row.Over200+noise(row.Over200, tallies)
			if b, ok := find(simulated, sim.Row{Scenario: scenario.ID, Policy: bound}); ok {
				row.Regret = row.Mean - b.Mean
			}
			mine = append(mine, row)
			disturbed = disturbed || busy
		}
		r.Rows = append(r.Rows, mine...)
		if len(s.policies) > 1 && !s.smoke {
			r.Agreement = append(r.Agreement, compare(scenario.ID, mine, simulated, disturbed))
		}
	}
	plan, err := sim.NewPlan(s.scenarios[0], 0, s.options(), slower)
	if err != nil {
		return nil, err
	}
	r.Scale = scale(plan)
	return r, nil
}

func scale(p *sim.Plan) string {
	slots, rate := 0, 0.0
	for _, n := range p.Slots {
		slots += n
	}
	for _, x := range p.Rates {
		rate += x
	}
	return fmt.Sprintf("%d routers, %d regions, %d slots of %v, %.0f calls/s", len(p.Origins), len(p.Regions), slots, p.Work, rate)
}

// bound is the simulator's: the least that a mean can be.
const bound = "bound"

// simulate plays the same in virtual time.
func (s *suite) simulate() (rows []sim.Row, err error) {
	for _, scenario := range s.scenarios {
		for _, policy := range append(slices.Clone(s.policies), bound) {
			parts := make([][]*sim.Tally, len(scenario.Parts))
			for k := range parts {
				plan, err := sim.NewPlan(scenario, k, s.options(), slower)
				if err != nil {
					return nil, err
				}
				for seed := range seeds {
					tally, err := plan.Simulate(policy, uint64(seed)+1)
					if err != nil {
						return nil, err
					}
					parts[k] = append(parts[k], tally)
				}
			}
			rows = append(rows, sim.Summarise(scenario.ID, policy, parts))
		}
	}
	return rows, nil
}

// play runs every policy in every part, some at a time.
func (s *suite) play(ctx context.Context, dir string) (map[playing]*measured, *hdrhistogram.Histogram, error) {
	var mu sync.Mutex
	results, late := map[playing]*measured{}, newHistogram()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(s.parallel)
	for i, scenario := range s.scenarios {
		for k, part := range scenario.Parts {
			for _, policy := range s.policies { // next to each other: what disturbs the machine disturbs all of them
				g.Go(func() error {
					plan, err := sim.NewPlan(scenario, k, s.options(), slower)
					if err != nil {
						return err
					}
					name := fmt.Sprintf("%s/%s %s", scenario.ID, part.Name, policy)
					m, err := s.quietly(ctx, plan, job{
						Policy: policy, Scenario: scenario, Part: k, CSV: s.csv, Dir: filepath.Join(dir, fmt.Sprintf("%d-%d-%s", i, k, policy)),
					})
					if err != nil {
						return fmt.Errorf("%s: %w", name, err)
					}
					mu.Lock()
					defer mu.Unlock()
					results[playing{i, k, policy}] = m
					late.Merge(m.late)
					row := sim.Summarise(scenario.ID, policy, [][]*sim.Tally{{m.tally}})
					s.progress(fmt.Sprintf("%s: %d calls, %s bad, mean %.1f ms, generator late %.1f ms", name, m.tally.Calls(), percent(row.Over200), row.Mean, quantile(m.late, 99)))
					return nil
				})
			}
		}
	}
	err := g.Wait()
	return results, late, err
}

const (
	// lateness is what the generator's own starts may be late, 99th percentile: where they are later, processes waited for
	// processors. A call waits about five times on its way, and is bad from 200 ms.
	lateness = 25 * time.Millisecond
	// attempts at a run that the machine disturbed.
	attempts = 2
)

// busy tells whether the machine disturbed a run.
func (m *measured) busy() bool { return m.late.ValueAtQuantile(99) > lateness.Microseconds() }

// quietly measures, and once more if the machine was busy.
func (s *suite) quietly(ctx context.Context, plan *sim.Plan, j job) (m *measured, err error) {
	dir := j.Dir
	for attempt := range attempts {
		j.Dir = filepath.Join(dir, fmt.Sprint(attempt))
		if m, err = s.measure(ctx, plan, j); err != nil || !m.busy() || s.smoke {
			break
		}
	}
	return m, err
}
