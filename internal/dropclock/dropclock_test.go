package dropclock_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
)

func TestStateAt(t *testing.T) {
	open := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	closing := open.Add(90 * time.Second)
	const ttl = time.Minute
	for name, c := range map[string]struct {
		at   time.Time
		want dropclock.State
	}{
		"long before it opens its terms may change":          {open.Add(-time.Hour), dropclock.Planned},
		"just before the lead it is still planned":           {open.Add(-dropclock.Lead - 1), dropclock.Planned},
		"the lead begins with its first instant":             {open.Add(-dropclock.Lead), dropclock.Armed},
		"just before opening nothing is offered":             {open.Add(-1), dropclock.Armed},
		"it is open from its opening instant":                {open, dropclock.Open},
		"it is open until just before it closes":             {closing.Add(-1), dropclock.Open},
		"at its closing instant tokens may still be used":    {closing, dropclock.Draining},
		"the last token is honoured for its TTL and a grace": {closing.Add(ttl + dropclock.Grace - 1), dropclock.Draining},
		"after that nothing can be redeemed":                 {closing.Add(ttl + dropclock.Grace), dropclock.Closed},
		"it never settles by the clock":                      {closing.Add(1e6 * time.Hour), dropclock.Closed},
	} {
		t.Run(name, func(t *testing.T) {
			if got := dropclock.StateAt(open, closing, ttl, c.at); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestStateOnlyMovesForward(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		open := time.Unix(rapid.Int64Range(0, 1e9).Draw(t, "open"), 0)
		closing := open.Add(time.Duration(rapid.Int64Range(1, 3600).Draw(t, "length")) * time.Second)
		ttl := time.Duration(rapid.Int64Range(0, 600).Draw(t, "ttl")) * time.Second
		a := open.Add(time.Duration(rapid.Int64Range(-30_000, 5_000_000).Draw(t, "a")) * time.Millisecond)
		b := a.Add(time.Duration(rapid.Int64Range(0, 1_000_000).Draw(t, "later")) * time.Millisecond)
		if sa, sb := dropclock.StateAt(open, closing, ttl, a), dropclock.StateAt(open, closing, ttl, b); sb < sa {
			t.Fatalf("%v at %v, then %v at %v", sa, a, sb, b)
		}
	})
}

func TestStatesAreTheContracts(t *testing.T) {
	for number, name := range offerv1.DropState_name {
		if number == 0 {
			continue
		}
		if got := "DROP_STATE_" + dropclock.State(number).String(); got != name {
			t.Errorf("state %d is %s, want %s", number, got, name)
		}
	}
	if got := dropclock.State(99).String(); got != "UNKNOWN" {
		t.Errorf("an unknown state prints %q", got)
	}
}
