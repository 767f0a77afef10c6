package verifier_test

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/verifier"
	"github.com/rimlight/rimlight/verifier/payment/testpsp"
)

// rows counts those of a table.
func (w *world) rows(table string) (n int) {
	w.t.Helper()
	check(w.t, w.db.Read().QueryRowContext(w.t.Context(), `SELECT COUNT(*) FROM `+table).Scan(&n))
	return n
}

func (w *world) drops(change func(*dropRow)) {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	change(w.f.drops[w.drop])
}

const cancelled = `purchases WHERE reason = 131`

func TestWhatNobodyNeedsOfASettledDropIsForgottenAfterItsTime(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.cfg = verifier.Config{Retention: 10 * time.Minute, RetentionPoll: 20 * time.Second}
		w.drops(func(d *dropRow) { d.perCard = 2 })
		w.start()
		n := w.nodes[0]
		var paid []string
		for i := range 3 {
			receipt, _ := w.redeem(n, sale{reference: fmt.Sprintf("tp_card_A:%d", i)})
			paid = append(paid, receipt)
			w.present(receipt)
		}
		unseen, unseenOffer := w.redeem(n, sale{reference: "tp_ok"})
		no := w.cancelToken(unseenOffer).GetPurchase()
		seen, seenOffer := w.redeem(n, sale{reference: "tp_ok"})
		w.cancelToken(seenOffer)
		for range 250 { // more than a transaction forgets
			_, offer := w.redeem(n, sale{unleased: true})
			w.cancelToken(offer)
		}
		refused := w.present(seen)
		want(t, refused, offerv1.PurchaseState_PURCHASE_STATE_REFUSED, "REASON_REDEMPTION_CANCELLED")
		time.Sleep(time.Minute)
		var answers []*offerv1.Purchase
		for _, r := range paid {
			answers = append(answers, w.get(r))
		}
		w.quarantine(n, time.Now()) // it is lost, with the receipt that a viewer keeps
		time.Sleep(time.Minute)
		w.drops(func(d *dropRow) { d.state = offerv1.DropState_DROP_STATE_CLOSED })
		time.Sleep(9 * time.Minute)
		if got := w.rows(cancelled); got != 252 || w.rows("instrument_uses") != 3 {
			t.Fatalf("before the time: %d cancelled tokens, %d uses", got, w.rows("instrument_uses"))
		}
		report, events := w.report(), w.rows("events")
		time.Sleep(2 * time.Minute)
		if got := w.rows(cancelled); got != 1 {
			t.Errorf("%d cancelled tokens are left, want the one whose receipt came", got)
		}
		if uses, instruments, gone := w.rows("instrument_uses"), w.rows("instruments"), events-w.rows("events"); uses+instruments != 0 || gone != 251 {
			t.Errorf("%d uses and %d instruments are left, %d events are gone, want 251", uses, instruments, gone)
		}
		if again := w.report(); !proto.Equal(again, report) || !again.GetFinal() {
			t.Errorf("the report was %v, and is %v", report, again)
		}
		for i, r := range append(paid, seen) {
			was := append(answers, refused)[i]
			if got := w.present(r); !proto.Equal(got, was) {
				t.Errorf("a receipt showed %v, and shows %v", was, got)
			}
		}

		// The receipt whose token was cancelled comes now, for the first time: as any that comes after its lease was closed.
		late := w.present(unseen)
		want(t, late, offerv1.PurchaseState_PURCHASE_STATE_VOUCHER, "REASON_UNIT_DENIED")
		if late.GetPurchaseId() != no.GetPurchaseId() || late.GetOutcome() == "" || late.GetVoucher().GetKind() != offerv1.VoucherKind_VOUCHER_KIND_PRICE_LOCK {
			t.Errorf("got %v, want a signed outcome and nothing that is worth money", late)
		}
		time.Sleep(2 * time.Minute)
		if charges := w.charges(late.GetPurchaseId()); charges != 0 || !proto.Equal(w.present(unseen), late) || !proto.Equal(w.cancelToken(unseenOffer).GetPurchase(), late) {
			t.Errorf("%d charges, and it shows %v", charges, w.get(unseen))
		}
		w.checkBooks()
	})
}

func TestNothingIsForgottenOfADropThatIsNotOver(t *testing.T) {
	for name, keep := range map[string]func(*world){
		"it is open":                   func(*world) {},
		"it is closed, a unit is lent": func(w *world) { w.drops(func(d *dropRow) { d.state = offerv1.DropState_DROP_STATE_CLOSED }) },
		"fulfillment says nothing":     func(w *world) { w.f.mu.Lock(); defer w.f.mu.Unlock(); delete(w.f.drops, w.drop) },
		"settled, and a payment is due": func(w *world) {
			w.drops(func(d *dropRow) { d.state, d.settled = offerv1.DropState_DROP_STATE_SETTLED, time.Now() })
			receipt, _ := w.redeem(w.nodes[1], sale{reference: testpsp.RefActionRequired})
			w.present(receipt)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, w *world) {
				w.cfg = verifier.Config{Retention: time.Minute, RetentionPoll: 5 * time.Second, ActionWindow: time.Hour}
				w.start()
				_, offer := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
				w.cancelToken(offer)
				keep(w)
				time.Sleep(5 * time.Minute)
				if got := w.rows(cancelled); got != 1 {
					t.Errorf("%d cancelled tokens are left, want 1", got)
				}
			})
		})
	}
}
