package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/rimlight/rimlight/fulfillment/store"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
)

// rejoin is node's Join from another disk, and the epoch that it got.
func rejoin(t testing.TB, s *store.Store, node store.ID, disk string, at time.Time) store.Joined {
	t.Helper()
	j, err := s.Join(t.Context(), store.Node{ID: node, DiskID: disk, Region: "r", Key: &offerv1.SigningKey{KeyId: []byte(disk)}}, at)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func TestANewDiskRaisesTheEpochAndPutsItsLeasesAside(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		node, other, drop := id('n', 1), id('n', 2), id('d', 1)
		create(t, s, drop, 100, window(start, 90*time.Second))
		join(t, s, node)
		join(t, s, other)
		lost := grant(t, s, id('r', 1), node, drop, id('l', 1), 2).Lease
		grant(t, s, id('r', 2), other, drop, id('l', 2), 1)
		if j := rejoin(t, s, node, "new disk", start); j != (store.Joined{Epoch: 2, Quarantined: 1}) {
			t.Fatalf("got %+v", j)
		}
		if j := rejoin(t, s, node, "new disk", start); j != (store.Joined{Epoch: 2}) {
			t.Errorf("the same disk again: %+v", j)
		}
		if got := level(t, s, drop); got != (store.Level{Units: 100, Free: 97, Leased: 1, Quarantined: 2}) {
			t.Errorf("got %+v", got)
		}

		old, now := store.Caller{NodeID: node, Epoch: 1}, store.Caller{NodeID: node, Epoch: 2}
		stale := new(*store.EpochStaleError)
		if _, err := s.Grant(t.Context(), store.GrantRequest{RequestID: id('r', 1), NodeID: node, DropID: drop, Epoch: 1, Wanted: 2}, id('l', 9), start); !errors.As(err, stale) {
			t.Errorf("a grant of the old epoch, repeated: %v", err)
		}
		if _, err := s.Return(t.Context(), old, id('l', 1), lost.Serials, start); !errors.As(err, stale) {
			t.Errorf("a return under the old epoch: %v", err)
		}
		if _, err := s.Seen(t.Context(), old, start); !errors.As(err, stale) {
			t.Errorf("a heartbeat under the old epoch: %v", err)
		}
		if _, err := s.Return(t.Context(), now, id('l', 1), lost.Serials, start); !errors.As(err, new(*store.LeaseNotFoundError)) {
			t.Errorf("a return of the lost disk's units under the new epoch: %v", err)
		}
		if missing, err := s.ActiveLeases(t.Context(), now, nil, 10); err != nil || len(missing) != 0 {
			t.Errorf("the lost disk's leases are sent again: %v, %v", missing, err)
		}
		// What the lost disk sold is as good as before: its receipts come from clients.
		if v := settle(t, s, store.Claim{TokenID: id('k', 1), DropID: drop, Serial: lost.Serials[0], LeaseID: id('l', 1)}); v[0] != store.Settled {
			t.Errorf("a sale of the lost disk: %v", v)
		}
		if got := level(t, s, drop); got != (store.Level{Units: 100, Free: 97, Leased: 1, Quarantined: 1, Sold: 1}) {
			t.Errorf("got %+v", got)
		}
		if _, err := s.SettleDrop(t.Context(), drop, start.Add(time.Hour)); !errors.As(err, new(*store.NotSettleableError)) {
			t.Errorf("a drop with units in quarantine is settled: %v", err)
		}
	})
}

func TestTheOlderOfTwoLivesOnOneDirectoryIsFenced(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		drop := id('d', 1)
		create(t, s, drop, 100, window(start, 90*time.Second))
		n := store.Node{ID: id('n', 1), DiskID: "disk", Region: "r", Key: &offerv1.SigningKey{KeyId: []byte("key")}, Life: 5, BootID: "five"}
		join := func(life int64, boot string) error {
			n.Life, n.BootID = life, boot
			_, err := s.Join(t.Context(), n, start)
			return err
		}
		gone := new(*store.SupersededError)
		for _, c := range []struct {
			life int64
			boot string
			ok   bool
		}{
			{5, "five", true}, {5, "five", true}, // a repeat
			{6, "six", true},                       // a restart, or the copy
			{5, "five", false}, {6, "six'", false}, // a late message, and a copy that counted the same
			{6, "six", true},
		} {
			if err := join(c.life, c.boot); (err == nil) != c.ok || err != nil && !errors.As(err, gone) {
				t.Errorf("life %d %q: %v", c.life, c.boot, err)
			}
		}
		older, current := store.Caller{NodeID: n.ID, Epoch: 1, BootID: "five"}, store.Caller{NodeID: n.ID, Epoch: 1, BootID: "six"}
		ask := store.GrantRequest{RequestID: id('r', 1), NodeID: n.ID, DropID: drop, Epoch: 1, Wanted: 1, BootID: "six"}
		if g, err := s.Grant(t.Context(), ask, id('l', 1), start); err != nil || g.Lease == nil {
			t.Fatalf("got %+v, %v", g, err)
		}
		ask.BootID = "five"
		if g, err := s.Grant(t.Context(), ask, id('l', 2), start); !errors.As(err, gone) {
			t.Errorf("the older life got the answer that another one asked for: %+v, %v", g, err)
		}
		if _, err := s.Return(t.Context(), older, id('l', 1), []uint32{1}, start); !errors.As(err, gone) {
			t.Errorf("the older life gave back: %v", err)
		}
		if _, err := s.Seen(t.Context(), older, start); !errors.As(err, gone) {
			t.Errorf("the older life's heartbeat: %v", err)
		}
		if _, err := s.Seen(t.Context(), current, start); err != nil {
			t.Errorf("the current life's heartbeat: %v", err)
		}
	})
}
