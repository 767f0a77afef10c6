package verifier_test

import (
	"testing"
	"time"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
)

// A drop may give its units away. There is nothing to take then, and so nothing that could be declined, spent or given back.
func TestFreePurchases(t *testing.T) {
	for _, c := range []struct {
		name   string
		buy    func(*world) (receipt string)
		state  offerv1.PurchaseState
		reason string
	}{
		{"nobody is asked for money", func(w *world) string {
			receipt, _ := w.redeem(w.nodes[1], sale{reference: "tp_decline", free: true})
			w.present(receipt)
			return receipt
		}, delivered, noReason},
		{"a voucher stays as it is", func(w *world) string {
			receipt, _ := w.redeem(w.nodes[1], sale{reference: "tp_ok", free: true, voucher: w.priceLock(300, "")})
			w.present(receipt)
			return receipt
		}, delivered, noReason},
		{"an order that dies leaves nothing to choose", func(w *world) string {
			return w.failedOrder(sale{reference: "tp_ok", free: true})
		}, refunded, orderFailed},
		{"a denied unit has no price to lock", func(w *world) string {
			receipt, _ := w.redeem(w.nodes[1], sale{reference: "tp_ok", free: true, unleased: true})
			w.present(receipt)
			return receipt
		}, refusedState, "REASON_UNIT_DENIED"},
	} {
		t.Run(c.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world) {
				w.patient()
				w.start()
				receipt := c.buy(w)
				time.Sleep(time.Minute)
				p := w.get(receipt)
				want(t, p, c.state, c.reason)
				if p.GetOutcome() == "" || p.GetVoucher() != nil {
					t.Errorf("ended as %v", p)
				}
				if intents, err := w.psp.Intents(t.Context(), p.GetPurchaseId()); err != nil || len(intents) != 0 {
					t.Errorf("the provider was asked for %v, %v", intents, err)
				}
				for _, v := range w.vouchers() {
					if v.GetRemaining().GetMinorUnits() != v.GetVoucher().GetPrice().GetMinorUnits() {
						t.Errorf("a free unit took something of a voucher: %v", v)
					}
				}
				w.checkBooks()
				if jobs := w.audit().GetJobsOpen(); jobs != 0 {
					t.Errorf("%d jobs are open", jobs)
				}
			})
		})
	}
}
