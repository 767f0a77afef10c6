package arbiter_test

import (
	"math"
	"testing"
	"time"

	"github.com/rimlight/rimlight/router/arbiter"
)

func suspect(r *arbiter.Region) { r.Suspect = true }
func ejected(r *arbiter.Region) { r.Ejected = true }
func saved(r *arbiter.Region)   { r.Saved, r.Reachable = true, false }
func held(share float64) func(*arbiter.Region) {
	return func(r *arbiter.Region) { r.Held = share }
}
func floor(f time.Duration) func(*arbiter.Region) {
	return func(r *arbiter.Region) { r.Floor = f }
}

// utilised is a node whose arrivals take that share of what its four workers can do in 2 ms each.
func utilised(rho float64) func(*arbiter.Region) {
	return func(r *arbiter.Region) { r.Arrivals = rho * 4 / 0.002 }
}

// unseen are those of the calls inside that no report knows yet.
func unseen(n uint32) func(*arbiter.Region) {
	return func(r *arbiter.Region) { r.Unseen = n }
}

// small is a node that two calls of 8 ms fill, at its capacity.
func small(r *arbiter.Region) { r.Service, r.Parallelism, r.Arrivals = 8*ms, 2, 250 }

// Each guard of the picker has a case here that fails without it.
func TestGuards(t *testing.T) {
	offer := arbiter.Request{Kind: arbiter.Offer, Drop: "d"}
	hedge := func(late string) arbiter.Request {
		return arbiter.Request{Kind: arbiter.Offer, Drop: "d", Hedging: late, Tried: []string{late + "@1"}, Budget: 100 * ms}
	}
	for _, tt := range []struct {
		rule    string
		request arbiter.Request
		regions []*arbiter.Region
		want    string // region; empty: none
		regime  arbiter.Regime
	}{
		{"a suspect is passed over, be it over an ocean", offer,
			[]*arbiter.Region{node("near", 10*ms, suspect), node("far", 300*ms)}, "far", arbiter.Suspected},
		{"a suspect that would not have won is not why", offer,
			[]*arbiter.Region{node("near", 10*ms), node("far", 300*ms, suspect)}, "near", arbiter.Normal},
		{"if all are suspect the soonest is asked", offer,
			[]*arbiter.Region{node("near", 10*ms, suspect), node("far", 300*ms, suspect)}, "near", arbiter.Normal},
		{"a read does not insist on a suspect", arbiter.Request{Kind: arbiter.Read, Preferred: "near"},
			[]*arbiter.Region{node("near", 10*ms, suspect), node("far", 300*ms)}, "far", arbiter.Suspected},
		{"an ejected node is passed over", offer,
			[]*arbiter.Region{node("near", 10*ms, ejected), node("far", 300*ms)}, "far", arbiter.Normal},
		{"the last one is used although it is ejected", offer,
			[]*arbiter.Region{node("near", 10*ms, ejected)}, "near", arbiter.Panic},
		{"an ejected node is better than one without a unit", offer,
			[]*arbiter.Region{node("near", 10*ms, empty), node("far", 80*ms, ejected)}, "far", arbiter.Panic},
		{"when more than half are ejected all are used", offer,
			[]*arbiter.Region{node("a", 10*ms, ejected), node("b", 20*ms, ejected), node("c", 300*ms)}, "a", arbiter.Panic},
		{"when half are, they are not", offer,
			[]*arbiter.Region{node("a", 10*ms, ejected), node("b", 20*ms)}, "b", arbiter.Normal},
		{"those that could not be chosen anyway do not count", offer,
			[]*arbiter.Region{node("a", 10*ms, ejected), node("b", 20*ms, ejected, drained), node("c", 300*ms)}, "c", arbiter.Normal},
		{"what nobody could answer in time is not sent", arbiter.Request{Budget: 30 * ms},
			[]*arbiter.Region{node("near", 40*ms, floor(35*ms)), node("far", 90*ms, floor(80*ms))}, "", arbiter.None},
		{"what might be answered in time is", arbiter.Request{Budget: 30 * ms},
			[]*arbiter.Region{node("near", 40*ms, floor(25*ms)), node("far", 90*ms, floor(80*ms))}, "near", arbiter.LateExpected},
		{"a slow failure costs its time", offer,
			[]*arbiter.Region{node("near", 10*ms, success(0.9), func(r *arbiter.Region) { r.FailureTime = 2 * time.Second }), node("far", 80*ms)}, "far", arbiter.Normal},
		{"the same failure, quick, does not", offer,
			[]*arbiter.Region{node("near", 10*ms, success(0.9)), node("far", 80*ms)}, "near", arbiter.Normal},
		{"what is remembered is better than nothing", offer,
			[]*arbiter.Region{node("far", 80*ms, saved), node("near", 10*ms, saved), node("new", 0, unreachable)}, "near", arbiter.Cold},
		{"what was measured is better than memory", offer,
			[]*arbiter.Region{node("far", 80*ms), node("near", 10*ms, saved)}, "far", arbiter.Normal},
		{"a wait counts for those who come later, too", offer, // 36 ms of it here, 70 ms of way there
			[]*arbiter.Region{node("near", 10*ms, busy(75)), node("far", 80*ms)}, "far", arbiter.Spill},
		{"own calls that no report knows count twice", offer, // (67+9+1-4) * 0.5 ms = 36.5 ms
			[]*arbiter.Region{node("near", 10*ms, busy(67), unseen(9)), node("far", 80*ms)}, "far", arbiter.Spill},
		{"a wait does not count more than that", offer,
			[]*arbiter.Region{node("near", 10*ms, busy(67)), node("far", 80*ms)}, "near", arbiter.Normal},
		{"what a report cannot know is doubted where there is little room", offer, // 3 * sqrt(250*0.1) * 8 ms / 2 = 60 ms
			[]*arbiter.Region{node("small", 100*ms, small), node("large", 150*ms)}, "large", arbiter.Normal},
		{"a near region leaves no doubt", offer,
			[]*arbiter.Region{node("small", 1*ms, small), node("large", 50*ms)}, "small", arbiter.Normal},
		{"a doubt is no reason to be late", arbiter.Request{Kind: arbiter.Offer, Drop: "d", Budget: 120 * ms},
			[]*arbiter.Region{node("small", 100*ms, small)}, "small", arbiter.Normal},
		{"arrivals that are no number win nothing", offer,
			[]*arbiter.Region{node("near", 10*ms), node("far", 80*ms, func(r *arbiter.Region) { r.Arrivals = math.NaN() })}, "near", arbiter.Normal},
		{"a success rate that is no number is none", offer,
			[]*arbiter.Region{node("near", 10*ms), node("far", 80*ms, success(math.NaN()))}, "near", arbiter.Normal},
		{"a platform beyond its capacity makes no second attempts", arbiter.Request{Kind: arbiter.Offer, Tried: []string{"near@1"}},
			[]*arbiter.Region{node("near", 10*ms, utilised(1.2)), node("far", 80*ms, utilised(0.9))}, "", arbiter.None},
		{"below it does", arbiter.Request{Kind: arbiter.Offer, Tried: []string{"near@1"}},
			[]*arbiter.Region{node("near", 10*ms, utilised(1.2)), node("far", 80*ms, utilised(0.7))}, "far", arbiter.Normal},
		{"a purchase is worth a second attempt anyway", arbiter.Request{Kind: arbiter.Redeem, Tried: []string{"near@1"}},
			[]*arbiter.Region{node("near", 10*ms, utilised(1.2)), node("far", 80*ms, utilised(0.9))}, "far", arbiter.Normal},
		{"a hedge goes to the next best", hedge("near"),
			[]*arbiter.Region{node("near", 10*ms), node("far", 80*ms), node("next", 50*ms)}, "next", arbiter.Hedge},
		{"a hedge is not worth being late", hedge("near"),
			[]*arbiter.Region{node("near", 10*ms), node("far", 120*ms)}, "", arbiter.None},
		{"a hedge does not go to a suspect, whatever the budget", arbiter.Request{Hedging: "near"},
			[]*arbiter.Region{node("near", 10*ms), node("far", 20*ms, suspect)}, "", arbiter.None},
		{"a hedge does not stay in the region", hedge("near"),
			[]*arbiter.Region{node("near", 10*ms), node("near", 11*ms, func(r *arbiter.Region) { r.Key = "near@2" }), node("far", 50*ms)},
			"far", arbiter.Hedge},
		{"a hedge does not go where 80 % of the capacity is taken", hedge("near"),
			[]*arbiter.Region{node("near", 10*ms), node("next", 50*ms, utilised(0.81)), node("far", 80*ms, utilised(0.79))}, "far", arbiter.Hedge},
		{"a hedge does not go to a node that warms up", hedge("near"),
			[]*arbiter.Region{node("near", 10*ms), node("next", 50*ms, held(0.1)), node("far", 80*ms)}, "far", arbiter.Hedge},
		{"a hedge is not worth a panic", hedge("near"),
			[]*arbiter.Region{node("near", 10*ms), node("next", 50*ms, empty)}, "", arbiter.None},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			s := snapshot(tt.regions...)
			got := arbiter.Explain(s, tt.request, 0.5)
			if name(got.Choice) != tt.want || got.Regime != tt.regime {
				t.Errorf("got %q under %v, want %q under %v: %s", name(got.Choice), got.Regime, tt.want, tt.regime, got.Sentence)
			}
			if again := arbiter.Pick(s, tt.request, 0.5); again != got.Choice {
				t.Errorf("Pick and Explain differ: %+v, %+v", again, got.Choice)
			}
		})
	}
}

