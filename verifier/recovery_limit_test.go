package verifier_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/verifier"
	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/payment/testpsp"
)

// speechless is a provider that can be made not to say what it has of a purchase.
type speechless struct {
	*testpsp.Provider
	away  atomic.Bool
	asked atomic.Int64
}

func (s *speechless) Intents(ctx context.Context, purchaseID string) ([]payment.Intent, error) {
	s.asked.Add(1)
	if s.away.Load() {
		return nil, errors.New("the provider is away")
	}
	return s.Provider.Intents(ctx, purchaseID)
}

// overbought is a session that wants two of a drop that gives one: the first is paid, at node 0, the second refused, at
// node 1.
func (w *world) overbought() (paid, refused string) {
	w.t.Helper()
	w.drop = w.newDrop(1)
	session := w.bytes()
	paid, _ = w.redeem(w.nodes[0], sale{reference: "tp_ok", session: session})
	refused, _ = w.redeem(w.nodes[1], sale{reference: "tp_ok", session: session})
	w.submit(w.nodes[0], 0, paid)
	w.submit(w.nodes[1], 0, refused)
	w.pass(5 * time.Minute)
	want(w.t, w.get(paid), delivered, noReason)
	want(w.t, w.get(refused), offerv1.PurchaseState_PURCHASE_STATE_REFUSED, "REASON_VIEWER_LIMIT")
	return paid, refused
}

//rimlight:bubble its callers are bubbles
func (w *world) pass(d time.Duration) { time.Sleep(d) }

func (w *world) wantAsBefore(paid, refused string) {
	w.t.Helper()
	want(w.t, w.get(paid), delivered, noReason)
	want(w.t, w.get(refused), offerv1.PurchaseState_PURCHASE_STATE_REFUSED, "REASON_VIEWER_LIMIT")
	if n, m := w.charges(w.get(paid).GetPurchaseId()), w.charges(w.get(refused).GetPurchaseId()); n != 1 || m != 0 {
		w.t.Errorf("%d and %d charges, want 1 and 0", n, m)
	}
	w.checkBooks()
}

// What was paid before the restore keeps its share, although the journal of another purchase is heard first this time.
func TestARestoredVerifierCountsWhatWasPaidFirst(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		paid, refused := w.overbought()
		w.restoreOld()
		w.reforward(w.nodes[1], refused).hangUp(w)
		w.reforward(w.nodes[0], paid).hangUp(w)
		w.reforward(w.nodes[2]).hangUp(w)
		w.pass(10 * time.Minute)
		w.wantAsBefore(paid, refused)
	})
}

// While the provider does not answer, a limit is not decided, whichever replica looks, and other sessions' units are settled.
func TestARestoredVerifierWaitsForTheProvidersWord(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		provider := &speechless{Provider: w.psp}
		w.payment = provider
		w.start()
		paid, refused := w.overbought()
		provider.away.Store(true)
		w.restoreOld()
		other, _ := w.redeem(w.nodes[2], sale{reference: "tp_ok"})
		w.reforward(w.nodes[1], refused).hangUp(w)
		w.reforward(w.nodes[0], paid).hangUp(w)
		w.reforward(w.nodes[2], other).hangUp(w)
		second := w.replica()
		w.pass(time.Hour)
		for _, r := range []string{paid, refused} {
			want(t, w.get(r), offerv1.PurchaseState_PURCHASE_STATE_RECEIVED, noReason)
		}
		want(t, w.get(other), offerv1.PurchaseState_PURCHASE_STATE_UNIT_SETTLED, noReason) // its payment waits for the same
		w.stop()                                                                           // and again, with what was not decided
		w.start()
		w.pass(time.Minute)
		want(t, w.get(paid), offerv1.PurchaseState_PURCHASE_STATE_RECEIVED, noReason)
		provider.away.Store(false)
		w.pass(time.Hour)
		w.wantAsBefore(paid, refused)
		second()
	})
}

