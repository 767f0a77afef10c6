package torture_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rimlight/rimlight/internal/torture"
)

// Whatever faults are needed together, the rest is dropped, in far fewer tries than there are parts.
func TestShrinkKeepsWhatIsNeeded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(0, 40).Draw(t, "size")
		var needed []int
		if size > 0 {
			needed = rapid.SliceOfNDistinct(rapid.IntRange(0, size-1), 0, min(5, size), rapid.ID[int]).Draw(t, "needed")
		}
		slices.Sort(needed)
		tries := 0
		got := torture.Shrink(size, func(keep []int) bool {
			tries++
			for _, n := range needed {
				if !slices.Contains(keep, n) {
					return false
				}
			}
			return true
		})
		if !slices.Equal(got, needed) {
			t.Fatalf("kept %v, needed are %v", got, needed)
		}
		if tries > 300 {
			t.Errorf("took %d tries", tries)
		}
	})
}

// Either of two faults may do: one is kept.
func TestShrinkKeepsOneOfTwo(t *testing.T) {
	got := torture.Shrink(20, func(keep []int) bool { return slices.Contains(keep, 3) || slices.Contains(keep, 17) })
	if len(got) != 1 {
		t.Errorf("kept %v", got)
	}
}
