package verifier_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/token"
)

func (w *world) cancelToken(offer string) *verifierv1.CancelRedemptionResponse {
	w.t.Helper()
	r, err := w.tryCancel(offer)
	check(w.t, err)
	return r
}

func (w *world) tryCancel(offer string) (*verifierv1.CancelRedemptionResponse, error) {
	w.t.Helper()
	var o offerv1.OfferToken
	check(w.t, token.DecodeTrusted(offer, &o))
	return w.verifier().CancelRedemption(w.t.Context(), &verifierv1.CancelRedemptionRequest{
		TokenId: o.GetTokenId(), DropId: ids.Text(o.GetDropId()), ViewerSessionId: o.GetViewerSessionId(), Price: o.GetPrice(),
	})
}

func TestARedemptionThatComesAfterTheNoIsRefusedAndItsUnitReleased(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		receipt, offer := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		first := w.cancelToken(offer)
		want(t, first.GetPurchase(), offerv1.PurchaseState_PURCHASE_STATE_REFUSED, "REASON_REDEMPTION_CANCELLED")
		if first.GetReceipt() != "" || first.GetPurchase().GetOutcome() == "" {
			t.Error("the no has a receipt, or no signed outcome")
		}
		if !proto.Equal(first, w.cancelToken(offer)) {
			t.Error("the repeat got another answer")
		}
		w.submit(w.nodes[0], 0, receipt)
		time.Sleep(time.Minute)
		if p := w.get(receipt); !proto.Equal(p, first.GetPurchase()) {
			t.Errorf("the receipt shows %v, the viewer was told %v", p, first.GetPurchase())
		}
		if !proto.Equal(w.cancelToken(offer), first) {
			t.Error("after the redemption the no is another")
		}
		if free, leased, sold := w.f.count(w.drop); free != 1 || leased != 0 || sold != 0 {
			t.Errorf("%d free, %d leased, %d sold; want the unit free", free, leased, sold)
		}
		if n := w.charges(first.GetPurchase().GetPurchaseId()); n != 0 {
			t.Errorf("%d charges", n)
		}
		if d := w.audit().GetDrops()[0]; d.GetReceived() != 1 || d.GetRefused() != 1 || d.GetDuplicates() != 0 {
			t.Errorf("the audit counts %v", d)
		}
		w.checkBooks()
	})
}

func TestARedemptionThatCameFirstIsAnsweredInPlaceOfTheNo(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		receipt, offer := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		w.submit(w.nodes[0], 0, receipt)
		for range 2 {
			if got := w.cancelToken(offer).GetReceipt(); got != receipt {
				t.Error("the redemption's receipt was not answered")
			}
			time.Sleep(time.Minute)
		}
		want(t, w.get(receipt), delivered, noReason)
	})
}
