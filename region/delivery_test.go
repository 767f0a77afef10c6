package region_test

import (
	"bytes"
	"crypto/rand"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/sealed"
)

// poster is a world whose drop is sent, open, and without a depot.
func poster(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 50, 50)
		w.drop.GoodsKind, w.drop.Sku = fulfillmentv1.GoodsKind_GOODS_KIND_PHYSICAL, "poster"
		w.start()
		time.Sleep(21 * time.Second)
		test(t, w)
		if err := w.end(); err != nil {
			t.Errorf("Run ended with %v", err)
		}
	})
}

// tellDepots is the catalogue's news of who has the drop's good now.
//
//rimlight:bubble called in the bubbles of poster
func (w *world) tellDepots(depots ...*fulfillmentv1.Depot) {
	w.drop = proto.CloneOf(w.drop)
	w.drop.Drop.Revision++
	w.drop.Depots = depots
	w.catalog.messages <- &fulfillmentv1.WatchCatalogResponse{Drops: []*fulfillmentv1.CatalogDrop{w.drop}, Revision: w.drop.Drop.Revision}
	synctest.Wait()
	time.Sleep(10 * time.Millisecond) // the journal's sync
}

func newDepot(t *testing.T, zones ...string) *fulfillmentv1.Depot {
	t.Helper()
	k, err := sealed.NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &fulfillmentv1.Depot{PublicKey: k.Public(), Zones: zones}
}

// sealTo makes an envelope; what it is for is hidden from regions.
func (w *world) sealTo(depots ...*fulfillmentv1.Depot) []byte {
	w.t.Helper()
	var keys [][]byte
	for _, d := range depots {
		keys = append(keys, d.GetPublicKey())
	}
	envelope, err := sealed.Seal([]byte("Rue de la Paix 1"), keys, sealed.Purchase{DropID: w.drop.Drop.DropId, ID: strings.Repeat("0", 32)})
	if err != nil {
		w.t.Fatal(err)
	}
	return envelope
}

func TestAPhysicalDropIsOfferedWhereADepotDelivers(t *testing.T) {
	poster(t, func(t *testing.T, w *world) {
		_, err := w.offer(1)
		wantReason(t, err, "NO_DEPOT")
		far, near, everywhere := newDepot(t, "mars", "tes"), newDepot(t, "test"), newDepot(t)
		w.tellDepots(far) // although its terms are frozen: they are not terms
		_, err = w.offer(1)
		wantReason(t, err, "NO_DEPOT")
		w.tellDepots(far, near, everywhere)
		m, err := w.offer(1)
		if err != nil {
			t.Fatal(err)
		}
		keys := m.GetOffer().GetDeliveryKeys()
		for i, want := range []*fulfillmentv1.Depot{near, everywhere, far} { // a router may take the purchase anywhere
			if len(keys) != 3 || !bytes.Equal(keys[i], want.GetPublicKey()) {
				t.Fatalf("got %d keys, in another order", len(keys))
			}
		}
		var crowd []*fulfillmentv1.Depot
		for range 2 * sealed.MaxRecipients {
			crowd = append(crowd, newDepot(t, "mars"))
		}
		w.tellDepots(append(crowd, near)...)
		if m, err = w.offer(1); err != nil || len(m.GetOffer().GetDeliveryKeys()) != sealed.MaxRecipients || !bytes.Equal(m.GetOffer().GetDeliveryKeys()[0], near.GetPublicKey()) {
			t.Errorf("among many: %v", err)
		}
	})
}

func TestDetailsAreSealedToADepotThatDeliversHere(t *testing.T) {
	poster(t, func(t *testing.T, w *world) {
		far, near := newDepot(t, "mars"), newDepot(t, "test-1")
		w.tellDepots(far, near)
		offer := w.mustOffer(1)
		redeem := func(details []byte) (*offerv1.RedeemOfferResponse, error) {
			r := w.redeemRequest(1, offer)
			r.DeliveryDetails = details
			r.Consent = &offerv1.Consent{GrantedPurposes: []offerv1.Purpose{offerv1.Purpose_PURPOSE_DELIVERY}}
			return w.node.RedeemOffer(t.Context(), r)
		}
		good := w.sealTo(far, near)
		for _, c := range []struct {
			details []byte
			want    string
		}{
			{nil, "INVALID_REQUEST"},
			{[]byte("Rue de la Paix 1"), "DETAILS_NOT_SEALED"},
			{append(bytes.Clone(good), "\x1a\x10Rue de la Paix 1"...), "DETAILS_NOT_SEALED"},
			{w.sealTo(far), "NO_DEPOT"},
			{w.sealTo(newDepot(t)), "NO_DEPOT"},
		} {
			_, err := redeem(c.details)
			wantReason(t, err, c.want)
		}
		first, err := redeem(good)
		if err != nil {
			t.Fatal(err)
		}
		w.tellDepots(far)
		if again, err := redeem(good); err != nil || again.GetReceipt() != first.GetReceipt() {
			t.Errorf("the same again, after the depot has gone: %v", err)
		}
		_, err = redeem(w.sealTo(near))
		wantReason(t, err, "REQUEST_REPLAYED")
		for _, r := range w.records() {
			raw, err := proto.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(raw, []byte("Paix")) || bytes.Contains(raw, []byte("UGFpe")) {
				t.Error("the journal can be read")
			}
		}
	})
}