// What was paid and comes when the recovery is over, since its node was given up, is a purchase all the same, although
// another one has the session's share by then.
func TestAPaidPurchaseMayComeAfterTheRecovery(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		paid, refused := w.overbought()
		w.cfg.RecoverWithout = []string{w.nodes[0].id}
		w.restoreOld()
		w.reforward(w.nodes[1], refused).hangUp(w)
		w.reforward(w.nodes[2]).hangUp(w)
		w.pass(10 * time.Minute)
		w.present(paid)
		w.pass(10 * time.Minute)
		want(t, w.get(paid), delivered, noReason)
		if n := w.charges(w.get(paid).GetPurchaseId()); n != 1 {
			t.Errorf("%d charges", n)
		}
		w.checkBooks()
	})
}

// A lease may be closed when the receipt of a unit of it is shown that was paid before the restore: fulfillment knows whose the unit
// is. Nothing else settles from a closed lease, and who paid is told no definite no meanwhile.
func TestAPaidUnitOfAClosedLeaseIsSettled(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		paid, offer := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		w.submit(w.nodes[0], 0, paid)
		w.pass(5 * time.Minute)
		unpaid, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		w.cfg.RecoverWithout = []string{w.nodes[0].id, w.nodes[1].id, w.nodes[2].id}
		w.restoreOld()
		w.pass(time.Minute)
		w.quarantine(w.nodes[0], time.Now().Add(-time.Minute))
		w.pass(10 * time.Minute)
		if w.called("CloseLease") == 0 {
			t.Fatal("the lease is not closed")
		}
		if _, err := w.tryCancel(offer); rpcerr.Reason(err) != errorsv1.Reason_REASON_STORE_RECOVERING {
			t.Errorf("a definite no for what was paid: %v", err)
		}
		settled := w.called("SettleUnits")
		w.present(unpaid)
		w.pass(10 * time.Minute)
		want(t, w.get(unpaid), offerv1.PurchaseState_PURCHASE_STATE_VOUCHER, "REASON_UNIT_DENIED")
		if w.called("SettleUnits") != settled {
			t.Error("a unit of a closed lease was asked for")
		}
		w.present(paid)
		w.pass(10 * time.Minute)
		want(t, w.get(paid), delivered, noReason)
		if n := w.charges(w.get(paid).GetPurchaseId()); n != 1 {
			t.Errorf("%d charges", n)
		}
		w.checkBooks()
	})
}

// history is a session's purchases at a drop, and in which order nodes forward them when the verifier is restored.
type history struct {
	share      uint32
	references []string // of the purchases, in the order of their first arrival
	nodes      []int    // of the purchases
	replay     []int    // nodes
	dead       []bool   // their orders cannot be delivered
	choices    []int    // what viewers of those chose before: 0 nothing, 1 the money, 2 a voucher
	again      []int    // what they choose after it
	kept       bool     // no unit was released before the restore
	late       int      // the node that is given up, and whose receipts are shown after the recovery; 3: none
}

func drawHistory(t *rapid.T) history {
	n := rapid.IntRange(1, 7).Draw(t, "purchases")
	return history{
		share: rapid.Uint32Range(1, 3).Draw(t, "share"),
		references: rapid.SliceOfN(rapid.SampledFrom([]string{
			"tp_ok", "tp_ok", "tp_ok", "tp_decline", "tp_decline_once", "tp_timeout_after", "tp_action_required",
		}), n, n).Draw(t, "references"),
		nodes:   rapid.SliceOfN(rapid.IntRange(0, 2), n, n).Draw(t, "nodes"),
		dead:    rapid.SliceOfN(rapid.Bool(), n, n).Draw(t, "dead"),
		choices: rapid.SliceOfN(rapid.IntRange(0, 2), n, n).Draw(t, "choices"),
		again:   rapid.SliceOfN(rapid.IntRange(0, 2), n, n).Draw(t, "choices after it"),
		kept:    rapid.Bool().Draw(t, "kept"),
		replay:  rapid.Permutation([]int{0, 1, 2}).Draw(t, "replay"),
		late:    rapid.IntRange(0, 3).Draw(t, "late"),
	}
}

// Whatever a session did, and in whatever order it is heard again: what the provider took is a purchase, nothing is taken
// twice, and nobody gets more than the share but for what was paid.
func TestAnyRestoredHistoryIsWhatTheProviderSays(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector sees the same code in the tests above, in a fraction of the time")
	}
	rapid.Check(t, func(rt *rapid.T) {
		h := drawHistory(rt)
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.cfg.ActionWindow = time.Hour
			w.start()
			h.play(w)
		})
		if t.Failed() {
			rt.Fatalf("history %+v", h)
		}
	})
}

