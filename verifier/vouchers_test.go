package verifier_test

import (
	"sync"
	"testing"
	"time"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/token"
)

const voucherUnusable = "REASON_VOUCHER_UNUSABLE"

// storedValue earns a voucher of that much by an order that failed.
func (w *world) storedValue(amount int64) (text string) {
	w.t.Helper()
	receipt := w.failedOrder(sale{reference: "tp_ok", price: amount})
	p, err := w.choose(receipt, wantVoucher)
	check(w.t, err)
	return p.GetVoucher().GetText()
}

// priceLock earns one by a payment that failed.
func (w *world) priceLock(price int64, drop string) (text string) {
	w.t.Helper()
	receipt, _ := w.redeem(w.nodes[0], sale{reference: "tp_decline", price: price, drop: drop})
	w.present(receipt)
	time.Sleep(time.Minute) //rimlight:bubble its callers are bubbles
	return w.get(receipt).GetVoucher().GetText()
}

func (w *world) vouchers() []*verifierv1.VoucherRecord {
	w.t.Helper()
	r, err := w.support().ListVouchers(w.t.Context(), &verifierv1.ListVouchersRequest{})
	check(w.t, err)
	return r.GetVouchers()
}

func (w *world) support() verifierv1.SupportServiceServer {
	return w.impl["rimlight.verifier.v1.SupportService"].(verifierv1.SupportServiceServer)
}

func TestVouchersPay(t *testing.T) {
	for _, c := range []struct {
		name      string
		text      func(*world) string
		sale      sale
		state     offerv1.PurchaseState
		reason    string
		charged   int64 // by the provider, for this purchase
		remaining int64 // on the voucher afterwards
	}{
		{"stored value pays everything, and the rest stays on it", func(w *world) string { return w.storedValue(1000) },
			sale{reference: "tp_decline", price: 499}, delivered, noReason, 0, 501},
		{"stored value pays first, and the payment the rest", func(w *world) string { return w.storedValue(200) },
			sale{reference: "tp_ok", price: 499}, delivered, noReason, 299, 0},
		{"a payment of the rest that fails leaves the voucher as it was", func(w *world) string { return w.storedValue(200) },
			sale{reference: "tp_decline", price: 499}, voucher, "REASON_PAYMENT_DECLINED", 0, 200},
		{"a price lock lowers the price", func(w *world) string { return w.priceLock(300, "") },
			sale{reference: "tp_ok", price: 499}, delivered, noReason, 300, 0},
		{"a price lock never raises the price", func(w *world) string { return w.priceLock(900, "") },
			sale{reference: "tp_ok", price: 499}, delivered, noReason, 499, 0},
		{"a price lock survives a payment that fails", func(w *world) string { return w.priceLock(300, "") },
			sale{reference: "tp_decline", price: 499}, voucher, "REASON_PAYMENT_DECLINED", 0, 300},
		{"a price lock is over in time", func(w *world) string {
			text := w.priceLock(300, "")
			time.Sleep(2 * time.Hour)
			return text
		}, sale{reference: "tp_ok"}, refusedState, voucherUnusable, 0, 300},
		{"a price lock is for one product", func(w *world) string {
			other := w.newDrop(10)
			w.f.drops[other].title = "another thing"
			return w.priceLock(300, other)
		}, sale{reference: "tp_ok"}, refusedState, voucherUnusable, 0, 300},
		{"a voucher is for one channel", func(w *world) string {
			other := w.newDrop(10)
			w.f.drops[other].channel = "other"
			return w.priceLock(300, other)
		}, sale{reference: "tp_ok"}, refusedState, voucherUnusable, 0, 300},
		{"a receipt is no voucher", func(w *world) string {
			receipt, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
			return receipt
		}, sale{reference: "tp_ok"}, refusedState, voucherUnusable, 0, -1},
		{"an outcome is no voucher", func(w *world) string {
			receipt := w.failedOrder(sale{reference: "tp_ok"})
			p, err := w.choose(receipt, wantVoucher)
			check(w.t, err)
			return p.GetOutcome()
		}, sale{reference: "tp_ok"}, refusedState, voucherUnusable, 0, 499},
	} {
		t.Run(c.name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world) {
				w.patient()
				w.cfg.PriceLock = time.Hour
				w.start()
				c.sale.voucher = c.text(w)
				time.Sleep(time.Second) // vouchers are listed by when they were issued
				before := w.moneyAt()
				receipt, _ := w.redeem(w.nodes[1], c.sale)
				w.present(receipt)
				time.Sleep(time.Minute)
				p := w.get(receipt)
				want(t, p, c.state, c.reason)
				if got := w.moneyAt() - before; got != c.charged {
					t.Errorf("the provider charged %d, want %d", got, c.charged)
				}
				if c.state == delivered && p.GetCharged().GetMinorUnits() != c.charged {
					t.Errorf("the viewer is told %d", p.GetCharged().GetMinorUnits())
				}
				all := w.vouchers()
				if c.remaining >= 0 && all[len(all)-1].GetRemaining().GetMinorUnits() != c.remaining { // the oldest is the one
					t.Errorf("%d left on the voucher, want %d", all[len(all)-1].GetRemaining().GetMinorUnits(), c.remaining)
				}
				w.checkBooks()
			})
		})
	}
}

