package sim

import (
	"math/bits"
	"math/rand/v2"
	"time"
)

// call is one viewer's request.
type call struct {
	at          time.Duration
	work        float64 // ms, the same wherever it is done
	router      int32
	tried       mask
	outstanding int8
	restricted  bool
	retried     bool
	spoken      bool // a region said something, if only that it cannot
	over        bool
	last        Verdict
}

// attempt is a call sent to one region, or a probe.
type attempt struct {
	call       int32
	router     int32
	region     int32
	probe      bool
	hedge      bool
	over       bool // the router does not wait any more
	dead       bool // it went down with its region
	generation int32
	verdict    Verdict // what its answer says
	ended      Verdict // how it was over for its router
	work       float64
	sent       time.Duration
	arrived    time.Duration
	cancelled  time.Duration // when its region hears that nobody waits; 0: never
	report     *Report
}

// message numbers an attempt's request; one more is its answer. It does not depend on what the policy did before.
func (a *attempt) message() uint64 {
	if a.probe {
		return 1<<62 | uint64(a.sent)<<8 | uint64(a.router)<<1&0xff
	}
	return uint64(a.call) << 1
}

// run is one policy in one world with one seed.
type run struct {
	w        *world
	spec     Spec
	seed     uint64
	now      time.Duration
	q        queue
	regions  []region
	routers  []router
	calls    []call
	attempts []attempt
	probes   uint64
	shared   *shared
	out      *outcome
}

type router struct {
	policy     Policy
	hedges     hedger // nil: never
	next       Policy // the new process that looks around before it takes over
	generation int32  // of processes
	arrivals   uint64
	known      mask
	draining   mask
}

// play runs a policy through a world.
func play(w *world, spec Spec, seed uint64) *outcome { return newRun(w, spec, seed).play() }

// newRun sets everything up for the first instant.
func newRun(w *world, spec Spec, seed uint64) *run {
	r := &run{w: w, spec: spec, seed: seed, out: newOutcome(w), shared: newShared(w)}
	for i := range w.regions {
		r.regions = append(r.regions, region{slots: w.slots[i], limit: w.slots[i] * queuePerSlot})
	}
	r.routers = make([]router, len(w.home))
	for i := range r.routers {
		r.routers[i].known = ^mask(0) // not yet told
		r.install(int32(i), r.newPolicy(int32(i)))
		for g := range w.regions {
			// The first probes leave at once, the later ones at their own times.
			r.probe(int32(i), int32(g), r.routers[i].generation)
			r.q.push(event{at: millis(1000 * r.draw(drawProbe, uint64(i), uint64(g))), kind: probeDue, id: int32(i), arg: int32(g)})
		}
		r.schedule(int32(i))
	}
	for i := range w.faults {
		f := &w.faults[i]
		switch f.Kind {
		case "router_start", "stale_started":
			for k, meant := range f.routers {
				if meant {
					r.q.push(event{at: max(0, f.from-readyIn), kind: coldProbe, id: int32(k), arg: int32(i)})
					r.q.push(event{at: f.from, kind: coldSwap, id: int32(k)})
				}
			}
		case "drain":
			r.q.push(event{at: f.from + announced, kind: faultEdge, id: int32(i)})
			r.q.push(event{at: f.to + announced, kind: faultEdge, id: int32(i)})
		default:
			r.q.push(event{at: f.from, kind: faultEdge, id: int32(i)})
			r.q.push(event{at: f.to, kind: faultEdge, id: int32(i)})
		}
	}
	r.tellKnown()
	return r
}

// play goes from event to event until the last call is over.
func (r *run) play() *outcome {
	for len(r.q.events) > 0 {
		e := r.q.pop()
		r.now = e.at
		r.handle(e)
		if r.now > r.w.end && r.out.open == 0 {
			break // only probes go on
		}
	}
	return r.out
}

// readyIn is how long a new router process may look around before it takes calls.
const readyIn = 400 * time.Millisecond

func (r *run) draw(purpose, a, b uint64) float64 { return uniform(r.seed, purpose, a, b) }

