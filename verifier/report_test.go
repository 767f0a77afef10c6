package verifier_test

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/verifier/ledger"
	"github.com/rimlight/rimlight/verifier/payment/testpsp"
	"github.com/rimlight/rimlight/verifier/store"
)

func (w *world) report() *verifierv1.GetDropReportResponse {
	w.t.Helper()
	r, err := w.support().GetDropReport(w.t.Context(), &verifierv1.GetDropReportRequest{DropId: w.drop})
	check(w.t, err)
	if sum := r.GetSettled() + r.GetVouchers() + r.GetRefused() + r.GetRefunded() + r.GetOpen(); sum != r.GetRedeemed() {
		w.t.Errorf("%d purchases are %d redeemed ones: %v", sum, r.GetRedeemed(), r)
	}
	return r
}

func TestAReportIsTheLedgersAtEveryMoment(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		if r := w.report(); r.GetRedeemed() != 0 || !r.GetAgrees() || r.GetFinal() {
			t.Errorf("before the first purchase: %v", r)
		}
		other := w.newDrop(1)
		var delivered string
		for i := range 60 {
			s := sale{reference: []string{testpsp.RefOK, testpsp.RefOK, testpsp.RefDecline}[i%3], price: 500}
			if i%20 == 19 {
				s.drop = other
			}
			receipt, _ := w.redeem(w.nodes[i%3], s)
			p := w.present(receipt)
			if i == 0 {
				delivered = p.GetPurchaseId()
			}
			time.Sleep(50 * time.Millisecond)
			if r := w.report(); !r.GetAgrees() {
				t.Fatalf("after %d purchases: %v", i+1, r)
			}
		}
		time.Sleep(time.Minute)
		_, err := w.support().RefundPurchase(t.Context(), &verifierv1.RefundPurchaseRequest{
			RequestId: "1", PurchaseId: delivered, Reason: "a scratch", Amount: &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 120},
		})
		check(t, err)
		time.Sleep(time.Minute)
		r := w.report()
		got := fmt.Sprint(r.GetRedeemed(), r.GetSettled(), r.GetOpen(), r.GetDeclined(), r.GetVouchers(), r.GetPriceLocks(), r.GetRefunded())
		if want := fmt.Sprint(57, 38, 0, 19, 19, 19, 0); got != want {
			t.Errorf("redeemed, settled, open, declined, vouchers, price locks, refunded: got %s, want %s", got, want)
		}
		m := r.GetLedger()
		if m.GetCapturedMinorUnits() != 38*500 || m.GetRefundedMinorUnits() != 120 || m.GetNetMinorUnits() != 38*500-120 || !r.GetAgrees() {
			t.Errorf("the ledger has %v, purchases %v", m, r.GetPurchases())
		}
		fees := 38 * testpsp.Fee(500) // of which a refund gives nothing back
		if m.GetFeesMinorUnits() != fees || m.GetNetAfterFeesMinorUnits() != 38*500-120-fees || fees != 38*45 {
			t.Errorf("the ledger has fees of %d, %d after them; want %d", m.GetFeesMinorUnits(), m.GetNetAfterFeesMinorUnits(), fees)
		}
		w.checkBooks()
		if r.GetTimeBack() != nil {
			t.Errorf("time back of a drop that closed as planned: %v", r.GetTimeBack())
		}
		w.f.mu.Lock()
		d := w.f.drops[w.drop]
		d.planned = time.Now()
		d.closes = d.planned.Add(7 * time.Second)
		w.f.mu.Unlock()
		if got := w.report().GetTimeBack().AsDuration(); got != 7*time.Second {
			t.Errorf("time back: got %v, want 7s", got)
		}
		// A posting that no purchase knows of is told.
		id, err := store.ParseHex(delivered)
		check(t, err)
		check(t, w.db.Write(t.Context(), func(tx *sql.Tx) error {
			_, err := tx.ExecContext(t.Context(), `UPDATE ledger_postings SET minor_units = minor_units + 1
				WHERE purchase_id = $1 AND kind = $2 AND account = $3`, id, ledger.KindCapture, ledger.ProviderReceivable)
			return err
		}))
		if r := w.report(); r.GetAgrees() || r.GetLedger().GetCapturedMinorUnits() != 38*500+1 {
			t.Errorf("a forged posting: %v", r)
		}
	})
}

