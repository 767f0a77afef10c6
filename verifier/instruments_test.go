package verifier_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/payment/testpsp"
)

// nosy remembers the instruments that the provider named.
type nosy struct {
	*testpsp.Provider

	mu    sync.Mutex // guards names
	names []string
}

func (n *nosy) Capture(ctx context.Context, id string) (payment.Intent, error) {
	in, err := n.Provider.Capture(ctx, id)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names = append(n.names, in.Instrument)
	return in, err
}

func TestACardPaysForItsShareOfADropAndNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var log bytes.Buffer
		names := &nosy{Provider: w.psp}
		w.log, w.payment = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), names
		w.f.drops[w.drop].perCard = 2
		w.start()
		var receipts []string
		for i := range 6 { // at once, of six sessions
			receipt, _ := w.redeem(w.nodes[i%3], sale{reference: fmt.Sprintf("tp_card_A:%d", i)})
			receipts = append(receipts, receipt)
		}
		other, _ := w.redeem(w.nodes[0], sale{reference: "tp_card_B"})
		var presenting sync.WaitGroup
		for _, r := range append(receipts, other) {
			presenting.Go(func() { w.present(r) })
		}
		presenting.Wait()
		time.Sleep(2 * time.Minute)
		got := 0
		for _, r := range receipts {
			switch p := w.get(r); p.GetState() {
			case delivered:
				got++
			default:
				want(t, p, refusedState, "REASON_INSTRUMENT_LIMIT")
				if n := w.charges(p.GetPurchaseId()); n != 0 || p.GetVoucher() != nil || p.GetOutcome() == "" {
					t.Errorf("%d charges, voucher %v, outcome %q of one too many", n, p.GetVoucher(), p.GetOutcome())
				}
				intents, err := w.psp.Intents(t.Context(), p.GetPurchaseId())
				check(t, err)
				if len(intents) != 1 || intents[0].State != payment.Cancelled {
					t.Errorf("the intents of one too many are %+v", intents)
				}
			}
		}
		if got != 2 {
			t.Errorf("the card paid %d purchases, want 2", got)
		}
		want(t, w.get(other), delivered, noReason)
		if free, leased, sold := w.f.count(w.drop); free != 4 || leased != 0 || sold != 3 {
			t.Errorf("%d free, %d leased, %d sold", free, leased, sold)
		}
		w.checkBooks()

		elsewhere := w.newDrop(100)
		w.f.drops[elsewhere].perCard = 1
		again, _ := w.redeem(w.nodes[0], sale{reference: "tp_card_A", drop: elsewhere})
		w.present(again)
		time.Sleep(time.Minute)
		want(t, w.get(again), delivered, noReason)

		names.mu.Lock()
		defer names.mu.Unlock()
		for _, name := range names.names {
			if name == "" || strings.Contains(log.String(), name) {
				t.Errorf("instrument %q is in the log", name)
			}
			for _, column := range []string{"HEX(instrument)", "CAST(instrument AS TEXT)"} {
				n := 0
				check(t, w.db.Read().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM instrument_uses WHERE INSTR(LOWER(`+column+`), $1) > 0`,
					strings.TrimPrefix(name, "tpf_")).Scan(&n))
				if n > 0 {
					t.Error("the provider's name of an instrument is stored as it is")
				}
			}
		}
		distinct := 0
		check(t, w.db.Read().QueryRowContext(t.Context(), `SELECT COUNT(DISTINCT instrument) FROM instrument_uses`).Scan(&distinct))
		if distinct != 3 { // A and B here, A elsewhere
			t.Errorf("%d instruments, want 3: one card is another one at the next drop", distinct)
		}
	})
}

// What failed after it was paid does not count any more.
func TestACardWhoseOrderFailedMayPayAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.patient()
		w.f.drops[w.drop].perCard = 1
		w.start()
		buy := func() *offerv1.Purchase {
			receipt, _ := w.redeem(w.nodes[0], sale{reference: "tp_card_A"})
			w.present(receipt)
			time.Sleep(time.Minute)
			return w.get(receipt)
		}
		failed := w.failedOrder(sale{reference: "tp_card_A"})
		want(t, buy(), refusedState, "REASON_INSTRUMENT_LIMIT") // its viewer has not chosen
		_, err := w.choose(failed, wantMoney)
		check(t, err)
		time.Sleep(time.Minute)
		want(t, buy(), delivered, noReason)
		want(t, buy(), refusedState, "REASON_INSTRUMENT_LIMIT")
		w.checkBooks()
	})
}

func TestADropWithoutACapAsksNobody(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		for range 5 {
			receipt, _ := w.redeem(w.nodes[0], sale{reference: "tp_card_A"})
			w.present(receipt)
			time.Sleep(10 * time.Second)
			want(t, w.get(receipt), delivered, noReason)
		}
		n := 0
		check(t, w.db.Read().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM instrument_uses`).Scan(&n))
		if n != 0 {
			t.Errorf("%d instruments are kept of a drop that needs none", n)
		}
	})
}

// The provider's answer to Cancel is lost: what was decided stands, and the purchase does not end as one whose customer was late.
func TestACardBeyondItsShareStaysSoOverALostAnswer(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.f.drops[w.drop].perCard = 1
		w.payment = &forgetful{w.psp}
		w.start()
		for i, state := range []offerv1.PurchaseState{delivered, refusedState} {
			receipt, _ := w.redeem(w.nodes[0], sale{reference: "tp_card_A"})
			w.present(receipt)
			time.Sleep(time.Minute)
			want(t, w.get(receipt), state, []string{noReason, "REASON_INSTRUMENT_LIMIT"}[i])
		}
	})
}

// forgetful cancels, and its answer is lost.
type forgetful struct{ *testpsp.Provider }

func (f *forgetful) Cancel(ctx context.Context, id string) (payment.Intent, error) {
	if _, err := f.Provider.Cancel(ctx, id); err != nil {
		return payment.Intent{}, err
	}
	return payment.Intent{}, payment.ErrUnknownOutcome
}

// After a restore from before everything, what a card paid counts though nobody remembers the decision.
func TestARestoredVerifierKeepsCardsToTheirShare(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.f.drops[w.drop].perCard = 1
		w.start()
		paid, _ := w.redeem(w.nodes[0], sale{reference: "tp_card_A"})
		w.present(paid)
		time.Sleep(time.Minute)
		w.restoreOld()
		streams := []*forwarding{w.reforward(w.nodes[0], paid), w.reforward(w.nodes[1]), w.reforward(w.nodes[2])}
		time.Sleep(5 * time.Minute)
		want(t, w.get(paid), delivered, noReason)
		later, _ := w.redeem(w.nodes[1], sale{reference: "tp_card_A"})
		w.present(later)
		time.Sleep(time.Minute)
		want(t, w.get(later), refusedState, "REASON_INSTRUMENT_LIMIT")
		for _, f := range streams {
			f.hangUp(w)
		}
		w.checkBooks()
	})
}
