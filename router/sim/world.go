package sim

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/rimlight/rimlight/internal/wan"
)

const (
	maxRegions = 64 // sets of regions are bit masks

	defaultRegions = 6
	defaultRouters = 24

	slotsPerRegion = 8    // calls worked on at once, on average; the busiest regions get more
	serviceMillis  = 8.0  // mean work of a call
	queuePerSlot   = 12   // calls that may wait per slot, about 100 ms of work; more are shed
	deadlineMillis = 1000 // a viewer's patience; a failed call counts as long as this
	tryMillis      = 500  // what one attempt may take before the retry, for every policy alike
)

// Options change the world for a whole suite.
type Options struct {
	Matrix *wan.Matrix
	// Capacity multiplies every region's parallelism, and the calls with it: load stays what the scenario says. 0: 1.
	Capacity float64
	// Half, when not 0, keeps a random half of the matrix's regions, drawn by this number.
	Half uint64
}

// world is a part made concrete.
type world struct {
	part    *Part
	regions []string
	zone    mask            // the regions of the zone
	slots   []int           // per region
	rtt     [][]float64     // router, region: ms there and back
	home    []int           // router: its nearest region
	rate    []float64       // router: calls per second outside of crowds
	bursts  []burst         // crowds
	faults  []fault         //
	present mask            // regions that exist at the start
	end     time.Duration   // of arrivals
	measure time.Duration   // from when calls count
	event   time.Duration   // the first thing that happens; -1: nothing
	origins []string        // router: where it is
	mean    float64         // ms of work per call
	cells   map[string]flow // the bound's plans
}

type mask uint64

func (m mask) has(i int) bool { return m>>i&1 == 1 }

func bit(i int) mask { return 1 << i }

type burst struct {
	from, to time.Duration
	routers  []bool
	factor   float64
}

type fault struct {
	Fault
	from, to time.Duration
	region   int
	routers  []bool
}