func (r *run) newPolicy(i int32) Policy {
	rt := &r.routers[i]
	generation := uint64(rt.generation)
	return r.spec.Make(Env{
		Router: int(i), Regions: r.w.regions, Zone: r.w.zone, RTT: r.w.rtt[i], Slots: r.w.slots, Shared: r.shared,
		Rand:     rand.New(rand.NewPCG(mix(r.seed^drawPolicy), uint64(i)|generation<<32)),
		Wake:     func(at time.Duration) { r.q.push(event{at: at, kind: wake, id: i, arg: int32(generation)}) },
		Probe:    func(g int) { r.probe(i, int32(g), r.routers[i].generation) },
		Connects: func(now time.Duration, g int) bool { return r.connects(now, int(i), g) },
	})
}

func (r *run) install(i int32, p Policy) {
	rt := &r.routers[i]
	rt.policy, rt.next = p, nil
	rt.hedges, _ = p.(hedger)
}

func (r *run) connects(now time.Duration, router, region int) bool {
	for i := range r.w.faults {
		f := &r.w.faults[i]
		if f.region != region || !f.active(now) {
			continue
		}
		switch f.Kind {
		case "kill_reset", "kill_hole", "absent":
			return false
		case "cut", "cut_to", "cut_from", "flap_cut":
			if f.routers[router] {
				return false
			}
		}
	}
	return true
}

func (r *run) handle(e event) {
	switch e.kind {
	case arrival:
		r.begin(e.id)
		r.schedule(e.id)
	case deliver:
		r.reach(e.id)
	case finish:
		r.finished(e.id)
	case answer:
		r.answered(e.id)
	case tryOver:
		if a := &r.attempts[e.id]; !a.over {
			r.give(e.id, TimedOut)
			r.failed(a.call, TimedOut)
		}
	case hedgeDue:
		r.hedge(e.id)
	case deadline:
		if c := &r.calls[e.id]; !c.over {
			r.end(e.id, TimedOut)
		}
	case probeDue:
		rt := &r.routers[e.id]
		r.probe(e.id, e.arg, rt.generation)
		every := float64(rt.policy.ProbeEvery(int(e.arg)))
		r.probes++
		jitter := 0.9 + 0.2*r.draw(drawProbe, r.probes, uint64(e.id))
		r.q.push(event{at: r.now + time.Duration(every*jitter), kind: probeDue, id: e.id, arg: e.arg})
	case probeOver:
		if a := &r.attempts[e.id]; !a.over {
			a.over, a.ended = true, TimedOut
			r.probed(a, nil)
		}
	case wake:
		if rt := &r.routers[e.id]; rt.generation == e.arg {
			rt.policy.Wake(r.now)
		} else if rt.next != nil && rt.generation+1 == e.arg {
			rt.next.Wake(r.now)
		}
	case faultEdge:
		f := &r.w.faults[e.id]
		if (f.Kind == "kill_reset" || f.Kind == "kill_hole") && r.now == f.from {
			r.kill(f.region, f.Kind == "kill_reset")
		}
		r.tellKnown()
	case coldProbe:
		r.lookAround(e.id, &r.w.faults[e.arg])
	case coldSwap:
		rt := &r.routers[e.id]
		rt.generation++
		r.install(e.id, rt.next)
	}
}

// lookAround starts a new process beside the one that serves.
func (r *run) lookAround(i int32, f *fault) {
	rt := &r.routers[i]
	rt.generation++
	rt.next = r.newPolicy(i)
	rt.generation--
	rt.next.Known(r.now, rt.known, rt.draining)
	if s, ok := rt.next.(restorer); ok && f.Kind == "stale_started" {
		// As if the table had been saved before the paths changed: every distance is another region's.
		wrong := append(append([]float64(nil), r.w.rtt[i][1:]...), r.w.rtt[i][0])
		s.Restore(r.now, wrong)
	}
	for g := range r.w.regions {
		r.probe(i, int32(g), rt.generation+1)
	}
}

// restorer is a policy that keeps its table over a restart.
type restorer interface {
	Restore(now time.Duration, rtt []float64)
}

