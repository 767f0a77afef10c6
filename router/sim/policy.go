package sim

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"strings"
	"time"
)

// Verdict is how one attempt ended, as its router sees it.
type Verdict uint8

// The verdicts.
const (
	Answered  Verdict = iota
	Failed            // an error of the application
	Exhausted         // shed: RESOURCE_EXHAUSTED
	NoUnit            // no unit of the drop here
	Refused           // draining
	Broken            // the connection was reset or refused
	TimedOut          // nothing came in time
	Cancelled         // the router does not want to know any more: another attempt was first
)

// Report is what a region says about itself with every answer and probe.
type Report struct {
	InFlight    int           // calls inside, this one excluded
	Parallelism int           // calls worked on at once
	Service     time.Duration // recent mean work of a call
	Residence   time.Duration // how long this call was inside
	Recent      time.Duration // recent mean residence
	Arrivals    float64       // calls per second
	Errors      float64       // share of the recent calls that failed
	NoStock     bool
}

// Outcome is the end of an attempt.
type Outcome struct {
	Verdict Verdict
	Total   time.Duration
	Report  *Report // nil without an answer
	Hedge   bool    // it was the second copy of a call
}

// Ask is one choice to make.
type Ask struct {
	Allowed    mask // regions that exist, are not announced as draining, and may serve this viewer
	Tried      mask // where this call was; not in Allowed
	Restricted bool // served inside of the zone only
	Hedge      bool // the first attempt is still under way
	Remaining  time.Duration
}

// Env is what a policy is given by its router.
type Env struct {
	Router   int
	Regions  []string
	Zone     mask
	RTT      []float64 // ms there and back, as an operator would have configured it
	Slots    []int     // calls worked on at once, likewise
	Rand     *rand.Rand
	Wake     func(at time.Duration)                   // calls the policy's Wake then
	Probe    func(region int)                         // sends a further probe
	Connects func(now time.Duration, region int) bool // whether a connection attempt would succeed now
	Shared   *shared                                  // what a central controller of this policy knows
}

// Policy chooses for one router. It is told of its own attempts and probes only.
type Policy interface {
	Pick(now time.Duration, a Ask) int // -1: nowhere
	Sent(now time.Duration, region int)
	Done(now time.Duration, region int, o Outcome)
	// Probed tells of a probe's answer; nil: it was lost.
	Probed(now time.Duration, region int, total time.Duration, r *Report)
	// Known tells which regions exist and which of them are announced as draining, when that changes.
	Known(now time.Duration, present, draining mask)
	ProbeEvery(region int) time.Duration
	Wake(now time.Duration)
}

// hedger is a policy that may ask a second region while the first is silent.
type hedger interface {
	// HedgeAfter is how long to wait for an attempt first; 0: no hedge.
	HedgeAfter(now time.Duration, region int, a Ask) time.Duration
	// HedgePick is the region to ask as well; -1: none.
	HedgePick(now time.Duration, region int, a Ask) int
}

// retrier is a policy with its own rule for further attempts; the others get one, elsewhere.
type retrier interface {
	// Again tells whether a call may ask another region after an attempt that ended so: asked regions were tried, silent
	// ones all of them. The next Pick with anything tried is that attempt.
	Again(v Verdict, asked int, silent bool) bool
}

// base is what most policies do not care about.
type base struct{}

func (base) Sent(time.Duration, int)                           {}
func (base) Done(time.Duration, int, Outcome)                  {}
func (base) Probed(time.Duration, int, time.Duration, *Report) {}
func (base) Known(time.Duration, mask, mask)                   {}
func (base) ProbeEvery(int) time.Duration                      { return time.Second }
func (base) Wake(time.Duration)                                {}

// inFlight counts a router's own calls per region.
type inFlight struct {
	base
	n [maxRegions]int
}

func (f *inFlight) Sent(_ time.Duration, i int)            { f.n[i]++ }
func (f *inFlight) Done(_ time.Duration, i int, _ Outcome) { f.n[i]-- }

// Spec is a policy by its name.
type Spec struct {
	Name string
	Make func(Env) Policy
}