// build makes a part concrete over a matrix.
func build(s *Scenario, p *Part, o Options) (*world, error) {
	names := o.Matrix.Names()
	if o.Half != 0 {
		names = randomHalf(names, o.Half)
	}
	w := &world{part: p, mean: serviceMillis, event: -1, cells: map[string]flow{}}
	w.end, w.measure = seconds(p.Seconds), seconds(p.Measure)
	if p.Measure == 0 {
		w.measure = min(2*time.Second, w.end/2)
	}
	w.regions = median(o.Matrix, names, cmp.Or(p.Regions, defaultRegions))
	w.present = bit(len(w.regions)) - 1
	w.placeRouters(o.Matrix, names, cmp.Or(p.Routers, defaultRouters))
	demand := make([]float64, len(w.regions))
	for _, h := range w.home {
		demand[h] += 1 / float64(len(w.home))
	}
	capacity := cmp.Or(o.Capacity, 1)
	total := 0
	w.slots = make([]int, len(w.regions))
	for i, d := range demand {
		// Planned for the viewers nearby: with equal regions, the crowded half of the earth would be overloaded at rest.
		w.slots[i] = max(2, int(math.Round(d*float64(len(w.regions)*slotsPerRegion)*capacity)))
		total += w.slots[i]
	}
	named, err := w.resolver(o.Matrix, demand)
	if err != nil {
		return nil, err
	}
	var errs []error
	at := func(role string) int {
		i, ok := named[role]
		if !ok {
			errs = append(errs, s.problem(quoted(role), "part %q: unknown region %q: neither a role (%s) nor serving (%s)",
				p.Name, role, strings.Join(roles, ", "), strings.Join(w.regions, ", ")))
		}
		return i
	}
	w.zone = bit(named["busiest"]) | bit(named["near_busiest"])
	for _, c := range p.Crowds {
		b := burst{seconds(c.From), seconds(c.To), make([]bool, len(w.home)), c.Factor}
		for r := range b.routers {
			b.routers[r] = c.Region == "all" || w.home[r] == at(c.Region)
		}
		w.bursts = append(w.bursts, b)
		w.happens(b.from)
	}
	for _, f := range p.Faults {
		concrete := fault{Fault: f, from: seconds(f.From), to: seconds(f.To), region: -1, routers: make([]bool, len(w.home))}
		if f.Region != "" {
			concrete.region = at(f.Region)
		}
		for r := range concrete.routers {
			switch f.Routers {
			case "", "all":
				concrete.routers[r] = true
			case "half":
				concrete.routers[r] = r%2 == 0
			case "one":
				concrete.routers[r] = r == 0
			default:
				concrete.routers[r] = w.home[r] == at(f.Routers)
			}
		}
		if f.Kind == "absent" {
			w.happens(concrete.to)
		} else {
			w.happens(concrete.from)
		}
		w.faults = append(w.faults, concrete)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	w.setRates(float64(total) * 1000 / w.mean)
	return w, nil
}

func (w *world) happens(at time.Duration) {
	if w.event < 0 || at < w.event {
		w.event = at
	}
}

// setRates spreads the calls evenly over the routers, at the load that the part asks for.
func (w *world) setRates(capacity float64) {
	w.rate = make([]float64, len(w.home))
	even := 1 / float64(len(w.home))
	peak := 1.0
	for _, edge := range w.bursts {
		now := 0.0
		for r := range w.rate {
			now += even * w.crowd(r, edge.from)
		}
		peak = max(peak, now)
	}
	load := w.part.Load
	if w.part.PeakLoad > 0 {
		load = min(load, w.part.PeakLoad/peak)
	}
	for r := range w.rate {
		w.rate[r] = load * capacity * even
	}
}

// crowd is what multiplies a router's calls at a time.
func (w *world) crowd(router int, now time.Duration) float64 {
	factor := 1.0
	for _, b := range w.bursts {
		if b.routers[router] && b.from <= now && now < b.to {
			factor *= b.factor
		}
	}
	return factor
}

// placeRouters puts them everywhere in turn: a point of presence at every origin of the matrix.
func (w *world) placeRouters(m *wan.Matrix, names []string, n int) {
	for r := range n {
		origin := names[r%len(names)]
		row := make([]float64, len(w.regions))
		home := 0
		for i, region := range w.regions {
			d, _ := m.RTT(origin, region) // both are the matrix's own
			row[i] = toMillis(d)
			if row[i] < row[home] {
				home = i
			}
		}
		w.origins = append(w.origins, origin)
		w.rtt = append(w.rtt, row)
		w.home = append(w.home, home)
	}
}

// resolver maps the roles and the serving regions' names to indices.
func (w *world) resolver(m *wan.Matrix, demand []float64) (map[string]int, error) {
	n := len(w.regions)
	if n < 2 {
		return nil, fmt.Errorf("sim: the matrix has %d regions: a choice needs at least two", n)
	}
	between := func(a, b int) time.Duration {
		there, _ := m.RTT(w.regions[a], w.regions[b])
		back, _ := m.RTT(w.regions[b], w.regions[a])
		return there + back
	}
	byDemand := make([]int, n)
	for i := range byDemand {
		byDemand[i] = i
	}
	slices.SortStableFunc(byDemand, func(a, b int) int { return cmp.Compare(demand[b], demand[a]) })
	busiest := byDemand[0]
	named := map[string]int{"busiest": busiest, "second": byDemand[1], "near_busiest": -1, "farthest": busiest, "pair_a": 0, "pair_b": 1}
	for i := range n {
		if i != busiest && (named["near_busiest"] < 0 || between(busiest, i) < between(busiest, named["near_busiest"])) {
			named["near_busiest"] = i
		}
		if i != busiest && (named["farthest"] == busiest || between(busiest, i) > between(busiest, named["farthest"])) {
			named["farthest"] = i
		}
		for j := range i {
			if between(j, i) < between(named["pair_a"], named["pair_b"]) {
				named["pair_a"], named["pair_b"] = j, i
			}
		}
	}
	for i, name := range w.regions {
		named[name] = i
	}
	return named, nil
}

// median chooses the k regions that are nearest to everybody on average: greedily, then by exchanging while it helps.
func median(m *wan.Matrix, names []string, k int) []string {
	k = min(k, len(names))
	cost := func(chosen []string) (sum time.Duration) {
		for _, origin := range names {
			near, _ := m.Nearest(origin, chosen)
			d, _ := m.RTT(origin, near)
			sum += d
		}
		return sum
	}
	var chosen []string
	for len(chosen) < k {
		best, bestCost := "", time.Duration(math.MaxInt64)
		for _, name := range names {
			if slices.Contains(chosen, name) {
				continue
			}
			if c := cost(append(slices.Clone(chosen), name)); c < bestCost {
				best, bestCost = name, c
			}
		}
		chosen = append(chosen, best)
	}
	for improved := true; improved; {
		improved = false
		for i := range chosen {
			for _, name := range names {
				if slices.Contains(chosen, name) {
					continue
				}
				other := slices.Clone(chosen)
				other[i] = name
				if cost(other) < cost(chosen) {
					chosen, improved = other, true
				}
			}
		}
	}
	slices.Sort(chosen)
	return chosen
}

func randomHalf(names []string, draw uint64) []string {
	kept := slices.Clone(names)
	rng := rand.New(rand.NewPCG(draw, drawPlace))
	rng.Shuffle(len(kept), func(i, j int) { kept[i], kept[j] = kept[j], kept[i] })
	kept = kept[:max(2, (len(kept)+1)/2)]
	slices.Sort(kept)
	return kept
}
