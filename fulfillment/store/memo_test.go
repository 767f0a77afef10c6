package store_test

import (
	"testing"
	"time"

	"github.com/rimlight/rimlight/fulfillment/store"
)

// What heartbeats read is kept until something changes: each change of a drop's units must show at once.
func TestSupplyFollowsEachChange(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		node, drop, lease := id('n', 1), id('d', 1), id('l', 1)
		claim := store.Claim{TokenID: id('k', 1), DropID: drop, Serial: 1, LeaseID: lease}
		check := func(after string, known, free, leased bool) {
			t.Helper()
			for range 2 { // the second time from what is kept
				p, err := s.Supply(t.Context(), drop)
				if err != nil || p.Known != known || p.AnyFree != free || p.AnyLeased != leased {
					t.Fatalf("after %s: got %+v, %v; want known %v, free %v, leased %v", after, p, err, known, free, leased)
				}
			}
		}
		check("nothing", false, false, false)
		create(t, s, drop, 1, window(start, 90*time.Second))
		check("its planning", true, true, false)
		join(t, s, node)
		grant(t, s, id('r', 1), node, drop, lease, 1)
		check("a grant", true, false, true)
		caller := store.Caller{NodeID: node, Epoch: 1}
		if _, err := s.Return(t.Context(), caller, lease, []uint32{1}, start); err != nil {
			t.Fatal(err)
		}
		check("a return", true, true, false)
		claim.LeaseID = id('l', 2)
		grant(t, s, id('r', 2), node, drop, claim.LeaseID, 1)
		settle(t, s, claim)
		check("a settlement", true, false, false)
		release(t, s, claim)
		check("a release", true, true, false)
	})
}
