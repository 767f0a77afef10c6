package sim

import "time"

// roundRobin follows grpc-go balancer/roundrobin with balancer/endpointsharding: the ready endpoints in turn, from a
// random start.
type roundRobin struct {
	base
	next uint32
	buf  []int
}

func newRoundRobin(e Env) Policy { return &roundRobin{next: e.Rand.Uint32()} }

func (p *roundRobin) Pick(_ time.Duration, a Ask) int {
	p.buf = members(a.Allowed, p.buf)
	i := p.buf[p.next%uint32(len(p.buf))]
	p.next++
	return i
}

// leastRequest follows grpc-go balancer/leastrequest/leastrequest.go (picker.Pick): of choiceCount random endpoints,
// drawn with replacement, the one with the fewest of the client's own calls under way; the first drawn wins a tie. Full
// scans all, from a random start so that ties are not always won by the same.
type leastRequest struct {
	inFlight
	env     Env
	choices int
	full    bool
	buf     []int
}

func (p *leastRequest) Pick(_ time.Duration, a Ask) int {
	p.buf = members(a.Allowed, p.buf)
	n := len(p.buf)
	best := p.buf[p.env.Rand.IntN(n)]
	if p.full {
		start := p.env.Rand.IntN(n)
		for k := range n {
			if i := p.buf[(start+k)%n]; p.n[i] < p.n[best] {
				best = i
			}
		}
		return best
	}
	for range p.choices - 1 {
		if i := p.buf[p.env.Rand.IntN(n)]; p.n[i] < p.n[best] {
			best = i
		}
	}
	return best
}