func (h history) play(w *world) {
	w.drop = w.newDrop(h.share)
	session, journals := w.bytes(), make([][]string, 3)
	receipts := make([]string, len(h.nodes))
	w.keepUnits(h.kept)
	for i, n := range h.nodes {
		receipts[i], _ = w.redeem(w.nodes[n], sale{reference: h.references[i], session: session})
		w.setDead(h.dead[i])
		w.submit(w.nodes[n], int64(len(journals[n])), receipts[i])
		journals[n] = append(journals[n], receipts[i])
		w.pass(time.Minute)
		h.choose(w, receipts[i], h.choices[i])
	}
	w.pass(5 * time.Minute)
	w.setDead(false)
	w.keepUnits(false)
	paid, counted := map[string]bool{}, 0
	for _, r := range receipts {
		p := w.get(r)
		paid[r] = w.charges(p.GetPurchaseId()) == 1
		if paid[r] || p.GetState() == actionRequired {
			counted++
		}
	}
	w.cfg.RecoverWithout = nil
	if h.late < 3 {
		w.cfg.RecoverWithout = []string{w.nodes[h.late].id}
	}
	w.restoreOld()
	for _, n := range h.replay {
		if n != h.late {
			w.reforward(w.nodes[n], journals[n]...).hangUp(w)
		}
	}
	w.pass(10 * time.Minute)
	late := 0
	if h.late < 3 {
		for _, r := range slices.Backward(journals[h.late]) {
			w.present(r)
			late++
		}
	}
	w.pass(10 * time.Minute)
	for i, r := range receipts {
		h.choose(w, r, h.again[i])
	}
	w.pass(10 * time.Minute)
	live := 0
	for i, r := range receipts {
		p := w.get(r)
		charges := w.charges(p.GetPurchaseId())
		isPaid := p.GetState() == delivered || p.GetReason().String() == "REASON_ORDER_FAILED"
		if isPaid != (charges == 1) || charges > 1 || paid[r] && p.GetState() == delivered == h.dead[i] {
			w.t.Errorf("purchase %d: %v %v with %d charges; paid before: %v", i, p.GetState(), p.GetReason(), charges, paid[r])
		}
		if p.GetState() == delivered || p.GetState() == actionRequired {
			live++
		}
	}
	if live > max(int(h.share), counted)+late {
		w.t.Errorf("%d purchases of a share of %d; %d were counted before, %d came late", live, h.share, counted, late)
	}
	w.checkBooks()
}

// keepUnits decides whether fulfillment fails to release units from now on.
func (w *world) keepUnits(keep bool) {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.f.keepsUnits = keep
}

func (h history) choose(w *world, receipt string, choice int) {
	if choice == 0 || w.get(receipt).GetState() != offerv1.PurchaseState_PURCHASE_STATE_CHOICE_REQUIRED {
		return
	}
	_, err := w.choose(receipt, []offerv1.MakeGood{0, wantMoney, wantVoucher}[choice])
	if err != nil && rpcerr.Reason(err) != errorsv1.Reason_REASON_NO_CHOICE_PENDING { // the money is back already
		w.t.Error(err)
	}
}

