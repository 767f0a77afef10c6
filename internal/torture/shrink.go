package torture

import "slices"

// Shrink finds a small part of the faults 0..size-1 with which a schedule still breaks a law: Zeller's ddmin, whose
// result cannot lose any single fault. breaks plays a part; it may play it several times, since a story is not quite the
// same in every run.
func Shrink(size int, breaks func(keep []int) bool) []int {
	keep := make([]int, size)
	for i := range keep {
		keep[i] = i
	}
	if breaks([]int{}) {
		return []int{} // it needs no fault at all
	}
	for parts := 2; len(keep) > 1; {
		smaller := without(keep, parts, breaks)
		switch {
		case smaller != nil:
			keep, parts = smaller, max(parts-1, 2)
		case parts >= len(keep):
			return keep
		default:
			parts = min(2*parts, len(keep))
		}
	}
	return keep
}

// without leaves out one of so many parts of about one size; nil when none can be spared.
func without(keep []int, parts int, breaks func([]int) bool) []int {
	for i := range parts {
		from, to := i*len(keep)/parts, (i+1)*len(keep)/parts
		if rest := slices.Concat(keep[:from], keep[to:]); from < to && breaks(rest) {
			return rest
		}
	}
	return nil
}
