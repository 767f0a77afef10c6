package sim

import (
	"math"
	"slices"
	"time"
)

// prequal follows "Load is not what you should balance: Introducing Prequal" (Wydrowski et al., NSDI 2024), section 4:
// every call sends probes to random replicas and takes a probe out of the pool, the oldest and the worst in turn; a
// probe is hot when its calls in flight are above the QRIF quantile of the pool's replicas; the cold one with the lowest latency
// is chosen, or the hot one with the fewest in flight. As replicas are oceans apart here, the latency is the reported
// one plus the probe's round trip, without which every choice would be blind to distance.
//
// Full keeps the newest report of every region instead, from probes once a second and from every answer.
type prequal struct {
	base
	env        Env
	full       bool
	pool       []pooled
	takeOldest bool
	trip       [maxRegions]float64 // ms, the last probe's
	buf, rifs  []int
}

type pooled struct {
	region  int
	rif     int
	latency float64 // ms
	at      time.Duration
}

// The paper's settings.
const (
	prequalPool   = 16
	prequalProbes = 3 // r_probe, by call
	prequalAge    = time.Second
	prequalHot    = 0.84 // Q_RIF
	prequalLeast  = 2    // fewer probes in the pool: a random replica
)

func newPrequal(full bool) func(Env) Policy {
	return func(e Env) Policy { return &prequal{env: e, full: full} }
}

func (p *prequal) Probed(now time.Duration, i int, total time.Duration, r *Report) {
	if r == nil {
		return
	}
	p.trip[i] = toMillis(total)
	p.insert(pooled{i, r.InFlight, toMillis(r.Recent) + p.trip[i], now})
}

// Done takes the report of an answer: the full form's alone.
func (p *prequal) Done(now time.Duration, i int, o Outcome) {
	if p.full && o.Report != nil && o.Verdict == Answered {
		p.insert(pooled{i, o.Report.InFlight, toMillis(o.Report.Recent) + p.trip[i], now})
	}
}

func (p *prequal) insert(x pooled) {
	if p.full {
		p.pool = slices.DeleteFunc(p.pool, func(old pooled) bool { return old.region == x.region })
	} else if len(p.pool) >= prequalPool {
		p.removeOldest()
	}
	p.pool = append(p.pool, x)
}

func (p *prequal) removeOldest() {
	p.pool = slices.Delete(p.pool, 0, 1) // in the order of arrival
}

func (p *prequal) Pick(now time.Duration, a Ask) int {
	p.buf = members(a.Allowed, p.buf)
	if !p.full {
		for range prequalProbes {
			p.env.Probe(p.buf[p.env.Rand.IntN(len(p.buf))])
		}
		p.pool = slices.DeleteFunc(p.pool, func(x pooled) bool { return now-x.at >= prequalAge })
	}
	known := 0
	for _, x := range p.pool {
		if a.Allowed.has(x.region) {
			known++
		}
	}
	if known < min(prequalLeast, len(p.buf)) {
		return p.buf[p.env.Rand.IntN(len(p.buf))]
	}
	chosen := p.choose(a.Allowed)
	for k := range p.pool { // the pool cannot know of this call yet
		if p.pool[k].region == chosen {
			p.pool[k].rif++
		}
	}
	if !p.full {
		p.remove()
	}
	return chosen
}

// choose is the hot-cold lexicographic rule.
func (p *prequal) choose(allowed mask) int {
	threshold := p.threshold()
	best := -1
	for k, x := range p.pool {
		if allowed.has(x.region) && x.rif <= threshold && (best < 0 || x.latency < p.pool[best].latency) {
			best = k
		}
	}
	if best < 0 {
		for k, x := range p.pool {
			if allowed.has(x.region) && (best < 0 || x.rif < p.pool[best].rif) {
				best = k
			}
		}
	}
	return p.pool[best].region
}

// threshold is the quantile of the newest calls in flight by replica.
func (p *prequal) threshold() int {
	var seen mask
	p.rifs = p.rifs[:0]
	for k := len(p.pool) - 1; k >= 0; k-- {
		if x := p.pool[k]; !seen.has(x.region) {
			seen |= bit(x.region)
			p.rifs = append(p.rifs, x.rif)
		}
	}
	slices.Sort(p.rifs)
	return p.rifs[int(math.Floor(prequalHot*float64(len(p.rifs)-1)))]
}

// remove takes the oldest and the worst out in turn: the hottest if any is hot, else the slowest.
func (p *prequal) remove() {
	if len(p.pool) == 0 {
		return
	}
	if p.takeOldest = !p.takeOldest; p.takeOldest {
		p.removeOldest()
		return
	}
	threshold, worst, hot := p.threshold(), 0, false
	for k, x := range p.pool {
		w := p.pool[worst]
		switch isHot := x.rif > threshold; {
		case isHot && (!hot || x.rif > w.rif):
			worst, hot = k, true
		case !isHot && !hot && x.latency > w.latency:
			worst = k
		}
	}
	p.pool = slices.Delete(p.pool, worst, worst+1)
}
