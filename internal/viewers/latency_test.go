package viewers_test

import (
	"testing"
	"time"

	"github.com/rimlight/rimlight/internal/viewers"
)

func TestLatency(t *testing.T) {
	all, late := viewers.NewLatency(), viewers.NewLatency()
	for i := range 99 {
		all.Add(time.Duration(i+1) * time.Millisecond)
	}
	late.Add(viewers.Slip) // just in time
	late.Add(time.Hour)
	all.Merge(late)
	if all.Count() != 101 || all.Slips() != 1 {
		t.Errorf("%d waits, %d slips, want 101 and 1", all.Count(), all.Slips())
	}
	for q, want := range map[float64]time.Duration{0.5: 51 * time.Millisecond, 1: time.Minute} {
		if got := all.Quantile(q); got < want || got > want+want/1000 {
			t.Errorf("the %v quantile is %v, want %v", q, got, want)
		}
	}
	if none := viewers.NewLatency().Quantile(0.99); none != 0 {
		t.Errorf("the quantile of nothing is %v", none)
	}
}
