package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/rimlight/rimlight/fulfillment/store"
)

func TestCloseFreesWhatIsUnsoldAndSettlesNothingMore(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		node, drop, lease := id('n', 1), id('d', 1), id('l', 1)
		create(t, s, drop, 100, window(start, 90*time.Second))
		join(t, s, node)
		serials := grant(t, s, id('r', 1), node, drop, lease, 3).Lease.GetSerials()
		sold := store.Claim{TokenID: id('k', 1), DropID: drop, Serial: serials[0], LeaseID: lease}
		late := store.Claim{TokenID: id('k', 2), DropID: drop, Serial: serials[1], LeaseID: lease}
		agree := func(store.QuarantinedLease) error { return nil }
		if _, err := s.CloseLease(t.Context(), lease, agree); !errors.As(err, new(*store.LeaseInUseError)) {
			t.Errorf("a lease in use: %v", err)
		}
		if _, err := s.CloseLease(t.Context(), id('l', 9), agree); !errors.As(err, new(*store.LeaseNotFoundError)) {
			t.Errorf("an unknown lease: %v", err)
		}
		settle(t, s, sold)
		rejoin(t, s, node, "new disk", start.Add(time.Second))
		found, err := s.Quarantined(t.Context(), time.Time{}, store.ID{}, 10)
		if err != nil || len(found) != 1 || found[0].ID != lease || found[0].Units != uint32(len(serials)-1) || !found[0].Since.Equal(start.Add(time.Second)) || found[0].Drop.ID != drop {
			t.Fatalf("got %+v, %v", found, err)
		}
		if rest, err := s.Quarantined(t.Context(), found[0].Since, found[0].ID, 10); err != nil || len(rest) != 0 {
			t.Errorf("the page after the last: %v, %v", rest, err)
		}
		no := errors.New("not yet")
		if _, err := s.CloseLease(t.Context(), lease, func(store.QuarantinedLease) error { return no }); !errors.Is(err, no) {
			t.Errorf("got %v", err)
		}
		if got := level(t, s, drop); got.Quarantined != uint32(len(serials)-1) {
			t.Errorf("a refused close changed the stock: %+v", got)
		}
		for _, want := range []int{len(serials) - 1, 0} {
			if freed, err := s.CloseLease(t.Context(), lease, agree); err != nil || freed != want {
				t.Errorf("freed %d, %v, want %d", freed, err, want)
			}
		}
		if v := settle(t, s, sold, late); v[0] != store.Settled || v[1] != store.NotYours {
			t.Errorf("got %v, want what was sold to stand and the late claim refused", v)
		}
		if got := level(t, s, drop); got != (store.Level{Units: 100, Free: 99, Sold: 1}) {
			t.Errorf("got %+v", got)
		}
	})
}
