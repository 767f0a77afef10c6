package sim

import (
	"math"
	"time"
)

const (
	bucketWidth = 20 * time.Millisecond  // of recovery
	swingWidth  = 500 * time.Millisecond // of a region's share
)

// Latencies are counted in buckets that grow by 1 %, from 0.01 ms up.
const (
	histogramLow    = 0.01
	histogramGrowth = 1.01
	histogramSize   = 1300
)

// outcome is what one run came to. Outcomes of the same scenario and policy add up.
type outcome struct {
	w     *world
	calls int // that count
	open  int // begun and not over, counted or not
	begun int

	ok, errors, sheds int
	over100, over200  int
	sum               float64 // ms
	histogram         []int32
	attempts          int
	probes            int
	bad, all          []int   // by bucketWidth
	shares            [][]int // by swingWidth, region
}

func newOutcome(w *world) *outcome {
	n := int(w.end/bucketWidth) + 1
	return &outcome{w: w, histogram: make([]int32, histogramSize), bad: make([]int, n), all: make([]int, n)}
}

// counts tells whether a call that came at that time is part of the figures.
func (o *outcome) counts(at time.Duration) bool { return at >= o.w.measure }

func (o *outcome) arrive(time.Duration) { o.open++; o.begun++ }

func (o *outcome) end(at, took time.Duration, v Verdict) {
	o.open--
	if !o.counts(at) {
		return
	}
	o.add(at, toMillis(took), v)
}

// add counts one call. One that failed counts as long as the viewer would have waited: failing fast earns nothing.
func (o *outcome) add(at time.Duration, ms float64, v Verdict) {
	o.calls++
	switch v {
	case Answered:
		o.ok++
	case Exhausted:
		o.sheds++
		ms = deadlineMillis
	default:
		o.errors++
		ms = deadlineMillis
	}
	o.sum += ms
	if ms > 100 {
		o.over100++
	}
	slot := int(at / bucketWidth)
	o.all[slot]++
	if ms > 200 {
		o.over200++
		o.bad[slot]++
	}
	o.histogram[bucketOf(ms)]++
}

func bucketOf(ms float64) int {
	return min(max(int(math.Log(ms/histogramLow)/math.Log(histogramGrowth)), 0), histogramSize-1)
}

func quantile(histogram []int32, q float64) float64 {
	total := 0
	for _, n := range histogram {
		total += int(n)
	}
	rank := int(math.Ceil(q * float64(total)))
	for i, n := range histogram {
		if rank -= int(n); rank <= 0 {
			return histogramLow * math.Pow(histogramGrowth, float64(i)+0.5)
		}
	}
	return 0
}

func (o *outcome) routed(now time.Duration, region int) {
	slot := int(now / swingWidth)
	for len(o.shares) <= slot {
		o.shares = append(o.shares, make([]int, len(o.w.regions)))
	}
	o.shares[slot][region]++
}

// recovery is how long after the first event it takes until fewer than 2 % of a bucket's calls, and of the half second
// that follows, are bad. 0 when nothing happens; the rest of the run when it never gets well.
func (o *outcome) recovery() time.Duration {
	if o.w.event < 0 {
		return 0
	}
	first := int(max(o.w.event, o.w.measure) / bucketWidth)
	ahead := int(500 * time.Millisecond / bucketWidth)
	well := func(from, to int) bool {
		bad, all := 0, 0
		for i := from; i < min(to, len(o.all)); i++ {
			bad, all = bad+o.bad[i], all+o.all[i]
		}
		return float64(bad) < 0.02*float64(all) || all == 0
	}
	for i := first; i < len(o.all); i++ {
		if well(i, i+1) && well(i, i+ahead) {
			return time.Duration(i-first) * bucketWidth
		}
	}
	return time.Duration(len(o.all)-first) * bucketWidth
}

// swing is the largest change of any region's share of the calls from one half second to the next, 0 to 1.
func (o *outcome) swing() float64 {
	largest := 0.0
	var before []float64
	for slot, row := range o.shares {
		total := 0
		for _, n := range row {
			total += n
		}
		if total == 0 || time.Duration(slot+1)*swingWidth > o.w.end {
			continue
		}
		share := make([]float64, len(row))
		for i, n := range row {
			share[i] = float64(n) / float64(total)
			if before != nil {
				largest = max(largest, math.Abs(share[i]-before[i]))
			}
		}
		before = share
	}
	return largest
}
