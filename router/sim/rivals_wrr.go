package sim

import (
	"math"
	"time"
)

// weightedRoundRobin follows grpc-go balancer/weightedroundrobin: balancer.go (OnLoadReport, weight) and scheduler.go
// (newScheduler, edfScheduler). Its defaults are kept but for the blackout period: 10 s would make it plain round robin
// for most of a scenario, so 1 s is used.
type weightedRoundRobin struct {
	base
	env       Env
	sequence  uint32
	weights   [maxRegions]endpointWeight
	scheduled time.Duration // when the scheduler was made
	allowed   mask
	scaled    []uint16 // nil: round robin
	buf       []int
}

type endpointWeight struct {
	value    float64
	since    time.Duration // of the first report
	reported bool
}

const (
	weightUpdate  = time.Second // weight_update_period
	blackout      = time.Second // blackout_period, 10 s by default
	errorPenalty  = 1.0         // error_utilization_penalty
	heaviest      = math.MaxUint16
	expiresWeight = 3 * time.Minute // weight_expiration_period; no scenario is that long
)

func newWeightedRoundRobin(e Env) Policy {
	return &weightedRoundRobin{env: e, sequence: e.Rand.Uint32(), scheduled: -weightUpdate}
}

// Done takes the per-call load report. Utilisation is what the application reports: work per second over its slots.
func (p *weightedRoundRobin) Done(now time.Duration, i int, o Outcome) {
	if o.Report == nil {
		return
	}
	p.observe(now, i, o.Report.Arrivals, o.Report.Arrivals*o.Report.Service.Seconds()/float64(o.Report.Parallelism), o.Report.Errors)
}

func (p *weightedRoundRobin) observe(now time.Duration, i int, rps, utilisation, errorRate float64) {
	if utilisation == 0 || rps == 0 {
		return
	}
	w := &p.weights[i]
	w.value = rps / (utilisation + errorRate*errorPenalty)
	if !w.reported {
		w.since, w.reported = now, true
	}
}

func (p *weightedRoundRobin) weight(now time.Duration, i int) float64 {
	if w := &p.weights[i]; w.reported && now-w.since >= blackout {
		return w.value
	}
	return 0
}

func (p *weightedRoundRobin) Pick(now time.Duration, a Ask) int {
	if a.Allowed != p.allowed || now-p.scheduled >= weightUpdate {
		p.allowed, p.scheduled = a.Allowed, now
		p.buf = members(a.Allowed, p.buf)
		weights := make([]float64, len(p.buf))
		for k, i := range p.buf {
			weights[k] = p.weight(now, i)
		}
		p.scaled = scale(weights)
	}
	return p.buf[p.nextIndex()]
}

// scale is newScheduler: nil means round robin.
func scale(weights []float64) []uint16 {
	sum, most, zeros := 0.0, 0.0, 0
	for _, w := range weights {
		sum += w
		most = max(most, w)
		if w == 0 {
			zeros++
		}
	}
	n := len(weights)
	if zeros >= n-1 {
		return nil
	}
	factor := heaviest / most
	mean := uint16(math.Round(factor * sum / float64(n-zeros)))
	scaled, equal := make([]uint16, n), true
	for i, w := range weights {
		scaled[i] = mean
		if w > 0 {
			scaled[i] = uint16(math.Round(factor * w))
			equal = equal && scaled[i] == mean
		}
	}
	if equal {
		return nil
	}
	return scaled
}

// nextIndex is edfScheduler.nextIndex, a static stride: each endpoint is passed over in as many generations as its
// weight is below the heaviest.
func (p *weightedRoundRobin) nextIndex() int {
	n := uint64(len(p.buf))
	for {
		p.sequence++
		at := uint64(p.sequence)
		i, generation := at%n, at/n
		if p.scaled == nil {
			return int(i)
		}
		w := uint64(p.scaled[i])
		if (w*generation+i*(heaviest/2))%heaviest >= heaviest-w {
			return int(i)
		}
	}
}
