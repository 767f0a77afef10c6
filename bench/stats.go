package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// quantile is the smallest sample that at least the share q of all samples does not exceed; q from 0 to 1. At least one
// sample is needed.
func quantile[T cmp.Ordered](samples []T, q float64) T {
	sorted := slices.Sorted(slices.Values(samples))
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// median of at least one sample; of an even number the lower of the two in the middle.
func median[T cmp.Ordered](samples []T) T { return quantile(samples, 0.5) }

// ratio is the median of each round's a/b: both were measured in turn, so what disturbed a round is in both.
func ratio[T time.Duration | float64](a, b []T) float64 { return median(ratios(a, b)) }

// ratios are each round's a/b.
func ratios[T time.Duration | float64](a, b []T) []float64 {
	each := make([]float64, len(a))
	for i := range a {
		each[i] = float64(a[i]) / float64(b[i])
	}
	return each
}

// around is between which samples the median of all that could have been drawn lies, 19 times out of 20: a sample falls on
// either side of it like a coin (Conover, Practical Nonparametric Statistics, 3.2).
func around[T cmp.Ordered](samples []T) (from, to T) {
	sorted, n := slices.Sorted(slices.Values(samples)), float64(len(samples))
	margin := 1.96 * math.Sqrt(n) / 2
	low, high := int(math.Floor(n/2-margin)), int(math.Ceil(n/2+margin))
	return sorted[max(low, 0)], sorted[min(high, len(sorted)-1)]
}

func micros(d time.Duration) string {
	return fmt.Sprintf("%.1f", float64(d)/float64(time.Microsecond))
}
func millis(d time.Duration) string {
	return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond))
}
func times(r float64) string { return fmt.Sprintf("%.2f", r) }

// spread is the lowest and the highest round.
func spread[T cmp.Ordered](samples []T, text func(T) string) string {
	return text(slices.Min(samples)) + " to " + text(slices.Max(samples))
}

// verdict compares a figure with its aim, in the same unit.
func verdict(got, aim time.Duration, text func(time.Duration) string, unit string) string {
	if got <= aim {
		return fmt.Sprintf("met, with %s %s to spare", text(aim-got), unit)
	}
	return fmt.Sprintf("missed by %s %s, %.0f %%", text(got-aim), unit, 100*float64(got-aim)/float64(aim))
}
