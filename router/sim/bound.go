package sim

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// boundName is the policy that is computed, not played.
const boundName = "bound"

const (
	boundStep = 100 * time.Millisecond
	// boundLoad is how full the plan makes a region before it counts as full; the rest, up to all of it, costs a whole queue.
	boundLoad = 0.95
	// unserved is what a call costs that no region has room for, ms: more than any path.
	unserved = 1e5
)

// rungs are the utilisations between which the wait is taken as linear.
var rungs = []float64{0, 0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, boundLoad}

// flow is a plan for one step: for each origin and region the share of its calls, and what they wait there.
type flow struct {
	share [][]float64 // class, region: rising sums over the regions; less than 1 at the end: the rest is shed
	wait  []float64   // region: ms
}

// bound plans every 100 ms with full knowledge of demand, distances and faults: the min-cost flow from routers to
// regions, whose cost is the round trip, the work and the wait of M/M/c at that load. A call then takes its round trip,
// its own work and that mean wait. It knows which messages get lost and which calls a gray region would delay, and
// avoids them: those faults cost it nothing.
func (w *world) bound(seed uint64) *outcome {
	r := &run{w: w, seed: seed, out: newOutcome(w)}
	r.routers = make([]router, len(w.home))
	for i := range r.routers {
		r.schedule(int32(i))
	}
	b := planner{w: w, known: map[string]flow{}}
	plan, planned := flow{}, time.Duration(-1)
	for len(r.q.events) > 0 {
		e := r.q.pop()
		r.now = e.at
		if step := e.at / boundStep; step != planned {
			plan, planned = b.plan(step*boundStep), step
		}
		i := e.id
		n := r.routers[i].arrivals
		work := w.mean * exponential(r.draw(drawWork, uint64(i), n))
		class := int(i)
		if w.part.Restricted > 0 && w.zone.has(w.home[i]) && r.draw(drawZone, uint64(i), n) < w.part.Restricted {
			class += len(w.home)
		}
		r.out.arrive(r.now)
		g, verdict := len(w.regions), Exhausted
		u := r.draw(drawBound, uint64(i), n)
		for k, sum := range plan.share[class] {
			if u < sum {
				g, verdict = k, Answered
				break
			}
		}
		took := float64(deadlineMillis)
		if verdict == Answered {
			took = w.roundTrip(int(i), g, r.now) + work*b.factor(g, r.now) + plan.wait[g]
			if r.out.counts(r.now) {
				r.out.routed(r.now, g)
			}
		}
		if r.out.counts(r.now) {
			r.out.attempts++
		}
		r.out.end(r.now, millis(took), verdict)
		r.schedule(i)
	}
	return r.out
}

type planner struct {
	w     *world
	known map[string]flow
}

// factor is what every call's work is multiplied by.
func (b *planner) factor(region int, now time.Duration) float64 {
	x := 1.0
	for i := range b.w.faults {
		if f := &b.w.faults[i]; f.region == region && f.Kind == "slow" && f.active(now) {
			x *= f.Factor
		}
	}
	return x
}

// usable tells whether calls of a router can be served in a region for the whole step.
func (b *planner) usable(router, region int, now time.Duration) bool {
	for i := range b.w.faults {
		f := &b.w.faults[i]
		if f.region != region || !f.active(now) && !f.active(now+boundStep-1) {
			continue
		}
		switch f.Kind {
		case "kill_reset", "kill_hole", "absent", "no_stock":
			return false
		case "errors", "exhausted":
			// Those that fail are avoided as well: what remains is the others, and perfect knowledge picks them.
			if f.Share >= 1 {
				return false
			}
		case "drain":
			if now+boundStep >= f.from+drainsIn {
				return false
			}
		case "cut", "cut_to", "cut_from", "flap_cut":
			if f.routers[router] {
				return false
			}
		}
	}
	return true
}

// plan solves one step; steps that look the same are solved once.
func (b *planner) plan(now time.Duration) flow {
	w := b.w
	routers, regions := len(w.home), len(w.regions)
	demand := make([]float64, 2*routers)
	cost := make([][]float64, 2*routers)
	for i := range routers {
		total := w.rate[i] * w.crowd(i, now)
		bound := 0.0
		if w.zone.has(w.home[i]) {
			bound = total * w.part.Restricted
		}
		demand[i], demand[routers+i] = total-bound, bound
		cost[i], cost[routers+i] = make([]float64, regions), make([]float64, regions)
		for g := range regions {
			c := math.Inf(1)
			if b.usable(i, g, now) {
				c = w.roundTrip(i, g, now) + w.mean*b.factor(g, now)
			}
			cost[i][g], cost[routers+i][g] = c, c
			if !w.zone.has(g) {
				cost[routers+i][g] = math.Inf(1)
			}
		}
	}
	service := make([]float64, regions)
	for g := range regions {
		service[g] = w.mean * b.factor(g, now)
	}
	key := fmt.Sprintf("%.3f %.3f %.3f", demand, cost, service)
	if f, ok := b.known[key]; ok {
		return f
	}
	f := solve(demand, cost, service, w.slots)
	b.known[key] = f
	return f
}

