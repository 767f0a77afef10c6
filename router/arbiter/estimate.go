package arbiter

import (
	"math"
	"time"
)

// The estimators take now as the reading of any steady clock; they keep O(1) state and are not safe for concurrent use.

const (
	networkTau = 10 * time.Second       // memory of the smoothed network time
	guardTau   = 500 * time.Millisecond // memory of the fast guard, which notices a path that changed
	guardRuns  = 3                      // samples in a row that make the guard's word count: one spike does not
	leastGain  = 0.02                   // keeps learning under dense samples
	serviceTau = 10 * time.Second

	floorBuckets = 10
	floorWidth   = time.Minute
)

// Network smooths the time to a node and back, without the node's own share. The zero value is ready.
//
// A winsorised EWMA: a sample counts as at most m + 4d + 1 ms, so that one stall does not move the mean; a path that
// really changed shows in the fast guard within three samples. It changes with samples only and never decays while
// idle, and it never falls below the lowest probe of the last ten minutes: light has a floor.
type Network struct {
	mean, deviation, guard float64 // ns
	high                   int     // samples in a row with the guard far above the mean
	known                  bool
	last                   time.Duration
	floor                  [floorBuckets]lowest
}

type lowest struct {
	slot  int64
	value float64
	set   bool
}

// Observe takes one sample. Only a probe sets the floor: a call's sample depends on the residence that a busy node
// reports, and one that reports too much must not come nearer than it is.
func (n *Network) Observe(now, sample time.Duration, probe bool) {
	x := float64(clamp(sample))
	if probe {
		n.lower(now, x)
	}
	if !n.known {
		// RFC 6298 starts with half the sample; an idle path between regions varies far less.
		n.mean, n.deviation, n.guard, n.known, n.last = x, x/8, x, true, now
		return
	}
	dt := now - n.last
	n.last = now
	a := gain(dt, networkTau)
	y := math.Min(x, n.mean+4*n.deviation+float64(time.Millisecond))
	n.deviation += a * (math.Abs(y-n.mean) - n.deviation)
	n.mean += a * (y - n.mean)

	n.guard += gain(dt, guardTau) * (x - n.guard)
	if n.guard > n.mean+6*n.deviation+2*float64(time.Millisecond) {
		n.high++
	} else {
		n.high = 0
	}
}

func (n *Network) lower(now time.Duration, x float64) {
	slot := int64(now / floorWidth)
	b := &n.floor[slot%floorBuckets]
	if !b.set || b.slot != slot || x < b.value {
		*b = lowest{slot: slot, value: x, set: true}
	}
}

// Known tells whether there was any sample.
func (n *Network) Known() bool { return n.known }

// Value is n; 0 before the first sample.
func (n *Network) Value() time.Duration {
	v := n.mean
	if n.high >= guardRuns {
		v = n.guard
	}
	return time.Duration(math.Max(v, n.lowestProbe()))
}

// Floor is the lowest probe of the last ten minutes; 0 without any.
func (n *Network) Floor() time.Duration { return time.Duration(n.lowestProbe()) }

// Deviation is d, the mean deviation of n.
func (n *Network) Deviation() time.Duration { return time.Duration(n.deviation) }

// lowestProbe looks at the ten minutes before the last sample, so that idling does not forget it.
func (n *Network) lowestProbe() float64 {
	found, v := false, 0.0
	newest := int64(n.last / floorWidth)
	for _, b := range n.floor {
		if b.set && b.slot > newest-floorBuckets && (!found || b.value < v) {
			found, v = true, b.value
		}
	}
	return v
}

// Service smooths the service time of a backend that does not report its own. The zero value is ready.
type Service struct {
	mean  float64
	known bool
	last  time.Duration
}

// Observe takes one sample.
func (s *Service) Observe(now, sample time.Duration) {
	x := float64(clamp(sample))
	if !s.known {
		s.mean, s.known, s.last = x, true, now
		return
	}
	s.mean += gain(now-s.last, serviceTau) * (x - s.mean)
	s.last = now
}

// Value is the smoothed service time; 0 before the first sample.
func (s *Service) Value() time.Duration { return time.Duration(s.mean) }

// gain is the weight of a sample that comes dt after the last one.
func gain(dt, tau time.Duration) float64 {
	a := 1 - math.Exp(-float64(max(dt, 0))/float64(tau))
	return math.Min(math.Max(a, leastGain), 1)
}

// Window counts good and all events exactly over the last buckets*width of time.
type Window struct {
	width   time.Duration
	buckets []bucket
}

type bucket struct {
	slot    int64
	ok, all int
}

// NewWindow makes one of so many buckets of that width each.
func NewWindow(buckets int, width time.Duration) *Window {
	return &Window{width: width, buckets: make([]bucket, buckets)}
}

// NewOutcomes makes the window of a node's outcomes: 10 buckets of 1 s.
func NewOutcomes() *Window { return NewWindow(10, time.Second) }

// Add counts one event.
func (w *Window) Add(now time.Duration, ok bool) {
	slot := int64(now / w.width)
	b := &w.buckets[slot%int64(len(w.buckets))]
	if b.slot != slot {
		*b = bucket{slot: slot}
	}
	b.all++
	if ok {
		b.ok++
	}
}

// Counts gives the events that are still in the window.
func (w *Window) Counts(now time.Duration) (ok, all int) {
	newest := int64(now / w.width)
	for _, b := range w.buckets {
		if b.slot > newest-int64(len(w.buckets)) && b.slot <= newest {
			ok, all = ok+b.ok, all+b.all
		}
	}
	return ok, all
}

// Rate is the success rate (ok+2)/(all+2): 1 without events, and one failure alone does not condemn.
func (w *Window) Rate(now time.Duration) float64 {
	ok, all := w.Counts(now)
	return float64(ok+2) / float64(all+2)
}