func TestDeadOrderGivesTheVoucherBack(t *testing.T) {
	for name, c := range map[string]struct {
		value     int64
		state     offerv1.PurchaseState
		remaining int64
	}{
		"what it paid goes back, the rest is chosen about":      {200, choiceRequired, 200},
		"where it paid everything nothing is left to be chosen": {1000, refunded, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world) {
				w.patient()
				w.start()
				receipt := w.failedOrder(sale{reference: "tp_ok", voucher: w.storedValue(c.value)})
				want(t, w.get(receipt), c.state, orderFailed)
				if left := w.vouchers()[0].GetRemaining().GetMinorUnits(); left != c.remaining {
					t.Errorf("%d left on the voucher, want %d", left, c.remaining)
				}
				w.checkBooks()
				time.Sleep(2 * time.Hour)
				want(t, w.get(receipt), refunded, orderFailed)
				if got := w.moneyAt(); got != c.value { // what the voucher was made of
					t.Errorf("the provider keeps %d, want %d", got, c.value)
				}
				w.checkBooks()
			})
		})
	}
}

// TestVoucherIsSpentOnce lets 200 purchases want one voucher at the same time, from the forwarded batches to the payment.
func TestVoucherIsSpentOnce(t *testing.T) {
	for name, earn := range map[string]func(*world) string{
		"stored value": func(w *world) string { return w.storedValue(499) },
		"price lock":   func(w *world) string { return w.priceLock(300, "") },
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, w *world) {
				w.drop = w.newDrop(1000)
				w.cfg.PaymentParallelism = 200
				w.start()
				text := earn(w)
				const tries = 200
				receipts := make([]string, tries)
				for i := range receipts {
					receipts[i], _ = w.redeem(w.nodes[i%3], sale{reference: "tp_ok", voucher: text})
				}
				before := w.moneyAt()
				var presenting sync.WaitGroup
				for _, r := range receipts {
					presenting.Go(func() { w.present(r) })
				}
				presenting.Wait()
				time.Sleep(2 * time.Minute)
				ends := map[string]int{}
				for _, r := range receipts {
					p := w.get(r)
					ends[p.GetState().String()+" "+p.GetReason().String()]++
				}
				if len(ends) != 2 || ends[delivered.String()+" "+noReason] != 1 || ends[refusedState.String()+" "+voucherUnusable] != tries-1 {
					t.Errorf("ended as %v, want one delivered", ends)
				}
				wantMore := map[string]int64{"stored value": 0, "price lock": 300}[name]
				if got := w.moneyAt() - before; got != wantMore {
					t.Errorf("the provider charged %d, want %d", got, wantMore)
				}
				if v := w.vouchers(); len(v) != 1 || v[0].GetRemaining().GetMinorUnits() != 0 || len(v[0].GetUsedBy()) != 1 {
					t.Errorf("the voucher afterwards: %v", v)
				}
				w.checkBooks()
			})
		})
	}
}

func TestVoucherTextFitsItsField(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		text := w.storedValue(499)
		if len(text) > 256 {
			t.Errorf("a voucher's text has %d characters, the requests take 256", len(text))
		}
		if _, _, err := (&token.Keys{}).OpenReceipt(text); err == nil {
			t.Error("a voucher passes as a receipt")
		}
	})
}
