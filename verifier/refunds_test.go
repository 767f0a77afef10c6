package verifier_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// refund asks for one; amount 0: everything.
func (w *world) refund(request, purchaseID string, amount int64, edit ...func(*verifierv1.RefundPurchaseRequest)) (*verifierv1.RefundPurchaseResponse, error) {
	r := &verifierv1.RefundPurchaseRequest{RequestId: request, PurchaseId: purchaseID, Reason: "broken on arrival"}
	if amount != 0 {
		r.Amount = &offerv1.Money{CurrencyCode: "EUR", MinorUnits: amount}
	}
	for _, e := range edit {
		e(r)
	}
	return w.support().RefundPurchase(w.t.Context(), r)
}

func (w *world) refunds(purchaseID string) []*verifierv1.Refund {
	w.t.Helper()
	r, err := w.support().ListRefunds(w.t.Context(), &verifierv1.ListRefundsRequest{PurchaseId: purchaseID})
	check(w.t, err)
	return r.GetRefunds()
}

func (w *world) bought(reference string) (receipt, purchaseID string) {
	w.t.Helper()
	receipt, _ = w.redeem(w.nodes[0], sale{reference: reference})
	id := w.present(receipt).GetPurchaseId()
	time.Sleep(time.Minute) //rimlight:bubble its callers are bubbles
	want(w.t, w.get(receipt), delivered, noReason)
	return receipt, id
}

func TestRefundsInPartNeverExceedWhatWasCaptured(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		receipt, id := w.bought("tp_ok")
		outcome := w.get(receipt).GetOutcome()
		dry := func(r *verifierv1.RefundPurchaseRequest) { r.DryRun = true }
		for range 2 {
			a, err := w.refund("first", id, 200, dry)
			check(t, err)
			if a.GetRefund().GetRefundId() != "" || a.GetRefundable().GetMinorUnits() != 299 || a.GetCaptured().GetMinorUnits() != 499 {
				t.Errorf("the dry run says %v", a)
			}
		}
		if got := w.refunds(id); len(got) != 0 {
			t.Fatalf("the dry run refunded %v", got)
		}
		first, err := w.refund("first", id, 200)
		check(t, err)
		if _, err := w.refund("too much", id, 300); status.Code(err) != codes.FailedPrecondition || rpcerr.Reason(err) != errorsv1.Reason_REASON_NOT_REFUNDABLE ||
			rpcerr.Info(err).GetMetadata()["refundable_minor_units"] != "299" {
			t.Errorf("300 of 299 while 200 are pending: %v", err)
		}
		time.Sleep(time.Minute)
		again, err := w.refund("first", id, 200)
		check(t, err)
		if again.GetRefund().GetRefundId() != first.GetRefund().GetRefundId() || again.GetRefund().GetState() != verifierv1.RefundState_REFUND_STATE_DONE {
			t.Errorf("the same request again: %v", again)
		}
		for name, edit := range map[string]func(*verifierv1.RefundPurchaseRequest){
			"amount": func(r *verifierv1.RefundPurchaseRequest) { r.Amount.MinorUnits = 100 },
			"reason": func(r *verifierv1.RefundPurchaseRequest) { r.Reason = "another" },
		} {
			if _, err := w.refund("first", id, 200, edit); status.Code(err) != codes.AlreadyExists || rpcerr.Reason(err) != errorsv1.Reason_REASON_REQUEST_REPLAYED {
				t.Errorf("the same request with another %s: %v", name, err)
			}
		}
		_, err = w.refund("rest", id, 0)
		check(t, err)
		time.Sleep(time.Minute)
		_, err = w.refund("nothing left", id, 0)
		if rpcerr.Reason(err) != errorsv1.Reason_REASON_NOT_REFUNDABLE {
			t.Errorf("a refund of nothing: %v", err)
		}
		p := w.get(receipt)
		want(t, p, delivered, noReason)
		if p.GetRefunded().GetMinorUnits() != 499 || p.GetOutcome() != outcome {
			t.Errorf("the viewer is told %v", p)
		}
		if got := w.moneyAt(); got != 0 {
			t.Errorf("the provider keeps %d", got)
		}
		w.checkBooks()
	})
}

