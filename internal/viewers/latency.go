package viewers

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/rimlight/rimlight/internal/buyer"
)

// Slip is what nobody should wait longer for: docs/testing.md and the SLO are about it.
const Slip = 200 * time.Millisecond

// Latency is a distribution of waits from 1 us to 60 s, to three digits. Longer ones count as 60 s.
type Latency struct {
	histogram *hdrhistogram.Histogram
	slips     int64
}

const longest = time.Minute

// NewLatency makes an empty one.
func NewLatency() *Latency {
	return &Latency{histogram: hdrhistogram.New(1, longest.Microseconds(), 3)}
}

// Add counts one wait.
func (l *Latency) Add(d time.Duration) {
	if d > Slip {
		l.slips++
	}
	l.histogram.RecordValue(min(max(d, time.Microsecond), longest).Microseconds()) //nolint:errcheck // within the range that New gave
}

// Merge counts all of another's, too.
func (l *Latency) Merge(other *Latency) {
	l.histogram.Merge(other.histogram)
	l.slips += other.slips
}

// Count is how many there are, and Slips how many of them took longer than Slip.
func (l *Latency) Count() int64 { return l.histogram.TotalCount() }

// Slips is how many took longer than Slip.
func (l *Latency) Slips() int64 { return l.slips }

// Quantile gives the wait that a share q, 0 to 1, did not exceed; 0 when there is none.
func (l *Latency) Quantile(q float64) time.Duration {
	return time.Duration(l.histogram.ValueAtQuantile(100*q)) * time.Microsecond
}

func (l *Latency) clone() *Latency {
	c := NewLatency()
	c.Merge(l)
	return c
}

// tapped counts what one viewer waited for after the tap: the call that redeemed, and verifying what it answered.
func (s *Stats) tapped(origin string, steps []buyer.Step) {
	for i, step := range steps[:max(0, len(steps)-1)] {
		if verify := steps[i+1]; verify.Name == buyer.StepVerify {
			key := TapKey{origin, step.Name}
			if s.Taps[key] == nil {
				s.Taps[key] = NewLatency()
			}
			s.Taps[key].Add(step.Duration + verify.Duration)
		}
	}
}
