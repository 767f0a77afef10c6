package verifier_test

import (
	"testing"
	"time"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
)

const (
	delivered      = offerv1.PurchaseState_PURCHASE_STATE_DELIVERED
	voucher        = offerv1.PurchaseState_PURCHASE_STATE_VOUCHER
	refusedState   = offerv1.PurchaseState_PURCHASE_STATE_REFUSED
	actionRequired = offerv1.PurchaseState_PURCHASE_STATE_ACTION_REQUIRED
	noReason       = "REASON_UNSPECIFIED"
)

func TestEveryReferenceEndsWhereItShould(t *testing.T) {
	for _, c := range []struct {
		reference string
		state     offerv1.PurchaseState
		reason    string
		charges   int
	}{
		{"tp_ok", delivered, noReason, 1},
		{"tp_ok:suffix", delivered, noReason, 1},
		{"tp_timeout_before", delivered, noReason, 1},
		{"tp_timeout_after", delivered, noReason, 1},
		{"tp_500_once", delivered, noReason, 1},
		{"tp_decline_once", delivered, noReason, 1},
		{"tp_decline", voucher, "REASON_PAYMENT_DECLINED", 0},
		{"something_else", voucher, "REASON_PAYMENT_DECLINED", 0},
		{"tp_action_required", voucher, "REASON_PAYMENT_WINDOW_OVER", 0},
	} {
		t.Run(c.reference, func(t *testing.T) {
			inMemory(t, func(t *testing.T, w *world) {
				w.start()
				receipt, _ := w.redeem(w.nodes[0], sale{reference: c.reference})
				w.present(receipt)
				time.Sleep(2 * time.Minute)
				p := w.get(receipt)
				want(t, p, c.state, c.reason)
				if n := w.charges(p.GetPurchaseId()); n != c.charges {
					t.Errorf("%d charges, want %d", n, c.charges)
				}
				if p.GetOutcome() == "" {
					t.Error("a final purchase without a signed outcome")
				}
				_, leased, sold := w.f.count(w.drop)
				if leased != 0 && c.state != delivered || sold != c.charges {
					t.Errorf("%d units leased, %d sold", leased, sold)
				}
				if jobs := w.audit().GetJobsOpen(); jobs != 0 {
					t.Errorf("%d jobs are open", jobs)
				}
				w.checkBooks()
			})
		})
	}
}