// What was paid, and could not be delivered, is made good after the restore as it was before, whoever had chosen what; money that
// went back does not go back again.
func TestARestoredVerifierMakesGoodWhatWasPaid(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		w.setDead(true)
		var receipts []string
		for range 4 {
			r, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
			receipts = append(receipts, r)
		}
		w.submit(w.nodes[0], 0, receipts...)
		w.pass(5 * time.Minute)
		for i, choice := range []offerv1.MakeGood{wantMoney, wantVoucher} {
			_, err := w.choose(receipts[i], choice)
			check(t, err)
		}
		w.pass(5 * time.Minute)
		w.checkBooks()
		w.restoreOld()
		w.reforward(w.nodes[0], receipts...).hangUp(w)
		w.reforward(w.nodes[1]).hangUp(w)
		w.reforward(w.nodes[2]).hangUp(w)
		w.pass(10 * time.Minute)
		want(t, w.get(receipts[0]), offerv1.PurchaseState_PURCHASE_STATE_REFUNDED, "REASON_ORDER_FAILED")
		for i, choice := range []offerv1.MakeGood{0, wantVoucher, wantVoucher, wantMoney} {
			want(t, w.get(receipts[i]), []offerv1.PurchaseState{
				offerv1.PurchaseState_PURCHASE_STATE_REFUNDED, offerv1.PurchaseState_PURCHASE_STATE_CHOICE_REQUIRED,
			}[min(i, 1)], "REASON_ORDER_FAILED")
			if i > 0 {
				_, err := w.choose(receipts[i], choice)
				check(t, err)
			}
		}
		w.pass(5 * time.Minute)
		want(t, w.get(receipts[2]), offerv1.PurchaseState_PURCHASE_STATE_VOUCHER, "REASON_ORDER_FAILED")
		want(t, w.get(receipts[3]), offerv1.PurchaseState_PURCHASE_STATE_REFUNDED, "REASON_ORDER_FAILED")
		if a := w.audit(); a.GetJobsOpen() != 0 {
			t.Errorf("%d jobs open", a.GetJobsOpen())
		}
		w.checkBooks()
	})
}

// Where the unit of a dead order was not released yet, its purchase is paid and ordered again, and the order is dead. Money that
// went back before the restore does not go back again.
func TestARestoredVerifierRefundsOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		w.setDead(true)
		w.keepUnits(true)
		receipt := w.refunded(func() {})
		w.restoreOld()
		w.keepUnits(false)
		w.reforward(w.nodes[0], receipt).hangUp(w)
		w.reforward(w.nodes[1]).hangUp(w)
		w.reforward(w.nodes[2]).hangUp(w)
		w.pass(10 * time.Minute)
		want(t, w.get(receipt), offerv1.PurchaseState_PURCHASE_STATE_REFUNDED, "REASON_ORDER_FAILED")
		w.checkBooks()
	})
}

// A choice that the backup does not have may have been for the money: then there is no voucher now.
func TestAChoiceThatWasLostIsKept(t *testing.T) {
	inMemory(t, func(t *testing.T, w *world) {
		w.start()
		w.setDead(true)
		var backup []byte
		receipt := w.refunded(func() {
			var err error
			backup, err = w.db.Image(t.Context())
			check(t, err)
		})
		w.stop()
		db, err := sqldb.OpenImage(t.Context(), backup)
		check(t, err)
		lost := w.db
		t.Cleanup(func() {
			w.stop()
			check(t, db.Close())
			w.db = lost
		})
		check(t, verifier.MarkRestored(t.Context(), db, time.Now()))
		w.db = db
		w.cfg.RecoverWithout = []string{w.nodes[0].id, w.nodes[1].id, w.nodes[2].id}
		w.start()
		w.pass(time.Minute)
		want(t, w.get(receipt), offerv1.PurchaseState_PURCHASE_STATE_CHOICE_REQUIRED, "REASON_ORDER_FAILED")
		if _, err := w.choose(receipt, wantVoucher); rpcerr.Reason(err) != errorsv1.Reason_REASON_NO_CHOICE_PENDING {
			t.Errorf("a voucher for money that went back: %v", err)
		}
		w.pass(5 * time.Minute)
		want(t, w.get(receipt), offerv1.PurchaseState_PURCHASE_STATE_REFUNDED, "REASON_ORDER_FAILED")
		w.checkBooks()
	})
}

// refunded is a purchase whose order is dead and whose viewer has the money back; between is before the choice.
func (w *world) refunded(between func()) (receipt string) {
	w.t.Helper()
	receipt, _ = w.redeem(w.nodes[0], sale{reference: "tp_ok"})
	w.submit(w.nodes[0], 0, receipt)
	w.pass(5 * time.Minute)
	between()
	_, err := w.choose(receipt, wantMoney)
	check(w.t, err)
	w.pass(5 * time.Minute)
	want(w.t, w.get(receipt), offerv1.PurchaseState_PURCHASE_STATE_REFUNDED, "REASON_ORDER_FAILED")
	return receipt
}