// tellKnown tells every router which regions exist and drain, when that changed.
func (r *run) tellKnown() {
	present, draining := r.w.present, mask(0)
	for i := range r.w.faults {
		f := &r.w.faults[i]
		switch {
		case f.Kind == "absent" && f.active(r.now):
			present &^= bit(f.region)
		case f.Kind == "drain" && f.from+announced <= r.now && r.now < f.to+announced:
			draining |= bit(f.region)
		}
	}
	for i := range r.routers {
		rt := &r.routers[i]
		if rt.known != present || rt.draining != draining {
			rt.known, rt.draining = present, draining
			rt.policy.Known(r.now, present, draining)
		}
	}
}

// schedule puts a router's next arrival: unit-rate gaps stretched over its rate, which crowds change.
func (r *run) schedule(i int32) {
	rt := &r.routers[i]
	rt.arrivals++
	gap := exponential(r.draw(drawArrival, uint64(i), rt.arrivals))
	at := r.now
	for {
		rate := r.w.rate[i] * r.w.crowd(int(i), at)
		until := r.w.end + 1
		for _, b := range r.w.bursts {
			if b.from > at {
				until = min(until, b.from)
			}
			if b.to > at {
				until = min(until, b.to)
			}
		}
		if need := seconds(gap / rate); rate > 0 && at+need < until {
			at += need
			break
		}
		gap -= rate * (until - at).Seconds()
		if at = until; at > r.w.end {
			return
		}
	}
	r.q.push(event{at: at, kind: arrival, id: i})
}

// begin takes a viewer's call.
func (r *run) begin(i int32) {
	id := int32(len(r.calls))
	n := r.routers[i].arrivals
	c := call{at: r.now, router: i}
	c.work = r.w.mean * exponential(r.draw(drawWork, uint64(i), n))
	c.restricted = r.w.part.Restricted > 0 && r.w.zone.has(r.w.home[i]) && r.draw(drawZone, uint64(i), n) < r.w.part.Restricted
	r.calls = append(r.calls, c)
	r.out.arrive(r.now)
	r.q.push(event{at: r.now + millis(deadlineMillis), kind: deadline, id: id})
	r.send(id, false)
}

// ask is a call's choice as a policy sees it.
func (r *run) ask(c *call, hedge bool) Ask {
	rt := &r.routers[c.router]
	allowed := rt.known &^ rt.draining &^ c.tried
	if c.restricted {
		allowed &= r.w.zone
	}
	return Ask{Allowed: allowed, Tried: c.tried, Restricted: c.restricted, Hedge: hedge, Remaining: c.at + millis(deadlineMillis) - r.now}
}

// send asks the policy and sends an attempt where it says.
func (r *run) send(id int32, hedge bool) {
	c := &r.calls[id]
	a := r.ask(c, hedge)
	g := -1
	if a.Allowed != 0 {
		g = r.routers[c.router].policy.Pick(r.now, a)
	}
	if g < 0 {
		if c.outstanding == 0 {
			if !c.retried {
				c.last = Broken
			}
			r.end(id, c.last)
		}
		return
	}
	r.dispatch(id, g, false)
}

func (r *run) dispatch(id int32, g int, hedge bool) {
	c := &r.calls[id]
	rt := &r.routers[c.router]
	if r.out.counts(c.at) {
		r.out.attempts++
		if c.tried == 0 {
			r.out.routed(r.now, g)
		}
	}
	c.tried |= bit(g)
	c.outstanding++
	n := int32(len(r.attempts))
	r.attempts = append(r.attempts, attempt{call: id, router: c.router, region: int32(g), hedge: hedge, sent: r.now, generation: rt.generation})
	rt.policy.Sent(r.now, g)
	if took, swallowed := r.path(int(c.router), g, true, r.attempts[n].message()); !swallowed {
		r.q.push(event{at: r.now + took, kind: deliver, id: n})
	}
	r.q.push(event{at: r.now + millis(tryMillis), kind: tryOver, id: n})
	if rt.hedges != nil && !c.retried {
		if after := rt.hedges.HedgeAfter(r.now, g, r.ask(c, true)); after > 0 {
			r.q.push(event{at: r.now + after, kind: hedgeDue, id: n})
		}
	}
}