func TestRefundsTogetherNeverExceedWhatWasCaptured(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		_, id := w.bought("tp_ok")
		var asking sync.WaitGroup
		var mu sync.Mutex
		done := 0
		for i := range 50 {
			asking.Go(func() {
				if _, err := w.refund(fmt.Sprint(i), id, 100); err == nil {
					mu.Lock()
					done++
					mu.Unlock()
				} else if rpcerr.Reason(err) != errorsv1.Reason_REASON_NOT_REFUNDABLE {
					t.Error(err)
				}
			})
		}
		asking.Wait()
		time.Sleep(time.Minute)
		if got := w.moneyAt(); done != 4 || got != 99 {
			t.Errorf("%d refunds of 100, the provider keeps %d of 499", done, got)
		}
		w.checkBooks()
	})
}

func TestRefundsComeThroughWhateverTheProviderDoes(t *testing.T) {
	for reference, c := range map[string]struct {
		state verifierv1.RefundState
		keeps int64
	}{
		"tp_timeout_before": {verifierv1.RefundState_REFUND_STATE_DONE, 299},
		"tp_timeout_after":  {verifierv1.RefundState_REFUND_STATE_DONE, 299},
		"tp_500_once":       {verifierv1.RefundState_REFUND_STATE_DONE, 299},
		"tp_500_kept":       {verifierv1.RefundState_REFUND_STATE_DONE, 299},
		"tp_refund_slow":    {verifierv1.RefundState_REFUND_STATE_DONE, 299},
		"tp_refund_fails":   {verifierv1.RefundState_REFUND_STATE_FAILED, 499},
	} {
		t.Run(reference, func(t *testing.T) {
			inMemory(t, func(t *testing.T, w *world) {
				w.start()
				_, id := w.bought(reference)
				_, err := w.refund("r", id, 200)
				check(t, err)
				time.Sleep(20 * time.Minute)
				if got := w.refunds(id); len(got) != 1 || got[0].GetState() != c.state {
					t.Errorf("refunds %v, want %v", got, c.state)
				}
				if got := w.moneyAt(); got != c.keeps {
					t.Errorf("the provider keeps %d, want %d", got, c.keeps)
				}
				if _, err := w.refund("more", id, 299+1); (err == nil) != (c.keeps == 499) {
					t.Errorf("what a failed refund leaves can be refunded, and no other: %v", err)
				}
				w.checkBooks()
			})
		})
	}
}

func TestOnlyDeliveredPurchasesAreRefunded(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		choosing := w.get(w.failedOrder(sale{reference: "tp_ok"}))
		receipt, _ := w.redeem(w.nodes[0], sale{reference: "tp_decline"})
		w.present(receipt)
		time.Sleep(time.Minute)
		_, paid := w.bought("tp_ok")
		for name, c := range map[string]struct {
			id     string
			edit   func(*verifierv1.RefundPurchaseRequest)
			code   codes.Code
			reason errorsv1.Reason
		}{
			"a viewer who is to choose": {choosing.GetPurchaseId(), nil, codes.FailedPrecondition, errorsv1.Reason_REASON_NOT_REFUNDABLE},
			"a payment that failed":     {w.get(receipt).GetPurchaseId(), nil, codes.FailedPrecondition, errorsv1.Reason_REASON_NOT_REFUNDABLE},
			"no such purchase":          {fmt.Sprintf("%032x", 7), nil, codes.NotFound, errorsv1.Reason_REASON_PURCHASE_NOT_FOUND},
			"no purchase id":            {"x", nil, codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST},
			"another currency": {paid, func(r *verifierv1.RefundPurchaseRequest) {
				r.Amount = &offerv1.Money{CurrencyCode: "USD", MinorUnits: 1}
			},
				codes.FailedPrecondition, errorsv1.Reason_REASON_NOT_REFUNDABLE},
			"an amount of nothing": {paid, func(r *verifierv1.RefundPurchaseRequest) { r.Amount = &offerv1.Money{CurrencyCode: "EUR"} },
				codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST},
		} {
			edit := c.edit
			if edit == nil {
				edit = func(*verifierv1.RefundPurchaseRequest) {}
			}
			if _, err := w.refund(name, c.id, 0, edit); status.Code(err) != c.code || rpcerr.Reason(err) != c.reason {
				t.Errorf("%s: %v, want %v %v", name, err, c.code, c.reason)
			}
		}
		w.checkBooks()
	})
}

