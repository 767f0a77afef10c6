package sim

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// Row is one policy in one scenario. Shares are fractions of 1, times are milliseconds.
type Row struct {
	Scenario      string  `json:"scenario"`
	Policy        string  `json:"policy"`
	Over100       float64 `json:"share_over_100ms"`
	Over200       float64 `json:"share_over_200ms"` // failed and shed calls are over
	Errors        float64 `json:"errors"`           // sheds included
	Mean          float64 `json:"mean_ms"`          // a failed call counts as the viewer's patience, 1 s
	P50           float64 `json:"p50_ms"`
	P99           float64 `json:"p99_ms"`
	P999          float64 `json:"p999_ms"`
	Recovery      float64 `json:"recovery_ms"` // the slowest part's, mean over the seeds
	ExtraAttempts float64 `json:"extra_attempts"`
	Regret        float64 `json:"regret"` // ms of the mean above the bound's
	Swing         float64 `json:"swing"`  // largest change of a region's share between two half seconds
	Probes        float64 `json:"probes_per_call"`

	Over200Low  float64 `json:"share_over_200ms_low"` // 95 % interval by bootstrap over the seeds
	Over200High float64 `json:"share_over_200ms_high"`
	MeanLow     float64 `json:"mean_ms_low"`
	MeanHigh    float64 `json:"mean_ms_high"`

	Part     bool `json:"part,omitempty"`     // of a scenario only
	Overload bool `json:"overload,omitempty"` // beyond all capacity: reported apart
}

// Suite is what to play.
type Suite struct {
	Options   Options
	Scenarios []*Scenario
	Policies  []string // names; empty: all
	Seeds     int
	Parts     bool                // a row per part as well
	Progress  func(done, all int) // nil: silent; called by one goroutine at a time
}

type job struct {
	scenario, part, policy, seed int
}

// Run plays every policy in every part of every scenario with every seed, and adds up. The result does not depend on
// how many processors share the work.
func (s *Suite) Run() ([]Row, error) {
	if s.Seeds < 1 {
		return nil, fmt.Errorf("sim: %d seeds: at least one is needed", s.Seeds)
	}
	names := s.Policies
	if len(names) == 0 {
		for _, p := range Policies() {
			names = append(names, p.Name)
		}
		names = append(names, boundName)
	}
	specs := make([]Spec, 0, len(names)+1)
	for _, name := range names {
		if name == boundName {
			continue
		}
		spec, err := Lookup(name)
		if err != nil {
			return nil, err
		}
		specs = append(specs, spec)
	}
	specs = append(specs, Spec{Name: boundName}) // always played: regret is measured against it
	var jobs []job
	worlds := make([][]*world, len(s.Scenarios))
	for i, scenario := range s.Scenarios {
		for k := range scenario.Parts {
			w, err := build(scenario, &scenario.Parts[k], s.Options)
			if err != nil {
				return nil, err
			}
			worlds[i] = append(worlds[i], w)
			for p := range specs {
				for seed := range s.Seeds {
					jobs = append(jobs, job{i, k, p, seed})
				}
			}
		}
	}
	outcomes := make(map[job]*outcome, len(jobs))
	s.each(jobs, func(j job) *outcome {
		w := worlds[j.scenario][j.part]
		if specs[j.policy].Name == boundName {
			return w.bound(uint64(j.seed) + 1)
		}
		return play(w, specs[j.policy], uint64(j.seed)+1)
	}, outcomes)

	var rows []Row
	for i, scenario := range s.Scenarios {
		groups := [][]int{indices(len(scenario.Parts))}
		ids := []string{scenario.ID}
		if s.Parts && len(scenario.Parts) > 1 {
			for k, part := range scenario.Parts {
				groups, ids = append(groups, []int{k}), append(ids, scenario.ID+"/"+part.Name)
			}
		}
		for g, parts := range groups {
			var group []Row
			for p, spec := range specs {
				group = append(group, summarise(ids[g], spec.Name, s.Seeds, len(parts), func(part, seed int) *outcome {
					return outcomes[job{i, parts[part], p, seed}]
				}))
			}
			for _, row := range group {
				row.Part, row.Overload = g > 0, scenario.Overload
				row.Regret = row.Mean - group[len(group)-1].Mean
				if slices.Contains(names, row.Policy) {
					rows = append(rows, row)
				}
			}
		}
	}
	return rows, nil
}

