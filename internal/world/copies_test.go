package world_test

import (
	"slices"
	"testing"
	"time"

	"github.com/rimlight/rimlight/internal/world"
	"github.com/rimlight/rimlight/verifier/saga"
)

// copyOf lets the evidence tell of a copy of the node whose journal it is, which gave a unit back.
func copyOf(e *world.Evidence, j world.Journal, lease string, serial uint32) {
	e.Config.Schedule = append(slices.Clone(e.Config.Schedule), world.Fault{Kind: world.Copy, Host: j.Host})
	j.Host += "~1"
	j.Entries = append(slices.Clone(j.Entries), world.Entry{Kind: "returned", Lease: lease, Serials: []uint32{serial}})
	e.Journals = append(e.Journals, j)
}

// A copied directory excuses a denial of a unit that its copies disagree about, and of no other.
func TestACopyExcusesWhatItTore(t *testing.T) {
	t.Parallel()
	truth := tellTruth(t, world.Calm(7).Scaled(40))
	p := truth.Purchases[slices.IndexFunc(truth.Purchases, func(p world.Purchase) bool { // an early one, so that others come after it
		redeemed := 0
		for _, c := range truth.Candidates {
			if c.Token == p.Token {
				redeemed++
			}
		}
		return p.State == saga.Delivered && redeemed == 1
	})]
	node := truth.Leases[slices.IndexFunc(truth.Leases, func(l world.Lease) bool { return l.ID == p.Lease })].Node
	j := truth.Journals[slices.IndexFunc(truth.Journals, func(j world.Journal) bool { return j.Node == node })]
	deny := func(e *world.Evidence) *world.Purchase {
		denied := &e.Purchases[slices.IndexFunc(e.Purchases, func(x world.Purchase) bool { return x.Token == p.Token })]
		denied.Reason, denied.Ended = saga.UnitDenied, time.Hour
		return denied
	}
	for _, c := range []struct {
		what   string
		broken bool
		tell   func(e *world.Evidence)
	}{
		{"a denied unit without a copy", true, func(e *world.Evidence) { deny(e) }},
		{"a denied unit that copies disagree about", false, func(e *world.Evidence) {
			copyOf(e, j, p.Lease, p.Serial)
			deny(e)
		}},
		{"a denied unit beside one that copies disagree about", true, func(e *world.Evidence) {
			copyOf(e, j, p.Lease, p.Serial+1)
			deny(e)
		}},
		{"a denied unit that copies disagree about, when a duplicate waited", true, func(e *world.Evidence) {
			copyOf(e, j, p.Lease, p.Serial)
			denied := deny(e)
			e.Candidates = append(e.Candidates, world.Candidate{Token: denied.Token, Lease: "another", Serial: 1, State: 5, Arrival: denied.Arrival})
		}},
		{"a denied unit that copies disagree about, when a duplicate came afterwards", false, func(e *world.Evidence) {
			copyOf(e, j, p.Lease, p.Serial)
			denied := deny(e)
			e.Candidates = append(e.Candidates, world.Candidate{Token: denied.Token, Lease: "another", Serial: 1, State: 5, Arrival: 1 << 40})
		}},
	} {
		e := clone(t, truth)
		c.tell(e)
		if broken := slices.Contains(world.Judge(e).Broken(), "I4"); broken != c.broken {
			t.Errorf("%s: I4 is broken: %v, want %v", c.what, broken, c.broken)
		}
	}
}
