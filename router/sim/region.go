package sim

import (
	"math"
	"time"
)

const (
	refusal   = 200 * time.Microsecond // what saying no takes
	memory    = time.Second            // of a region's recent residence and errors, which some rivals ask for
	drainsIn  = 2 * time.Second        // from the announcement of a drain to the first refusal
	announced = 500 * time.Millisecond // until every router knows

	// As region/load.go measures itself.
	serviceWeight    = 0.1
	serviceSmoothing = 500 * time.Millisecond
	arrivalSmoothing = 2 * time.Second
)

// region is an M/G/c queue: FIFO, bounded, with what it knows about itself.
type region struct {
	slots   int
	limit   int
	queue   []int32 // attempts that wait, from head
	head    int
	serving []int32

	service  float64 // ms of work, smoothed
	worked   time.Duration
	stay     smooth // ms inside
	errors   smooth // 0 or 1
	arrivals float64
	last     time.Duration
}

// smooth is a mean that forgets within memory.
type smooth struct {
	mean  float64
	last  time.Duration
	known bool
}

func (s *smooth) add(now time.Duration, x float64) {
	if !s.known {
		*s = smooth{x, now, true}
		return
	}
	a := max(1-math.Exp(-float64(now-s.last)/float64(memory)), 0.005)
	s.mean += a * (x - s.mean)
	s.last = now
}

func (g *region) arrive(now time.Duration) {
	g.arrivals = g.rate(now) + 1/arrivalSmoothing.Seconds()
	g.last = now
}

func (g *region) rate(now time.Duration) float64 {
	return g.arrivals * math.Exp(-float64(now-g.last)/float64(arrivalSmoothing))
}

// left takes in a residence. With more calls inside than slots, the rest of it was queueing.
func (g *region) left(now time.Duration, residence float64) {
	if inside := len(g.serving) + g.waiting(); inside > g.slots {
		residence *= float64(g.slots) / float64(inside)
	}
	if g.service == 0 {
		g.service = residence
		return
	}
	a := min(1-math.Exp(-float64(now-g.worked)/float64(serviceSmoothing)), serviceWeight)
	g.service += a * (residence - g.service)
	g.worked = now
}

func (g *region) waiting() int { return len(g.queue) - g.head }

func (g *region) report(now time.Duration) *Report {
	return &Report{InFlight: len(g.serving) + g.waiting(), Parallelism: g.slots, Service: millis(g.service),
		Recent: millis(g.stay.mean), Arrivals: g.rate(now), Errors: g.errors.mean}
}

// reach handles an attempt's arrival at its region.
func (r *run) reach(id int32) {
	a := &r.attempts[id]
	g := &r.regions[a.region]
	verdict, quick := Answered, false
	for i := range r.w.faults {
		f := &r.w.faults[i]
		if f.region != int(a.region) || !f.active(r.now) {
			continue
		}
		switch f.Kind {
		case "kill_reset", "absent":
			r.respond(id, Broken, 0, nil)
			return
		case "kill_hole":
			return
		case "errors", "exhausted":
			if !a.probe && r.draw(drawError, uint64(a.call), uint64(a.region)) < f.Share {
				verdict, quick = Failed, true
				if f.Kind == "exhausted" {
					verdict = Exhausted
				}
			}
		case "no_stock":
			if !a.probe {
				verdict, quick = NoUnit, true
			}
		case "drain":
			if !a.probe && r.now >= f.from+drainsIn {
				verdict, quick = Refused, true
			}
		}
	}
	if a.probe {
		r.respond(id, Answered, 0, r.reported(int(a.region)))
		return
	}
	g.arrive(r.now)
	if !quick && len(g.serving) >= g.slots && g.waiting() >= g.limit {
		verdict, quick = Exhausted, true
	}
	if quick {
		g.errors.add(r.now, 1)
		report := r.reported(int(a.region))
		report.Residence = refusal
		r.respond(id, verdict, refusal, report)
		return
	}
	a.arrived = r.now
	if len(g.serving) < g.slots {
		r.serve(id)
		return
	}
	g.queue = append(g.queue, id)
}

func (r *run) reported(i int) *Report {
	rep := r.regions[i].report(r.now)
	for k := range r.w.faults {
		if f := &r.w.faults[k]; f.region == i && f.Kind == "no_stock" && f.active(r.now) {
			rep.NoStock = true
		}
	}
	return rep
}

// serve starts an attempt's work.
func (r *run) serve(id int32) {
	a := &r.attempts[id]
	g := &r.regions[a.region]
	work := r.calls[a.call].work
	for i := range r.w.faults {
		f := &r.w.faults[i]
		if f.region != int(a.region) || !f.active(r.now) {
			continue
		}
		switch f.Kind {
		case "slow":
			work *= f.Factor
		case "gray":
			if r.draw(drawGray, uint64(a.call), uint64(a.region)) < f.Share {
				work *= f.Factor
			}
		}
	}
	a.work = work
	g.serving = append(g.serving, id)
	r.q.push(event{at: r.now + millis(work), kind: finish, id: id})
}

// finished answers, and takes the next one that somebody still waits for.
func (r *run) finished(id int32) {
	a := &r.attempts[id]
	if a.dead {
		return
	}
	g := &r.regions[a.region]
	g.left(r.now, toMillis(r.now-a.arrived))
	for i, other := range g.serving {
		if other == id {
			g.serving[i] = g.serving[len(g.serving)-1]
			g.serving = g.serving[:len(g.serving)-1]
			break
		}
	}
	g.stay.add(r.now, toMillis(r.now-a.arrived))
	g.errors.add(r.now, 0)
	for g.waiting() > 0 && len(g.serving) < g.slots {
		next := g.queue[g.head]
		g.head++
		if g.head > 1024 && 2*g.head > len(g.queue) {
			g.queue, g.head = append(g.queue[:0], g.queue[g.head:]...), 0
		}
		if n := &r.attempts[next]; n.cancelled > 0 && n.cancelled <= r.now {
			continue
		}
		r.serve(next)
	}
	report := r.reported(int(a.region))
	report.Residence = r.now - a.arrived
	r.respond(id, Answered, 0, report)
}

// kill loses everything inside; with a reset, the routers hear of it.
func (r *run) kill(i int, reset bool) {
	g := &r.regions[i]
	for _, id := range append(append([]int32(nil), g.serving...), g.queue[g.head:]...) {
		r.attempts[id].dead = true
		if reset {
			r.respond(id, Broken, 0, nil)
		}
	}
	g.serving, g.queue, g.head = g.serving[:0], g.queue[:0], 0
}

// respond sends an attempt's end back to its router.
func (r *run) respond(id int32, v Verdict, after time.Duration, report *Report) {
	a := &r.attempts[id]
	took, swallowed := r.path(int(a.router), int(a.region), false, a.message()|1)
	if swallowed {
		return
	}
	a.verdict, a.report = v, report
	r.q.push(event{at: r.now + after + took, kind: answer, id: id})
}