// solve is the min-cost flow by successive shortest paths: source -> classes -> regions -> sink, with a chain of ever
// dearer edges from each region for its waiting.
func solve(demand []float64, cost [][]float64, service []float64, slots []int) flow {
	classes, regions := len(demand), len(service)
	source, sink := classes+regions, classes+regions+1
	g := newGraph(sink + 1)
	into := make([][]int, classes)
	for i, d := range demand {
		into[i] = make([]int, regions)
		if d <= 0 {
			continue
		}
		g.edge(source, i, d, 0)
		g.edge(i, sink, d, unserved)
		for k := range regions {
			into[i][k] = -1
			if !math.IsInf(cost[i][k], 1) {
				into[i][k] = g.edge(i, classes+k, d, cost[i][k])
			}
		}
	}
	for k := range regions {
		mu := float64(slots[k]) * 1000 / service[k]
		for n := 1; n < len(rungs); n++ {
			low, high := rungs[n-1], rungs[n]
			marginal := (high*MMcWait(slots[k], service[k], high) - low*MMcWait(slots[k], service[k], low)) / (high - low)
			g.edge(classes+k, sink, (high-low)*mu, marginal)
		}
		g.edge(classes+k, sink, (1-boundLoad)*mu, unserved/2) // only what would be shed else
	}
	g.run(source, sink)

	f := flow{wait: make([]float64, regions)}
	used := make([]float64, regions)
	for i, d := range demand {
		share := make([]float64, regions)
		sum := 0.0
		for k := range regions {
			if d > 0 && into[i][k] >= 0 {
				x := g.flowOn(into[i][k])
				used[k] += x
				sum += x / d
			}
			share[k] = sum
		}
		if sum > 1-1e-9 {
			share[regions-1] = math.Inf(1) // rounding must not shed
			for k := regions - 1; k > 0 && share[k-1] > 1-1e-9; k-- {
				share[k-1] = math.Inf(1)
			}
		}
		f.share = append(f.share, share)
	}
	for k := range regions {
		mu := float64(slots[k]) * 1000 / service[k]
		f.wait[k] = MMcWait(slots[k], service[k], min(used[k]/mu, boundLoad))
	}
	return f
}

// MMcWait is the mean wait of an M/M/c queue, in the unit of the service time, at a utilisation from 0 to below 1
// (Erlang's C formula).
func MMcWait(c int, service, utilisation float64) float64 {
	if utilisation <= 0 {
		return 0
	}
	a := utilisation * float64(c)
	blocked := 1.0 // Erlang B, by its recursion
	for k := 1; k <= c; k++ {
		blocked = a * blocked / (float64(k) + a*blocked)
	}
	waits := blocked / (1 - utilisation*(1-blocked))
	return waits * service / (float64(c) * (1 - utilisation))
}

// graph is a flow network with costs; edge i and i^1 are each other's reverse.
type graph struct {
	out  [][]int
	to   []int
	room []float64
	cost []float64
}

func newGraph(n int) *graph { return &graph{out: make([][]int, n)} }

func (g *graph) edge(from, to int, room, cost float64) int {
	id := len(g.to)
	g.to = append(g.to, to, from)
	g.room = append(g.room, room, 0)
	g.cost = append(g.cost, cost, -cost)
	g.out[from] = append(g.out[from], id)
	g.out[to] = append(g.out[to], id+1)
	return id
}

func (g *graph) flowOn(id int) float64 { return g.room[id^1] }

// dust is a flow, calls per second, that is rounding.
const dust = 1e-7

// run sends as much as possible, along the cheapest path first.
func (g *graph) run(source, sink int) {
	n := len(g.out)
	far, via, queued := make([]float64, n), make([]int, n), make([]bool, n)
	for {
		for i := range far {
			far[i], via[i] = math.Inf(1), -1
		}
		far[source] = 0
		for queue := []int{source}; len(queue) > 0; {
			at := queue[0]
			queue = queue[1:]
			queued[at] = false
			for _, id := range g.out[at] {
				to := g.to[id]
				if d := far[at] + g.cost[id]; g.room[id] > dust && d < far[to]-1e-9 {
					far[to], via[to] = d, id
					if !queued[to] {
						queued[to] = true
						queue = append(queue, to)
					}
				}
			}
		}
		if via[sink] < 0 {
			return
		}
		least := math.Inf(1)
		var path []int
		for at := sink; at != source; at = g.to[via[at]^1] {
			path = append(path, via[at])
			least = min(least, g.room[via[at]])
		}
		slices.Reverse(path)
		for _, id := range path {
			g.room[id] -= least
			g.room[id^1] += least
		}
	}
}