func TestListsArePaged(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		_, id := w.bought("tp_ok")
		for i := range 5 {
			_, err := w.refund(fmt.Sprint(i), id, 10)
			check(t, err)
			w.storedValue(100)
			w.drop = w.newDrop(10)
			time.Sleep(time.Second)
		}
		var refunds []string
		for page := ""; ; {
			r, err := w.support().ListRefunds(t.Context(), &verifierv1.ListRefundsRequest{PageSize: 2, PageToken: page, PurchaseId: id})
			check(t, err)
			for _, m := range r.GetRefunds() {
				refunds = append(refunds, m.GetRefundId())
			}
			if page = r.GetNextPageToken(); page == "" {
				break
			}
		}
		var vouchers []string
		for page := ""; ; {
			r, err := w.support().ListVouchers(t.Context(), &verifierv1.ListVouchersRequest{PageSize: 2, PageToken: page, OpenOnly: true})
			check(t, err)
			for _, m := range r.GetVouchers() {
				vouchers = append(vouchers, m.GetVoucher().GetVoucherId())
				one, err := w.support().ListVouchers(t.Context(), &verifierv1.ListVouchersRequest{VoucherId: m.GetVoucher().GetVoucherId()})
				check(t, err)
				if len(one.GetVouchers()) != 1 || !proto.Equal(one.GetVouchers()[0], m) || m.GetVoucher().GetText() != "" {
					t.Errorf("by id: %v, in the list: %v", one, m)
				}
			}
			if page = r.GetNextPageToken(); page == "" {
				break
			}
		}
		var drops []string
		books := 0
		for page := ""; ; {
			r, err := w.support().GetAudit(t.Context(), &verifierv1.GetAuditRequest{PageSize: 2, PageToken: page})
			check(t, err)
			for _, d := range r.GetDrops() {
				drops = append(drops, d.GetDropId())
			}
			books += len(r.GetProvider())
			if page = r.GetNextPageToken(); page == "" {
				break
			}
		}
		if len(refunds) != 5 || len(vouchers) != 5 || len(drops) != 5 || books != 1 {
			t.Errorf("%d refunds, %d vouchers, %d drops, %d sums of the provider", len(refunds), len(vouchers), len(drops), books)
		}
		for _, list := range [][]string{refunds, vouchers} {
			for i := 1; i < len(list); i++ {
				if list[i] >= list[i-1] {
					t.Errorf("not newest first: %v", list)
				}
			}
		}
		for _, err := range []error{
			first(w.support().ListRefunds(t.Context(), &verifierv1.ListRefundsRequest{PageToken: "zz"})),
			first(w.support().ListVouchers(t.Context(), &verifierv1.ListVouchersRequest{PageToken: "zz"})),
			first(w.support().GetAudit(t.Context(), &verifierv1.GetAuditRequest{PageToken: "zz"})),
			first(w.support().ListVouchers(t.Context(), &verifierv1.ListVouchersRequest{VoucherId: "x"})),
			first(w.support().ListVouchers(t.Context(), &verifierv1.ListVouchersRequest{PurchaseId: "x"})),
		} {
			if status.Code(err) != codes.InvalidArgument || rpcerr.Reason(err) != errorsv1.Reason_REASON_INVALID_REQUEST {
				t.Errorf("a bad page token or id: %v", err)
			}
		}
	})
}

func first[T any](_ T, err error) error { return err }
