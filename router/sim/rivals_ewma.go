package sim

import (
	"math"
	"time"
)

// peakEWMA follows tower's tower/src/load/peak_ewma.rs and tower/src/balance/p2c/service.rs, which Linkerd runs and which
// derive from Finagle's PeakEwma.scala: a mean of latencies that jumps to every peak and decays towards what comes
// after, and towards zero while nothing does, times the calls under way. Two distinct endpoints are drawn, and the first
// wins a tie; full scans all.
type peakEWMA struct {
	inFlight
	env  Env
	full bool
	rtt  [maxRegions]estimate
	buf  []int
}

type estimate struct {
	ns float64
	at time.Duration
}

// Linkerd's settings.
const (
	ewmaDecay   = 10 * time.Second
	ewmaDefault = 30 * time.Millisecond
)

func newPeakEWMA(full bool) func(Env) Policy {
	return func(e Env) Policy {
		p := &peakEWMA{env: e, full: full}
		for i := range p.rtt {
			p.rtt[i].ns = float64(ewmaDefault)
		}
		return p
	}
}

func (s *estimate) update(now time.Duration, rtt float64) float64 {
	if s.ns < rtt {
		s.ns = rtt
	} else {
		decay := math.Exp(-float64(now-s.at) / float64(ewmaDecay))
		s.ns = s.ns*decay + rtt*(1-decay)
	}
	s.at = now
	return s.ns
}

func (p *peakEWMA) load(now time.Duration, i int) float64 {
	return p.rtt[i].update(now, 0) * float64(p.n[i]+1)
}

func (p *peakEWMA) Done(now time.Duration, i int, o Outcome) {
	p.inFlight.Done(now, i, o)
	p.rtt[i].update(now, float64(o.Total))
}

func (p *peakEWMA) Pick(now time.Duration, a Ask) int {
	p.buf = members(a.Allowed, p.buf)
	if p.full {
		best, least := -1, math.Inf(1)
		for _, i := range p.buf {
			if l := p.load(now, i); l < least {
				best, least = i, l
			}
		}
		return best
	}
	first, second := twoOf(p.env, p.buf)
	if p.load(now, first) <= p.load(now, second) {
		return first
	}
	return second
}

// twoOf draws two distinct ones, or the only one twice.
func twoOf(e Env, from []int) (int, int) {
	n := len(from)
	if n == 1 {
		return from[0], from[0]
	}
	i, j := e.Rand.IntN(n), e.Rand.IntN(n-1)
	if j >= i {
		j++
	}
	return from[i], from[j]
}