// each plays the jobs on all processors.
func (s *Suite) each(jobs []job, work func(job) *outcome, into map[job]*outcome) {
	var mu sync.Mutex
	next := 0
	take := func() (job, bool) {
		mu.Lock()
		defer mu.Unlock()
		if next == len(jobs) {
			return job{}, false
		}
		next++
		return jobs[next-1], true
	}
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(jobs)) {
		workers.Go(func() {
			for j, ok := take(); ok; j, ok = take() {
				o := work(j)
				mu.Lock()
				into[j] = o
				if s.Progress != nil {
					s.Progress(len(into), len(jobs))
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
}

// summarise adds up the outcomes of some parts and all seeds.
func summarise(id, policy string, seeds, parts int, of func(part, seed int) *outcome) Row {
	row := Row{Scenario: id, Policy: policy}
	histogram := make([]int32, histogramSize)
	over200, mean := make([]ratio, seeds), make([]ratio, seeds)
	var calls, over100, errors, attempts, probes float64
	for part := range parts {
		var recovery time.Duration
		for seed := range seeds {
			o := of(part, seed)
			n := float64(o.calls)
			calls += n
			over100 += float64(o.over100)
			errors += float64(o.errors + o.sheds)
			attempts += float64(o.attempts)
			probes += float64(o.probes)
			over200[seed] = over200[seed].plus(float64(o.over200), n)
			mean[seed] = mean[seed].plus(o.sum, n)
			for i, k := range o.histogram {
				histogram[i] += k
			}
			recovery += o.recovery()
			row.Swing = max(row.Swing, o.swing())
		}
		row.Recovery = max(row.Recovery, toMillis(recovery)/float64(seeds))
	}
	row.Over100, row.Errors = over100/calls, errors/calls
	row.ExtraAttempts, row.Probes = max(0, attempts/calls-1), probes/calls
	row.P50, row.P99, row.P999 = quantile(histogram, 0.5), quantile(histogram, 0.99), quantile(histogram, 0.999)
	row.Over200, row.Over200Low, row.Over200High = interval(over200)
	row.Mean, row.MeanLow, row.MeanHigh = interval(mean)
	return row
}

type ratio struct{ part, all float64 }

func (r ratio) plus(part, all float64) ratio { return ratio{r.part + part, r.all + all} }

// resamples of the bootstrap (Efron 1979), over the seeds: calls of one run are not independent, runs are.
const resamples = 1000

func interval(perSeed []ratio) (value, low, high float64) {
	sum := func(pick func(i int) int) float64 {
		var r ratio
		for i := range perSeed {
			s := perSeed[pick(i)]
			r = r.plus(s.part, s.all)
		}
		return r.part / r.all
	}
	value = sum(func(i int) int { return i })
	rng := rand.New(rand.NewPCG(uint64(len(perSeed)), resamples))
	values := make([]float64, resamples)
	for k := range values {
		values[k] = sum(func(int) int { return rng.IntN(len(perSeed)) })
	}
	slices.Sort(values)
	return value, values[resamples*25/1000], values[resamples*975/1000]
}

func indices(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// Select keeps the scenarios of an id: "S2" keeps S2-overload as well, empty keeps all.
func Select(all []*Scenario, id string) ([]*Scenario, error) {
	var kept []*Scenario
	for _, s := range all {
		if id == "" || strings.EqualFold(s.ID, id) || strings.HasPrefix(strings.ToUpper(s.ID), strings.ToUpper(id)+"-") {
			kept = append(kept, s)
		}
	}
	if len(kept) == 0 {
		var ids []string
		for _, s := range all {
			ids = append(ids, s.ID)
		}
		return nil, fmt.Errorf("sim: unknown scenario %q: there are %s", id, strings.Join(ids, ", "))
	}
	slices.SortStableFunc(kept, func(a, b *Scenario) int { return cmp.Compare(order(a.ID), order(b.ID)) })
	return kept, nil
}
