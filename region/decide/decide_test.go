package decide_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rimlight/rimlight/internal/dropclock"
	"github.com/rimlight/rimlight/region/decide"
)

var open = time.Date(2026, 1, 1, 20, 0, 0, 0, time.UTC)

func terms() decide.Terms {
	return decide.Terms{
		Open: open, Close: open.Add(90 * time.Second), MaxPerViewer: 2, ArmSalt: []byte("salt"),
		Arms: []decide.Arm{{"short", 1, time.Minute}, {"long", 1, 5 * time.Minute}},
	}
}

func TestDecide(t *testing.T) {
	all := decide.Consent{Personalisation: true, Delivery: true, Measurement: true}
	for name, c := range map[string]struct {
		change       func(*decide.Terms)
		viewer       decide.Viewer
		soldOut      bool
		at           time.Duration // after the opening
		want         decide.Verdict
		state        dropclock.State
		personalised bool
	}{
		"before the opening there is no offer":     {at: -1, want: decide.NotOpen, state: dropclock.Armed},
		"from the opening there is one":            {at: 0, want: decide.Offer, state: dropclock.Open},
		"until just before the close":              {at: 90*time.Second - 1, want: decide.Offer, state: dropclock.Open},
		"from the close there is none":             {at: 90 * time.Second, want: decide.NotOpen, state: dropclock.Draining},
		"a paused drop offers nothing":             {change: func(t *decide.Terms) { t.Paused = true }, want: decide.NotOpen, state: dropclock.Paused},
		"a settled drop offers nothing":            {change: func(t *decide.Terms) { t.Settled = true }, want: decide.NotOpen, state: dropclock.Settled},
		"a closed drop is closed, paused or not":   {change: func(t *decide.Terms) { t.Paused = true }, at: time.Hour, want: decide.NotOpen, state: dropclock.Closed},
		"what is sold out is not offered":          {soldOut: true, want: decide.SoldOut, state: dropclock.Open},
		"a viewer below the limit gets one":        {viewer: decide.Viewer{Bought: 1}, want: decide.Offer, state: dropclock.Open},
		"a viewer at the limit gets none":          {viewer: decide.Viewer{Bought: 2}, want: decide.ViewerLimit, state: dropclock.Open},
		"no limit means one":                       {change: func(t *decide.Terms) { t.MaxPerViewer = 0 }, viewer: decide.Viewer{Bought: 1}, want: decide.ViewerLimit, state: dropclock.Open},
		"without consent the drop is contextual":   {want: decide.Offer, state: dropclock.Open, personalised: false},
		"with consent history may be used":         {viewer: decide.Viewer{Consent: all}, want: decide.Offer, state: dropclock.Open, personalised: true},
		"Sec-GPC overrides personalisation":        {viewer: decide.Viewer{Consent: all.Restrict(true, false)}, want: decide.Offer, state: dropclock.Open},
		"an unreadable string overrides all of it": {viewer: decide.Viewer{Consent: all.Restrict(false, true)}, want: decide.Offer, state: dropclock.Open},
	} {
		t.Run(name, func(t *testing.T) {
			tm := terms()
			if c.change != nil {
				c.change(&tm)
			}
			got := decide.Decide(tm, c.viewer, c.soldOut, open.Add(c.at))
			if got.Verdict != c.want || got.State != c.state || got.Personalised != c.personalised {
				t.Errorf("got %v in %v, personalised %v; want %v in %v, %v", got.Verdict, got.State, got.Personalised, c.want, c.state, c.personalised)
			}
			if (got.TTL > 0) != (got.Verdict == decide.Offer) {
				t.Errorf("verdict %v with a TTL of %v", got.Verdict, got.TTL)
			}
		})
	}
}

func TestConsent(t *testing.T) {
	all := decide.Consent{Personalisation: true, Delivery: true, Measurement: true}
	if got := all.Restrict(true, false); got.Personalisation || !got.Delivery || !got.Measurement {
		t.Errorf("Sec-GPC: got %+v, want all but personalisation", got)
	}
	if got := all.Restrict(false, true); got != (decide.Consent{}) {
		t.Errorf("an unreadable string: got %+v, want nothing", got)
	}
	uncounted := decide.Decide(terms(), decide.Viewer{}, false, open)
	if uncounted.Arm != "" || uncounted.TTL != time.Minute {
		t.Errorf("without consent for measurement: got arm %q and %v, want the first arm's terms without a name", uncounted.Arm, uncounted.TTL)
	}
}

func TestArmsFollowTheirWeights(t *testing.T) {
	arms := []decide.Arm{{"a", 1, 1}, {"b", 3, 1}, {"none", 0, 1}}
	const sessions = 20000
	got := map[string]int{}
	for i := range sessions {
		s := [16]byte([]byte(fmt.Sprintf("session%09d", i)))
		a := decide.ArmOf([]byte("salt"), s, arms)
		if a != decide.ArmOf([]byte("salt"), s, arms) {
			t.Fatal("one session has two arms")
		}
		got[a.Name]++
	}
	// Five standard deviations of a binomial with p = 1/4.
	if d := math.Abs(float64(got["a"]) - sessions/4); d > 5*math.Sqrt(sessions*3.0/16) || got["none"] != 0 {
		t.Errorf("got %v of %d sessions, want a quarter in a and none without weight", got, sessions)
	}
}

func TestNextIsTheNextChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tm := terms()
		now := open.Add(time.Duration(rapid.Int64Range(-60_000, 600_000).Draw(t, "ms")) * time.Millisecond)
		at, ok := tm.Next(now)
		if !ok {
			if tm.State(now) != dropclock.Closed {
				t.Fatalf("no change after %v", tm.State(now))
			}
			return
		}
		if tm.State(at) == tm.State(now) || tm.State(at.Add(-1)) != tm.State(now) {
			t.Fatalf("at %v it is %v, the change at %v is to %v", now, tm.State(now), at, tm.State(at))
		}
	})
}
