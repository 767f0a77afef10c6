package stock_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rimlight/rimlight/fulfillment/stock"
)

// unitLife plays one unit's true life at fulfillment, its nodes and the verifier.
type unitLife struct {
	truth    stock.Unit
	n        byte              // of the last lease, and of the last token
	held     map[stock.ID]bool // leases that nodes have it of, for all that they know
	reported map[stock.ID]bool
	facts    map[stock.ID]*stock.Fact // by token
}

func (u *unitLife) step(t *rapid.T) {
	switch u.truth.State {
	case stock.Free:
		u.n++
		u.truth = stock.Unit{State: stock.Leased, Lease: stock.ID{u.n}}
		u.held[u.truth.Lease], u.reported[u.truth.Lease] = true, true
	case stock.Leased:
		var open *stock.Fact
		for _, f := range u.facts {
			if f.Lease == u.truth.Lease {
				open = f
			}
		}
		switch pick := rapid.IntRange(0, 3).Draw(t, "of a leased unit"); {
		case open == nil && pick == 0: // it comes back
			delete(u.held, u.truth.Lease)
			u.truth = stock.Unit{State: stock.Free}
		case open == nil: // it is sold, and the node forwards that
			token := stock.ID{u.n, 1}
			u.facts[token] = &stock.Fact{Lease: u.truth.Lease, Token: token, Standing: stock.Open}
		case pick == 0: // a duplicate
			open.Standing = stock.Released
			u.truth = stock.Unit{State: stock.Free}
		default:
			open.Standing = stock.Settled
			u.truth.State, u.truth.Token = stock.Sold, open.Token
		}
	case stock.Sold:
		u.facts[u.truth.Token].Standing = stock.Released
		u.truth = stock.Unit{State: stock.Free}
	}
}

// Whatever happened after the backup: when the verifier and all nodes have told, a unit is what it was.
func TestAUnitIsRebuilt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := &unitLife{truth: stock.Unit{State: stock.Free}, held: map[stock.ID]bool{}, reported: map[stock.ID]bool{}, facts: map[stock.ID]*stock.Fact{}}
		for range rapid.IntRange(0, 8).Draw(t, "steps before") {
			u.step(t)
		}
		backup := u.truth
		for range rapid.IntRange(0, 8).Draw(t, "steps after") {
			u.step(t)
		}
		e := stock.Evidence{Backup: backup, Reported: u.reported[backup.Lease]}
		for lease := range u.held {
			e.Holders = append(e.Holders, lease)
		}
		for _, f := range u.facts {
			e.Facts = append(e.Facts, *f)
		}
		slices.Reverse(e.Facts)
		if got, contradicted := stock.Rebuild(e); got != u.truth || contradicted {
			t.Fatalf("rebuilt as %v (contradicted: %v), was %v; evidence: %+v", got, contradicted, u.truth, e)
		}
	})
}

func TestWhatIsNotKnownOfAUnit(t *testing.T) {
	lease, later, k := stock.ID{1}, stock.ID{2}, stock.ID{9}
	for name, c := range map[string]struct {
		evidence     stock.Evidence
		want         stock.Unit
		contradicted bool
	}{
		"a lease that nobody reports stays its holder's: a lost grant is sent again, a lost disk's is closed": {
			stock.Evidence{Backup: stock.Unit{State: stock.Leased, Lease: lease}}, stock.Unit{State: stock.Leased, Lease: lease}, false,
		},
		"a lease that is reported without the unit gave it back": {
			stock.Evidence{Backup: stock.Unit{State: stock.Leased, Lease: lease}, Reported: true}, stock.Unit{State: stock.Free}, false,
		},
		"sold to a purchase that the verifier does not know: it stays so, and is named": {
			stock.Evidence{Backup: stock.Unit{State: stock.Sold, Lease: lease, Token: k}}, stock.Unit{State: stock.Sold, Lease: lease, Token: k}, true,
		},
		"sold to one that the verifier does not know, and lent since": {
			stock.Evidence{Backup: stock.Unit{State: stock.Sold, Lease: lease, Token: k}, Holders: []stock.ID{later}}, stock.Unit{State: stock.Leased, Lease: later}, false,
		},
		"a verifier that was restored, too, asks again for what was sold": {
			stock.Evidence{Backup: stock.Unit{State: stock.Sold, Lease: lease, Token: k}, Holders: []stock.ID{lease}, Facts: []stock.Fact{{lease, k, stock.Open}}},
			stock.Unit{State: stock.Sold, Lease: lease, Token: k}, false,
		},
		"of two holders the later lease's": {
			stock.Evidence{Backup: stock.Unit{State: stock.Free}, Holders: []stock.ID{later, lease}}, stock.Unit{State: stock.Leased, Lease: later}, false,
		},
		"denied to K, whose node still counts it as used": {
			stock.Evidence{Backup: stock.Unit{State: stock.Free}, Holders: []stock.ID{lease}, Facts: []stock.Fact{{lease, k, stock.Denied}}}, stock.Unit{State: stock.Free}, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got, contradicted := stock.Rebuild(c.evidence); got != c.want || contradicted != c.contradicted {
				t.Errorf("got %v, %v; want %v, %v", got, contradicted, c.want, c.contradicted)
			}
		})
	}
}
