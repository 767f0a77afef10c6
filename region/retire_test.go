package region_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/region"
)

// RetireNode remembers who retired, and when: after how many receipts.
func (f *fakeStock) RetireNode(_ context.Context, r *fulfillmentv1.RetireNodeRequest, _ ...grpc.CallOption) (*fulfillmentv1.RetireNodeResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, errDown
	}
	f.retired = append(f.retired, r.GetEpoch())
	return &fulfillmentv1.RetireNodeResponse{}, nil
}

func TestAFencedNodeGivesBackWhatItHasNotSold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 9, 5)
		w.start()
		time.Sleep(21 * time.Second)
		sold := serialOf(t, w.mustRedeem(1, w.mustOffer(1)).GetReceipt())
		token := w.mustOffer(2)
		var untouched int
		w.stock.set(func() {
			for id, l := range w.stock.leases {
				w.stock.fenced = append(w.stock.fenced, id)
				untouched += len(l.GetSerials())
			}
			untouched--        // the sold one
			w.stock.free = nil // and there is no other stock
		})
		time.Sleep(2 * time.Second)
		_, err := w.redeem(2, token)
		if err == nil {
			t.Error("a fenced node sold")
		}
		w.stock.set(func() {
			if w.stock.returned[sold] > 0 || len(w.stock.returned) != untouched {
				t.Errorf("serials %v came back, want %d without %d", w.stock.returned, untouched, sold)
			}
		})
		w.crash()
		w.start()
		if _, err := w.redeem(2, token); err == nil {
			t.Error("a fenced node sold after a restart")
		}
		if err := w.end(); err != nil {
			t.Error(err)
		}
	})
}

func TestANodeThatRetiresForwardsEverythingThenSealsThenIsPutAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 9, 5)
		w.start()
		time.Sleep(21 * time.Second)
		w.verifier.cut()
		w.mustRedeem(1, w.mustOffer(1))
		token := w.mustOffer(2)
		w.crash()

		w.retire = true
		w.start()
		if _, err := w.redeem(2, token); err == nil {
			t.Error("a node that retires sold")
		}
		time.Sleep(10 * time.Second)
		w.stock.set(func() {
			if len(w.stock.retired) > 0 {
				t.Error("the node retired before the verifier had read its journal")
			}
			if len(w.stock.returned) != 4 {
				t.Errorf("%d units came back, want the 4 that were not sold", len(w.stock.returned))
			}
		})
		w.crash() // in the middle
		w.start()
		w.verifier.heal()
		if err := <-w.ended; err != nil {
			t.Fatalf("Run ended with %v", err)
		}
		if receipts, _ := w.verifier.count(); receipts != 1 {
			t.Errorf("%d receipts were forwarded, want 1", receipts)
		}
		w.verifier.mu.Lock()
		seals := slices.Clone(w.verifier.seals)
		w.verifier.mu.Unlock()
		if len(seals) != 1 || seals[0].GetEpoch() != 1 || seals[0].GetLastEntrySequence() == 0 || seals[0].GetSequence() <= seals[0].GetLastEntrySequence() {
			t.Errorf("got the seals %v", seals)
		}
		if got := w.stock.retired; !slices.Equal(got, []int64{1}) {
			t.Errorf("retired from the epochs %v, want 1", got)
		}
		w.abandon()

		w.retire = false
		_, err := w.make()
		if !errors.Is(err, region.ErrSealed) {
			t.Errorf("a sealed journal in service: %v, want %v", err, region.ErrSealed)
		}
		w.memory.Crash()
	})
}
