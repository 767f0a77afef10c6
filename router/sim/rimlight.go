package sim

import (
	"math"
	"time"

	"github.com/rimlight/rimlight/router/arbiter"
)

const (
	publishEvery = 20 * time.Millisecond // as router/measure publishes
	probeEvery   = time.Second
	probeSooner  = 200 * time.Millisecond // of a node in trouble

	hedgeLeast  = 10 * time.Millisecond
	hedgeShare  = 0.02 // tokens per call that went well
	hedgeBurst  = 40.0 // tokens at most
	hedgeClosed = 0.85 // of the platform's capacity: above it, second copies only make it worse

	// As router/forward retries.
	mostAttempts = 3     // the third only if nothing was heard of either
	retryShare   = 0.2   // tokens per call that went well
	retryBurst   = 500.0 // tokens at most

	drop    = "drop"
	inZone  = "zone"
	outOfIt = "world"
)

// rimlight is the production picker: router/arbiter's nodes fed as router/measure feeds them, its Pick over snapshots
// that are as old as those of a router.
type rimlight struct {
	env      Env
	nodes    []*arbiter.Node // nil: does not exist
	rows     []*arbiter.Region
	stale    []bool
	modes    []arbiter.Mode
	stocks   []map[string]arbiter.Stock
	snapshot *arbiter.Snapshot
	next     time.Duration // the earliest next publication
	waking   bool
	started  bool
	hedges   float64 // tokens
	retries  float64 // tokens
	paying   bool    // the next retry costs one
}

var withUnits, withoutUnits = map[string]arbiter.Stock{drop: arbiter.StockHeld}, map[string]arbiter.Stock{drop: arbiter.StockNone}

func newRimlight(e Env) Policy {
	n := len(e.Regions)
	p := &rimlight{
		env: e, nodes: make([]*arbiter.Node, n), rows: make([]*arbiter.Region, n), stale: make([]bool, n),
		modes: make([]arbiter.Mode, n), stocks: make([]map[string]arbiter.Stock, n), snapshot: &arbiter.Snapshot{}, hedges: hedgeBurst,
		retries: retryBurst,
	}
	return p
}

func (p *rimlight) Known(now time.Duration, present, draining mask) {
	for i := range p.nodes {
		switch {
		case !present.has(i):
			p.nodes[i], p.rows[i] = nil, nil
		case p.nodes[i] == nil:
			p.nodes[i] = arbiter.NewNode(p.started) // one that comes later ramps up
		}
		p.modes[i] = arbiter.Serving
		if draining.has(i) {
			p.modes[i] = arbiter.Drained
		}
		p.stale[i] = true
	}
	p.started = true
	p.publish(now)
}

// Restore is a table saved at the last stop.
func (p *rimlight) Restore(now time.Duration, rtt []float64) {
	for i, n := range p.nodes {
		if n != nil {
			n.Remember(now, millis(rtt[i]), millis(serviceMillis))
			p.stale[i] = true
		}
	}
	p.publish(now)
}

// touch publishes now, or as soon as the last publication is 20 ms old.
func (p *rimlight) touch(now time.Duration, i int) {
	p.stale[i] = true
	if now >= p.next {
		p.publish(now)
		return
	}
	p.wakeAt(p.next)
}

func (p *rimlight) wakeAt(at time.Duration) {
	if !p.waking {
		p.waking = true
		p.env.Wake(at)
	}
}

func (p *rimlight) Wake(now time.Duration) {
	p.waking = false
	p.publish(now)
}

func (p *rimlight) publish(now time.Duration) {
	s := &arbiter.Snapshot{Version: p.snapshot.Version + 1, Regions: make([]*arbiter.Region, 0, len(p.nodes))}
	watched := false
	for i, n := range p.nodes {
		if n == nil {
			continue
		}
		if p.stale[i] || n.Watched(now) {
			name := p.env.Regions[i]
			row := &arbiter.Region{Key: name, Name: name, Zones: zones(p.env.Zone.has(i)), Mode: p.modes[i], Stock: p.stocks[i]}
			n.Measure(now, row)
			p.rows[i], p.stale[i] = row, false
		}
		watched = watched || n.Watched(now)
		s.Regions = append(s.Regions, p.rows[i])
	}
	p.snapshot = s
	p.next = now + publishEvery
	if watched {
		p.wakeAt(p.next)
	}
}

func zones(in bool) []string {
	if in {
		return []string{inZone}
	}
	return []string{outOfIt}
}

