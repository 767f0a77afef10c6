package router_test

import (
	"fmt"
	"testing"
	"time"

	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
)

// brownoutRuns is how often the brownout is played: each begins at another moment of the probes and of the judging.
const brownoutRuns = 20

// A brownout of the region that gets everything is told within 5 s, and 95 % of the traffic has left it within 1 s, in
// virtual time: two routers with 10 calls a second each, the second region 30 ms farther away.
func TestABrownoutIsToldInTime(t *testing.T) {
	runs := brownoutRuns
	if testing.Short() {
		runs = 2
	}
	var worstAlert, worstMove time.Duration
	for run := range runs {
		t.Run(fmt.Sprint(run), func(t *testing.T) {
			inFleet(t, func(t *testing.T, f *fleet) {
				f.reads(t, 6*time.Second)
				time.Sleep(time.Duration(run) * time.Second / brownoutRuns)
				start := time.Now()
				f.regions["near"].slowDown(time.Second)
				f.reads(t, 6*time.Second)
				slip := f.slips(t, "r1")["SLIP_RULE_SLIDING near"]
				if slip == nil {
					t.Fatal("nobody was told")
				}
				alert, move := slip.GetStartTime().AsTime().Sub(start), f.left(t, "near", start)
				if alert > 5*time.Second || move > time.Second {
					t.Errorf("told after %v, left after %v", alert, move)
				}
				worstAlert, worstMove = max(worstAlert, alert), max(worstMove, move)
			})
		})
	}
	t.Logf("worst of %d: told after %v; 95 %% of the traffic elsewhere from the call after %v on, one comes every 100 ms", runs, worstAlert, worstMove)
}

// left is when, since start, the last call was sent to a region first of which more than 5 % were in the second after it: from
// then on at least 95 % of the traffic is elsewhere.
func (f *fleet) left(t *testing.T, region string, start time.Time) time.Duration {
	var stays []bool // newest first
	var times []time.Time
	for _, r := range f.routers {
		got, err := r.ListDecisions(t.Context(), &routerv1.ListDecisionsRequest{PageSize: 500})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range got.GetDecisions() {
			if at := d.GetTime().AsTime(); !at.Before(start) {
				stays, times = append(stays, d.GetChoices()[0].GetRegion() == region), append(times, at)
			}
		}
	}
	moved := time.Duration(0)
	for i, at := range times {
		if !stays[i] || at.Sub(start) < moved {
			continue
		}
		after, late := 0, 0 // in the second from this call on
		for j, other := range times {
			if !other.Before(at) && other.Sub(at) < time.Second {
				after++
				if stays[j] {
					late++
				}
			}
		}
		if float64(late) > 0.05*float64(after) {
			moved = at.Sub(start)
		}
	}
	return moved
}
