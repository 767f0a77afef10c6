package store_test

import (
	"crypto/sha256"
	"testing"
	"time"

	"github.com/rimlight/rimlight/fulfillment/store"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
)

// Heartbeats repeat, overtake each other and come from several lives of a node.
func TestOffersAreCountedPerProcessLife(t *testing.T) {
	onEach(t, func(t *testing.T, s *store.Store) {
		drop, node := id('d', 1), id('n', 1)
		create(t, s, drop, 10, window(start, time.Minute))
		join(t, s, node)
		first := store.Caller{NodeID: node, Epoch: 1}
		for _, n := range []int64{3, 7, 5, 7} {
			if err := s.CountOffers(t.Context(), first, map[store.ID]int64{drop: n, id('d', 2): 9}); err != nil {
				t.Fatal(err)
			}
		}
		key := sha256.Sum256(node[:])
		later := store.Caller{NodeID: node, Epoch: 1, BootID: "later"}
		if _, err := s.Join(t.Context(), store.Node{ID: node, DiskID: "disk-" + node.String(), Region: "r", Key: &offerv1.SigningKey{KeyId: key[:8], PublicKey: key[:]}, Life: 2, BootID: "later"}, start); err != nil {
			t.Fatal(err)
		}
		for _, c := range []store.Caller{later, first} { // the one before is not the node any more
			if err := s.CountOffers(t.Context(), c, map[store.ID]int64{drop: 2}); err != nil {
				t.Fatal(err)
			}
		}
		got, err := s.Offers(t.Context(), []store.ID{drop, id('d', 2)})
		if err != nil || len(got) != 1 || got[drop] != 7+2 {
			t.Errorf("got %v, %v, want 9 of one drop", got, err)
		}
	})
}