// shares tells which part of 10,000 evenly spread draws each region wins.
func shares(s *arbiter.Snapshot, r arbiter.Request) map[string]float64 {
	won := map[string]float64{}
	for i := range 10_000 {
		won[name(arbiter.Pick(s, r, float64(i)/10_000))] += 1.0 / 10_000
	}
	return won
}

func TestShares(t *testing.T) {
	for _, tt := range []struct {
		rule    string
		regions []*arbiter.Region
		want    float64 // near's
	}{
		{"a node that warms up gets its share of the calls", []*arbiter.Region{node("near", 10*ms, held(0.75)), node("far", 80*ms)}, 0.25},
		{"more of them later", []*arbiter.Region{node("near", 10*ms, held(0.25)), node("far", 80*ms)}, 0.75},
		{"what is within 5 % is a near tie", []*arbiter.Region{node("near", 98*ms), node("far", 102*ms)}, 0.731}, // e to 1: T is 4 ms
		{"what is not is none", []*arbiter.Region{node("near", 98*ms), node("far", 104*ms)}, 1},
		{"when all warm up nobody is held back", []*arbiter.Region{node("near", 10*ms, held(0.75)), node("far", 80*ms, held(0.75))}, 1},
		{"the only one gets all", []*arbiter.Region{node("near", 10*ms, held(0.75))}, 1},
	} {
		t.Run(tt.rule, func(t *testing.T) {
			if got := shares(snapshot(tt.regions...), arbiter.Request{})["near"]; got < tt.want-0.015 || got > tt.want+0.015 {
				t.Errorf("near wins %.3f of the calls, want %.3f", got, tt.want)
			}
		})
	}
}

func TestLateIsThePredicted99thPercentile(t *testing.T) {
	g := node("near", 20*ms, busy(7)) // d 1 ms, S 2 ms, W 2 ms
	if got := g.Late(); got != 33*ms {
		t.Errorf("got %v, want 20 + 2*1 + 4.5*2 + 2 ms", got)
	}
}

func TestThePlatformsUtilisationIsWeighted(t *testing.T) {
	small := node("small", 10*ms, utilised(1), func(r *arbiter.Region) { r.Parallelism = 1; r.Arrivals = 500 })
	s := snapshot(small, node("large", 10*ms, func(r *arbiter.Region) { r.Parallelism = 9 }), node("gone", 0, unreachable), node("out", 0, drained))
	if got := s.Utilisation(); got != 0.1 {
		t.Errorf("got %v, want 0.1", got)
	}
	if got := snapshot().Utilisation(); got != 0 {
		t.Errorf("nobody: got %v", got)
	}
}