// Policies are all of them: rimlight first, then the rivals. The bound is not among them: it is computed, not played.
func Policies() []Spec {
	guarded := func(name string, build func(Env) Policy) Spec {
		return Spec{name, func(e Env) Policy { return newEjector(e, build(e)) }}
	}
	return []Spec{
		{"rimlight", newRimlight},
		guarded("round_robin", newRoundRobin),
		guarded("least_request", func(e Env) Policy { return &leastRequest{env: e, choices: 2} }),
		guarded("least_request-full", func(e Env) Policy { return &leastRequest{env: e, full: true} }),
		guarded("weighted_round_robin", newWeightedRoundRobin),
		guarded("peak_ewma", newPeakEWMA(false)),
		guarded("peak_ewma-full", newPeakEWMA(true)),
		guarded("envoy_least_request", func(e Env) Policy { return &envoyLeastRequest{env: e} }),
		guarded("envoy_least_request-full", func(e Env) Policy { return &envoyLeastRequest{env: e, full: true} }),
		guarded("prequal", newPrequal(false)),
		guarded("prequal-full", newPrequal(true)),
		guarded("nearest", newNearest),
		guarded("locality_failover", newLocalityFailover),
		guarded("waterfall", newWaterfall),
		guarded("traefik_leasttime", newTraefikLeastTime),
		guarded("traefik_p2c", func(e Env) Policy { return &traefikP2C{env: e} }),
		guarded("traefik_p2c-full", func(e Env) Policy { return &traefikP2C{env: e, full: true} }),
	}
}

// Lookup finds a policy by name.
func Lookup(name string) (Spec, error) {
	var names []string
	for _, s := range Policies() {
		if s.Name == name {
			return s, nil
		}
		names = append(names, s.Name)
	}
	return Spec{}, fmt.Errorf("sim: unknown policy %q: there are %s, %s", name, strings.Join(names, ", "), boundName)
}

// members lists a mask's regions into a reused slice.
func members(m mask, into []int) []int {
	into = into[:0]
	for ; m != 0; m &= m - 1 {
		into = append(into, bits.TrailingZeros64(uint64(m)))
	}
	return into
}

const (
	// Envoy's defaults (api/envoy/config/cluster/v3/outlier_detection.proto): consecutive_5xx 5, base_ejection_time 30 s,
	// multiplied by how often it happened. Its max_ejection_percent of 10 % ejects one host of six; half is kinder here.
	ejectAfter   = 5
	ejectionBase = 30 * time.Second

	// grpc-go's backoff.DefaultConfig: BaseDelay 1 s, Multiplier 1.6.
	reconnectBase   = time.Second
	reconnectFactor = 1.6
)

// ejector is the passive failure detection that every rival runs with: a region is left out after five failures in a row,
// and while its connection is down. It knows a cut connection at once and reconnects in the background, without a
// viewer's call, as HTTP/2 balancers do.
type ejector struct {
	Policy
	env   Env
	state [maxRegions]ejection
}

type ejection struct {
	failures int
	times    int
	until    time.Duration
	down     bool
	retryAt  time.Duration
	backoff  time.Duration
}

func newEjector(e Env, inner Policy) Policy { return &ejector{Policy: inner, env: e} }

func (e *ejector) Pick(now time.Duration, a Ask) int {
	var out mask
	for i := range e.env.Regions {
		s := &e.state[i]
		if s.down && now >= s.retryAt {
			if s.down = !e.env.Connects(now, i); s.down {
				s.retryAt, s.backoff = now+s.backoff, time.Duration(float64(s.backoff)*reconnectFactor)
			}
		}
		if s.down || now < s.until {
			out |= bit(i)
		}
	}
	if a.Allowed&^out != 0 { // else everybody is out, and anybody may be tried
		a.Allowed &^= out
	}
	return e.Policy.Pick(now, a)
}

func (e *ejector) Done(now time.Duration, region int, o Outcome) {
	e.Policy.Done(now, region, o)
	s := &e.state[region]
	switch o.Verdict {
	case Answered:
		s.failures = 0
		return
	case Cancelled, Exhausted: // Envoy maps RESOURCE_EXHAUSTED to 429, which is no 5xx
		return
	case Broken:
		if !s.down {
			s.down, s.retryAt, s.backoff = true, now+reconnectBase, time.Duration(float64(reconnectBase)*reconnectFactor)
		}
	}
	if s.failures++; s.failures >= ejectAfter && now >= s.until && e.out(now) < len(e.env.Regions)/2 {
		s.times++
		s.failures, s.until = 0, now+time.Duration(s.times)*ejectionBase
	}
}

func (e *ejector) out(now time.Duration) (n int) {
	for i := range e.env.Regions {
		if now < e.state[i].until {
			n++
		}
	}
	return n
}
