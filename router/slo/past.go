package slo

import (
	"math"
	"time"
)

// spans are how far back a flow's past is summed up: the windows of the burn rules.
var spans = [...]time.Duration{5 * time.Minute, 30 * time.Minute, time.Hour, 6 * time.Hour, 72 * time.Hour}

// pastMinutes is the longest of them.
const pastMinutes = 72 * 60

// past counts a flow's calls by minute, 52 kB of them. The minute that runs is not in the sums, which therefore change
// once a minute only.
type past struct {
	minutes [pastMinutes]minute
	summed  int64 // the minute in which sums were made; 0: never
	sums    [len(spans)]Counts
}

type minute struct {
	at          int32
	calls, late uint32
}

func newPast() *past { return &past{} }

func (p *past) add(now time.Duration, late bool) {
	at := 1 + int32(now/time.Minute) // 0 is never
	m := &p.minutes[at%pastMinutes]
	if m.at != at {
		*m = minute{at: at}
	}
	m.calls++
	if late {
		m.late++
	}
}

// counts are the sums over spans, with Unknown for every cause: the month does not tell causes apart.
func (p *past) counts(now time.Duration) [len(spans)]Counts {
	running := 1 + int64(now/time.Minute)
	if p.summed == running {
		return p.sums
	}
	p.summed, p.sums = running, [len(spans)]Counts{}
	for _, m := range p.minutes {
		age := time.Duration(running-int64(m.at)) * time.Minute // of a whole minute before: at least one
		for i, span := range spans {
			if m.at > 0 && age > 0 && age <= span {
				p.sums[i].Calls += int64(m.calls)
				p.sums[i].Causes[Unknown] += int64(m.late)
			}
		}
	}
	return p.sums
}

const (
	// Latencies fall into bins that grow by a fifth, from 1 ms to above 5 s.
	latencyGrowth = 1.2
	latencyBins   = 48
	latencyWidth  = 10 * time.Second
	latencySlots  = int64(regionIdle / latencyWidth)
)

// latency is how long a region's attempts took, over the last minute.
type latency struct {
	slots [latencySlots]struct {
		slot int64
		bins [latencyBins]uint32
	}
}

func (l *latency) add(now, took time.Duration) {
	slot := int64(now / latencyWidth)
	s := &l.slots[slot%latencySlots]
	if s.slot != slot {
		*s = struct {
			slot int64
			bins [latencyBins]uint32
		}{slot: slot}
	}
	bin := 0
	if took > time.Millisecond {
		bin = min(latencyBins-1, 1+int(math.Log(float64(took)/float64(time.Millisecond))/math.Log(latencyGrowth)))
	}
	s.bins[bin]++
}

// quantile is the upper edge of the bin that holds it: at most a fifth too much.
func (l *latency) quantile(now time.Duration, q float64) time.Duration {
	var bins [latencyBins]uint64
	var all uint64
	newest := int64(now / latencyWidth)
	for _, s := range l.slots {
		if s.slot > newest-latencySlots && s.slot <= newest {
			for i, n := range s.bins {
				bins[i] += uint64(n)
				all += uint64(n)
			}
		}
	}
	var below uint64
	for i, n := range bins {
		if below += n; all > 0 && float64(below) >= q*float64(all) {
			return time.Duration(float64(time.Millisecond) * math.Pow(latencyGrowth, float64(i)))
		}
	}
	return 0
}
