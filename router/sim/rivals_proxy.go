package sim

import (
	"math"
	"time"
)

// envoyLeastRequest follows Envoy's source/extensions/load_balancing_policies/least_request/least_request_lb.cc:
// N_CHOICES draws two with replacement, FULL_SCAN takes the least of all and draws among ties.
type envoyLeastRequest struct {
	inFlight
	env  Env
	full bool
	buf  []int
}

func (p *envoyLeastRequest) Pick(_ time.Duration, a Ask) int {
	p.buf = members(a.Allowed, p.buf)
	if p.full {
		return p.scan()
	}
	best := p.buf[p.env.Rand.IntN(len(p.buf))]
	if i := p.buf[p.env.Rand.IntN(len(p.buf))]; p.n[i] < p.n[best] {
		best = i
	}
	return best
}

// scan is unweightedHostPickFullScan, with its reservoir.
func (p *envoyLeastRequest) scan() int {
	best, tied := p.buf[0], 1
	for _, i := range p.buf[1:] {
		switch {
		case p.n[i] < p.n[best]:
			best, tied = i, 1
		case p.n[i] == p.n[best]:
			if tied++; p.env.Rand.IntN(tied) == 0 {
				best = i
			}
		}
	}
	return best
}

// traefikP2C follows Traefik's pkg/server/service/loadbalancer/p2c/p2c.go: two distinct servers, the one with fewer calls
// under way, the first on a tie. Full scans all, from a random start.
type traefikP2C struct {
	inFlight
	env  Env
	full bool
	buf  []int
}

func (p *traefikP2C) Pick(_ time.Duration, a Ask) int {
	p.buf = members(a.Allowed, p.buf)
	if p.full {
		start, best := p.env.Rand.IntN(len(p.buf)), -1
		for k := range p.buf {
			if i := p.buf[(start+k)%len(p.buf)]; best < 0 || p.n[i] < p.n[best] {
				best = i
			}
		}
		return best
	}
	first, second := twoOf(p.env, p.buf)
	if p.n[second] < p.n[first] {
		return second
	}
	return first
}

// traefikLeastTime follows Traefik's pkg/server/service/loadbalancer/leasttime/leasttime.go: the mean of the last 100
// times to the first byte, in whole milliseconds, times one more than the calls under way; 0 without a sample. Ties go
// to the earliest deadline. It scans all as shipped.
type traefikLeastTime struct {
	inFlight
	servers  [maxRegions]leastTimeServer
	buf, tie []int
}

type leastTimeServer struct {
	deadline float64
	times    [leastTimeSamples]float64
	at, have int
	sum      float64
}

const leastTimeSamples = 100

func newTraefikLeastTime(e Env) Policy {
	p := &traefikLeastTime{}
	for i := range e.Regions { // every server is added with weight 1, one deadline after the other
		p.servers[i].deadline = float64(i + 1)
	}
	return p
}

func (p *traefikLeastTime) Done(now time.Duration, i int, o Outcome) {
	p.inFlight.Done(now, i, o)
	if o.Report == nil { // no first byte
		return
	}
	s := &p.servers[i]
	ms := float64(o.Total.Milliseconds())
	if s.have < leastTimeSamples {
		s.have++
		s.sum += ms
	} else {
		s.sum += ms - s.times[s.at]
	}
	s.times[s.at] = ms
	s.at = (s.at + 1) % leastTimeSamples
}

func (p *traefikLeastTime) Pick(_ time.Duration, a Ask) int {
	p.buf = members(a.Allowed, p.buf)
	least := math.MaxFloat64
	p.tie = p.tie[:0]
	for _, i := range p.buf {
		s := &p.servers[i]
		score := 0.0
		if s.have > 0 {
			score = s.sum / float64(s.have) * float64(1+p.n[i])
		}
		if score < least {
			least, p.tie = score, p.tie[:0]
		}
		if score == least {
			p.tie = append(p.tie, i)
		}
	}
	best := p.tie[0]
	if len(p.tie) == 1 {
		return best
	}
	for _, i := range p.tie {
		if p.servers[i].deadline < p.servers[best].deadline {
			best = i
		}
	}
	p.servers[best].deadline++
	return best
}
