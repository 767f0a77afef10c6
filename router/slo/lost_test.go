package slo_test

import (
	"testing"
	"time"

	"github.com/rimlight/rimlight/router/slo"
)

// lossAfter plays seconds of calls of a drop at two routers, and tells what its viewers lost.
func lossAfter(seconds int, calls func(second, router int) (calls, late int)) (total time.Duration, reports int) {
	routers := [2]*slo.Windows{slo.NewWindows(), slo.NewWindows()}
	judge, lost := slo.NewJudge(slo.Config{}), slo.NewLost(slo.Config{})
	for s := range seconds {
		now := time.Duration(s+1) * time.Second
		var counts [][]slo.Count
		for i, w := range routers {
			n, late := calls(s, i)
			say(w, now, drop, n, late, slo.Service)
			counts = append(counts, w.Counts(now))
		}
		fleet, _ := slo.Sum(counts...)
		judge.Evaluate(now, time.Unix(0, 0).Add(now), fleet, nil)
		for _, l := range lost.Add(now, judge.Active(), counts...) {
			if reports++; l.Drop != drop.Name || l.Total < time.Duration(reports)*time.Second || l.Slip.Key != drop {
				return -1, reports
			}
		}
	}
	return lost.Of(drop.Name), reports
}

func TestWhatLateAnswersCost(t *testing.T) {
	steady := func(share func(second, router int) int) func(int, int) (int, int) {
		return func(s, r int) (int, int) { return 50, share(s, r) }
	}
	during := func(s int, late int) int {
		if s >= 10 && s < 18 {
			return late
		}
		return 0
	}
	for rule, c := range map[string]struct {
		calls     func(second, router int) (int, int)
		low, high time.Duration
	}{
		"nothing late costs nothing":                 {steady(func(int, int) int { return 0 }), 0, 0},
		"a few late calls are no slip":               {steady(func(s, _ int) int { return 2 }), 0, 0},
		"eight seconds of late answers are as many":  {steady(func(s, _ int) int { return during(s, 50) }), 7 * time.Second, 8 * time.Second},
		"half of the calls late is half of the time": {steady(func(s, _ int) int { return during(s, 25) }), 3500 * time.Millisecond, 4 * time.Second},
		"the worst place counts": {steady(func(s, r int) int {
			return during(s, 50) * r
		}), 7 * time.Second, 8 * time.Second},
		"a place of few viewers does not count alone": {func(s, r int) (int, int) {
			if r == 1 {
				return 1, during(s, 1)
			}
			return 50, during(s, 5)
		}, 500 * time.Millisecond, 1200 * time.Millisecond},
	} {
		got, reports := lossAfter(40, c.calls)
		if got < c.low || got > c.high || reports != int(got/time.Second) {
			t.Errorf("%s: got %v in %d reports, want %v to %v", rule, got, reports, c.low, c.high)
		}
	}
}