func TestSupportFindsPurchases(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		var ids []string
		other := w.newDrop(1)
		for i := range 12 {
			s := sale{reference: []string{testpsp.RefOK, testpsp.RefDecline}[i%2], session: []byte("canary-viewer-16")}
			s.session = append([]byte(nil), s.session...)
			s.session[15] = byte('a' + i)
			if i >= 8 {
				s.drop = other
			}
			receipt, _ := w.redeem(w.nodes[0], s)
			ids = append(ids, w.present(receipt).GetPurchaseId())
			time.Sleep(time.Second)
		}
		middle := time.Now().Add(-6500 * time.Millisecond)
		time.Sleep(time.Minute)
		find := func(r *verifierv1.FindPurchasesRequest) (found []string) {
			t.Helper()
			r.PageSize = 2
			for {
				resp, err := w.support().FindPurchases(t.Context(), r)
				check(t, err)
				for _, p := range resp.GetPurchases() {
					found = append(found, p.GetPurchaseId())
				}
				if r.PageToken = resp.GetNextPageToken(); r.PageToken == "" {
					return found
				}
			}
		}
		pick := func(of ...int) (list []string) {
			for _, i := range of {
				list = append(list, ids[i])
			}
			return list
		}
		one, err := w.support().FindPurchases(t.Context(), &verifierv1.FindPurchasesRequest{PurchaseIdPrefix: ids[4]})
		check(t, err)
		order := one.GetPurchases()[0].GetOrderId()
		if order == "" {
			t.Error("a delivered purchase has no order")
		}
		for name, c := range map[string]struct {
			r    *verifierv1.FindPurchasesRequest
			want []string
		}{
			"all, latest first": {&verifierv1.FindPurchasesRequest{}, pick(11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)},
			"of a drop":         {&verifierv1.FindPurchasesRequest{DropId: other}, pick(11, 10, 9, 8)},
			"in a state":        {&verifierv1.FindPurchasesRequest{State: offerv1.PurchaseState_PURCHASE_STATE_DELIVERED, DropId: w.drop}, pick(6, 4, 2, 0)},
			"for a reason":      {&verifierv1.FindPurchasesRequest{Reason: errorsv1.Reason_REASON_PAYMENT_DECLINED}, pick(11, 9, 7, 5, 3, 1)},
			"of an order":       {&verifierv1.FindPurchasesRequest{OrderId: order}, pick(4)},
			"by a prefix":       {&verifierv1.FindPurchasesRequest{PurchaseIdPrefix: ids[3][:9]}, pick(3)},
			"since":             {&verifierv1.FindPurchasesRequest{SinceTime: timestamppb.New(middle)}, pick(11, 10, 9, 8, 7, 6)},
			"none":              {&verifierv1.FindPurchasesRequest{DropId: w.drop, PurchaseIdPrefix: ids[11]}, nil},
		} {
			if got := find(c.r); fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("%s: got %v, want %v", name, got, c.want)
			}
		}
		for name, r := range map[string]*verifierv1.FindPurchasesRequest{
			"a drop": {DropId: "x"}, "an order": {OrderId: "x"}, "a page token": {PageToken: "x"}, "a prefix": {PurchaseIdPrefix: "xyzw"},
			"a prefix that is too long": {PurchaseIdPrefix: ids[0] + "00"}, "a time": {SinceTime: &timestamppb.Timestamp{Nanos: -1}},
		} {
			if _, err := w.support().FindPurchases(t.Context(), r); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s: %v", name, err)
			}
		}
		raw, err := protojson.Marshal(one)
		check(t, err)
		for _, secret := range []string{testpsp.RefOK, "canary", "licence"} {
			if strings.Contains(strings.ToLower(string(raw)), secret) {
				t.Errorf("an answer has %q: %s", secret, raw)
			}
		}
	})
}