// hedge asks another region as well, when the policy still wants that.
func (r *run) hedge(id int32) {
	a := &r.attempts[id]
	c := &r.calls[a.call]
	rt := &r.routers[a.router]
	if a.over || c.over || c.retried || rt.hedges == nil {
		return
	}
	ask := r.ask(c, true)
	if ask.Allowed == 0 {
		return
	}
	if g := rt.hedges.HedgePick(r.now, int(a.region), ask); g >= 0 {
		c.retried = true // a hedge is a call's second attempt
		r.dispatch(a.call, g, true)
	}
}

// answered handles what came back.
func (r *run) answered(id int32) {
	a := &r.attempts[id]
	if a.over {
		return
	}
	if a.probe {
		a.over, a.ended = true, a.verdict
		if a.verdict == Broken {
			r.probed(a, nil)
		} else {
			r.probed(a, a.report)
		}
		return
	}
	v := a.verdict
	r.give(id, v)
	if v == Answered {
		r.end(a.call, Answered)
		return
	}
	r.failed(a.call, v)
}

// give ends an attempt for its router and tells the policy.
func (r *run) give(id int32, v Verdict) {
	a := &r.attempts[id]
	a.over, a.ended = true, v
	r.calls[a.call].outstanding--
	if v == Cancelled || v == TimedOut {
		a.cancelled = r.now + millis(r.w.roundTrip(int(a.router), int(a.region), r.now)/2)
		a.report = nil
	}
	rt := &r.routers[a.router]
	if rt.generation == a.generation { // else the process that sent it is gone
		rt.policy.Done(r.now, int(a.region), Outcome{Verdict: v, Total: r.now - a.sent, Report: a.report, Hedge: a.hedge})
	}
}

// failed retries elsewhere, or waits for the attempt that is still under way, or ends the call.
func (r *run) failed(id int32, v Verdict) {
	c := &r.calls[id]
	c.last = v
	c.spoken = c.spoken || v != Broken && v != TimedOut
	switch {
	case c.over || c.outstanding > 0:
	case r.again(c, v):
		c.retried = true
		r.send(id, false)
	default:
		r.end(id, v)
	}
}

// again tells whether a call whose attempts failed gets another one: one retry, unless the policy has its own rule.
func (r *run) again(c *call, v Verdict) bool {
	if p, ok := r.routers[c.router].policy.(retrier); ok {
		return p.Again(v, bits.OnesCount64(uint64(c.tried)), !c.spoken)
	}
	return !c.retried
}

// end finishes a call and cancels what is still under way.
func (r *run) end(id int32, v Verdict) {
	c := &r.calls[id]
	c.over = true
	if c.outstanding > 0 {
		reason := Cancelled
		if v == TimedOut {
			reason = TimedOut
		}
		for k := len(r.attempts) - 1; k >= 0 && c.outstanding > 0; k-- {
			if a := &r.attempts[k]; a.call == id && !a.probe && !a.over {
				r.give(int32(k), reason)
			}
		}
	}
	r.out.end(c.at, r.now-c.at, v)
}

// probe asks a region about itself.
func (r *run) probe(i, g, generation int32) {
	rt := &r.routers[i]
	if rt.known != ^mask(0) && !rt.known.has(int(g)) {
		return
	}
	n := int32(len(r.attempts))
	r.attempts = append(r.attempts, attempt{call: -1, router: i, region: g, probe: true, sent: r.now, generation: generation})
	if took, swallowed := r.path(int(i), int(g), true, r.attempts[n].message()); !swallowed {
		r.q.push(event{at: r.now + took, kind: deliver, id: n})
	}
	r.q.push(event{at: r.now + time.Second, kind: probeOver, id: n})
	r.out.probes++
}

// probed hands a probe's answer to the process that asked.
func (r *run) probed(a *attempt, report *Report) {
	rt := &r.routers[a.router]
	p := rt.policy
	if a.generation != rt.generation {
		if p = rt.next; p == nil || a.generation != rt.generation+1 {
			return
		}
	}
	p.Probed(r.now, int(a.region), r.now-a.sent, report)
}
