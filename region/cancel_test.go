package region_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/region/journal"
)

// CancelRedemption answers what elsewhere holds for the token, or cancels it.
func (f *fakeVerifier) CancelRedemption(_ context.Context, r *verifierv1.CancelRedemptionRequest, _ ...grpc.CallOption) (*verifierv1.CancelRedemptionResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cancels++
	if f.cancelAway {
		return nil, rpcerr.New(codes.Unavailable, errorsv1.Reason_REASON_UPSTREAM_UNREACHABLE, "away")
	}
	return &verifierv1.CancelRedemptionResponse{Receipt: f.elsewhere[string(r.GetTokenId())]}, nil
}

func (w *world) claim(i int) (*offerv1.ClaimOfferResponse, error) {
	return w.node.ClaimOffer(w.t.Context(), &offerv1.ClaimOfferRequest{
		Hints: w.hints("claim"), ViewerSessionId: session(i), PaymentReference: "tp_ok",
		MaxPrice: &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 1990},
	})
}

func TestSoldOutIsSaidOnlyAfterTheVerifierCancelledTheToken(t *testing.T) {
	inOpenDrop(t, 1, 1, func(t *testing.T, w *world) {
		token := w.mustOffer(2)
		w.mustRedeem(1, w.mustOffer(1))
		w.sellOut()
		w.verifier.cancelAway = true
		_, err := w.redeem(2, token)
		wantReason(t, err, "NO_UNIT_HERE") // another node may have accepted it: nobody can say
		_, err = w.claim(3)
		wantReason(t, err, "NO_UNIT_HERE")

		w.verifier.cancelAway = false
		asked := w.verifier.cancels
		for range 3 {
			_, err = w.redeem(2, token)
			wantReason(t, err, "SOLD_OUT")
		}
		if n := w.verifier.cancels - asked; n != 1 {
			t.Errorf("the verifier was asked %d times about one token", n)
		}
		for range 2 {
			_, err := w.claim(3)
			wantReason(t, err, "SOLD_OUT")
		}
		if n := w.verifier.cancels - asked; n != 2 {
			t.Errorf("the verifier was asked %d times about two tokens", n)
		}
	})
}

func TestADefiniteNoStaysOneWhenAUnitComesBack(t *testing.T) {
	inOpenDrop(t, 1, 1, func(t *testing.T, w *world) {
		token := w.mustOffer(2)
		w.mustRedeem(1, w.mustOffer(1))
		w.sellOut()
		_, err := w.redeem(2, token)
		wantReason(t, err, "SOLD_OUT")
		other := w.restock(7)
		_, err = w.redeem(2, token)
		wantReason(t, err, "SOLD_OUT")
		w.mustRedeem(3, other)
	})
}

// Another node accepted, and its answer was lost on the way.
func TestALostAnswerIsGivenInPlaceOfTheNo(t *testing.T) {
	inOpenDrop(t, 1, 1, func(t *testing.T, w *world) {
		token := w.mustOffer(1)
		first := w.mustRedeem(1, token)
		r, err := decodeReceipt(first.GetReceipt())
		if err != nil {
			t.Fatal(err)
		}
		w.verifier.elsewhere = map[string]string{string(tokenID(t, r.GetOfferToken())): first.GetReceipt()}
		w.crash()
		w.freshDisk() // a node that knows nothing of it
		w.start()
		w.sellOut()
		again := w.mustRedeem(1, token)
		if again.GetReceipt() != first.GetReceipt() || again.GetPurchaseId() != first.GetPurchaseId() || !again.GetAcceptTime().AsTime().Equal(first.GetAcceptTime().AsTime()) {
			t.Errorf("got %v, want the receipt of the node that accepted", again)
		}
		other := w.redeemRequest(1, token)
		other.PaymentReference = "tp_decline"
		_, err = w.node.RedeemOffer(t.Context(), other)
		wantReason(t, err, "REQUEST_REPLAYED")
	})
}

// sellOut waits until the node has heard that nothing is left.
//
//rimlight:bubble only called inside inOpenDrop
func (w *world) sellOut() {
	w.stock.set(func() { clear(w.stock.free) })
	time.Sleep(3 * time.Second)
}

// restock makes one unit free, and returns a token for it as soon as the node has it.
//
//rimlight:bubble only called inside inOpenDrop
func (w *world) restock(serial uint32) string {
	w.t.Helper()
	w.stock.set(func() { w.stock.free[w.drop.Drop.DropId] = []uint32{serial} })
	time.Sleep(3 * time.Second)
	return w.mustOffer(3)
}

// freshDisk makes the next life one of a disk that knows nothing.
func (w *world) freshDisk() {
	w.t.Helper()
	fresh, err := journal.NewIdentity(time.Now(), w.random)
	if err != nil {
		w.t.Fatal(err)
	}
	fresh.NodeID = w.identity.NodeID
	w.identity, w.disk, w.verifier.acked = fresh, &journal.Disk{}, 0
	w.stock.set(func() { w.stock.epoch++ })
	w.catalog.messages <- &fulfillmentv1.WatchCatalogResponse{Snapshot: true, Revision: 1, Drops: []*fulfillmentv1.CatalogDrop{w.drop}}
}

func tokenID(t *testing.T, text string) []byte {
	t.Helper()
	var m offerv1.OfferToken
	if err := token.DecodeTrusted(text, &m); err != nil {
		t.Fatal(err)
	}
	return m.GetTokenId()
}