func (p *rimlight) request(a Ask) arbiter.Request {
	r := arbiter.Request{Kind: arbiter.Offer, Drop: drop, Budget: a.Remaining}
	if a.Restricted {
		r.Zones = []string{inZone}
	}
	for i := range p.nodes {
		if a.Tried.has(i) {
			r.Tried = append(r.Tried, p.env.Regions[i])
		}
	}
	return r
}

func (p *rimlight) index(c arbiter.Choice) int {
	if c.Region == nil {
		return -1
	}
	for i, name := range p.env.Regions {
		if name == c.Region.Name {
			return i
		}
	}
	return -1
}

func (p *rimlight) Pick(_ time.Duration, a Ask) int {
	i := p.index(arbiter.Pick(p.snapshot, p.request(a), p.env.Rand.Float64()))
	if i >= 0 && a.Tried != 0 && p.paying {
		p.retries--
	}
	return i
}

// Again allows a further attempt: as many as router/forward's, from the same budget.
func (p *rimlight) Again(v Verdict, asked int, silent bool) bool {
	p.paying = v != NoUnit && v != Refused // a healthy region's refusal costs nothing
	return asked < mostAttempts && (asked == 1 || silent) && (!p.paying || p.retries >= 1)
}

func (p *rimlight) Sent(now time.Duration, i int) {
	p.nodes[i].Send(now, true)
	p.touch(now, i)
}

func (p *rimlight) Done(now time.Duration, i int, o Outcome) {
	n := p.nodes[i]
	if n == nil {
		return
	}
	end := arbiter.Outcome{Elapsed: o.Total, Timed: true, Load: load(o.Report, o.Total)}
	switch o.Verdict {
	case Answered:
		end.Verdict = arbiter.Good
		p.hedges = math.Min(p.hedges+hedgeShare, hedgeBurst)
		p.retries = math.Min(p.retries+retryShare, retryBurst)
	case NoUnit:
		end.Verdict = arbiter.Good
		p.stocks[i] = withoutUnits
	case Refused:
		end.Verdict = arbiter.Good
		p.modes[i] = arbiter.Drained
	case Failed:
		end.Verdict = arbiter.Failed
	case Exhausted:
		end.Verdict = arbiter.Shed
	case Broken, TimedOut:
		end.Verdict = arbiter.Broken
	case Cancelled:
		end.Verdict = arbiter.Outrun
		if o.Hedge { // it was not needed, and says nothing about its region
			end.Verdict = arbiter.Ignored
		}
	}
	n.Done(now, now-o.Total, end)
	p.touch(now, i)
}

func load(r *Report, total time.Duration) *arbiter.Load {
	if r == nil {
		return nil
	}
	l, _ := arbiter.Load{Residence: r.Residence, Service: r.Service, InFlight: uint32(r.InFlight), Parallelism: uint32(r.Parallelism),
		Arrivals: r.Arrivals}.Sane(total)
	return &l
}

func (p *rimlight) Probed(now time.Duration, i int, total time.Duration, r *Report) {
	n := p.nodes[i]
	switch {
	case n == nil:
		return
	case r == nil:
		n.Lost()
	default:
		n.Probed(now, total, load(r, total))
		p.stocks[i] = withUnits
		if r.NoStock {
			p.stocks[i] = withoutUnits
		}
	}
	p.touch(now, i)
}

// ProbeEvery looks at the published row: the node's own word needs the time.
func (p *rimlight) ProbeEvery(i int) time.Duration {
	row := p.rows[i]
	if row == nil || !row.Reachable || row.Suspect || row.Ejected || row.Held > 0 {
		return probeSooner
	}
	return probeEvery
}

// HedgeAfter is when an answer is late, as the picker predicts it.
func (p *rimlight) HedgeAfter(_ time.Duration, i int, _ Ask) time.Duration {
	if p.rows[i] == nil {
		return 0
	}
	return max(p.rows[i].Late(), hedgeLeast)
}

func (p *rimlight) HedgePick(_ time.Duration, i int, a Ask) int {
	if p.hedges < 1 || p.snapshot.Utilisation() > hedgeClosed {
		return -1
	}
	r := p.request(a)
	r.Hedging = p.env.Regions[i]
	g := p.index(arbiter.Pick(p.snapshot, r, p.env.Rand.Float64()))
	if g >= 0 {
		p.hedges--
	}
	return g
}
