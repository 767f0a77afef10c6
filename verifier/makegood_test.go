package verifier_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

const (
	choiceRequired = offerv1.PurchaseState_PURCHASE_STATE_CHOICE_REQUIRED
	refunding      = offerv1.PurchaseState_PURCHASE_STATE_REFUNDING
	refunded       = offerv1.PurchaseState_PURCHASE_STATE_REFUNDED
	wantVoucher    = offerv1.MakeGood_MAKE_GOOD_VOUCHER
	wantMoney      = offerv1.MakeGood_MAKE_GOOD_MONEY
	orderFailed    = "REASON_ORDER_FAILED"
)

// patient makes it a world in which hours pass: the loops look rarely, and viewers have one hour to choose.
func (w *world) patient() {
	w.cfg.Poll, w.cfg.ActionPoll, w.cfg.DropPoll = 5*time.Second, 20*time.Second, time.Minute
	w.cfg.ClosePoll, w.cfg.KeyPoll, w.cfg.ChoiceWindow = time.Minute, time.Hour, time.Hour
}

func (w *world) choose(receipt string, choice offerv1.MakeGood) (*offerv1.Purchase, error) {
	r, err := w.verifier().ChooseMakeGood(w.t.Context(), &verifierv1.ChooseMakeGoodRequest{
		Credential: &verifierv1.ChooseMakeGoodRequest_Receipt{Receipt: receipt}, Choice: choice,
	})
	return r.GetPurchase(), err
}

// setDead decides whether orders are delivered from now on.
func (w *world) setDead(dead bool) {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.f.dead = dead
}

// failedOrder buys something that cannot be delivered.
func (w *world) failedOrder(s sale) (receipt string) {
	w.t.Helper()
	w.setDead(true)
	receipt, _ = w.redeem(w.nodes[0], s)
	w.present(receipt)
	time.Sleep(time.Minute) //rimlight:bubble its callers are bubbles
	w.setDead(false)
	return receipt
}

// moneyAt is what the provider has of everybody's, in EUR.
func (w *world) moneyAt() int64 {
	w.t.Helper()
	b, err := w.psp.Books(w.t.Context())
	check(w.t, err)
	return b.CapturedMinorUnits["EUR"]
}

func TestDeadOrderLetsTheViewerChoose(t *testing.T) {
	for _, c := range []struct {
		name      string
		reference string
		choice    offerv1.MakeGood
		wait      time.Duration // after the choice
		state     offerv1.PurchaseState
		kind      offerv1.VoucherKind
		provider  int64 // what it keeps of 499
	}{
		{"the voucher is worth what was charged", "tp_ok", wantVoucher, 0, voucher, offerv1.VoucherKind_VOUCHER_KIND_STORED_VALUE, 499},
		{"the money goes back", "tp_ok", wantMoney, time.Minute, refunded, 0, 0},
		{"the money goes back when the first try is lost before", "tp_timeout_before", wantMoney, time.Minute, refunded, 0, 0},
		{"the money goes back once when the first answer is lost", "tp_timeout_after", wantMoney, time.Minute, refunded, 0, 0},
		{"the money goes back when the provider fails once", "tp_500_once", wantMoney, time.Minute, refunded, 0, 0},
		{"the money goes back when the provider keeps its error", "tp_500_kept", wantMoney, time.Minute, refunded, 0, 0},
		{"the money takes its time", "tp_refund_slow", wantMoney, 20 * time.Minute, refunded, 0, 0},
		{"money that cannot go back becomes a voucher", "tp_refund_fails", wantMoney, time.Minute, voucher, offerv1.VoucherKind_VOUCHER_KIND_STORED_VALUE, 499},
		{"who does not choose gets the money", "tp_ok", 0, 2 * time.Hour, refunded, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			inMemory(t, func(t *testing.T, w *world) {
				w.patient()
				w.start()
				receipt := w.failedOrder(sale{reference: c.reference})
				p := w.get(receipt)
				want(t, p, choiceRequired, orderFailed)
				if left := time.Until(p.GetChoiceDeadline().AsTime()); left <= 50*time.Minute || left > time.Hour {
					t.Errorf("%v left to choose", left)
				}
				if free, leased, sold := w.f.count(w.drop); free != 1 || leased != 0 || sold != 0 {
					t.Errorf("%d free, %d leased, %d sold: the unit must come back", free, leased, sold)
				}
				w.checkBooks()
				if c.choice != 0 {
					_, err := w.choose(receipt, c.choice)
					check(t, err)
				}
				time.Sleep(c.wait)
				p = w.get(receipt)
				want(t, p, c.state, orderFailed)
				if p.GetOutcome() == "" || p.GetVoucher().GetKind() != c.kind {
					t.Errorf("ended as %v", p)
				}
				if c.kind != 0 && (p.GetVoucher().GetPrice().GetMinorUnits() != 499 || p.GetVoucher().GetExpireTime() != nil) {
					t.Errorf("the voucher is %v", p.GetVoucher())
				}
				if got := w.moneyAt(); got != c.provider {
					t.Errorf("the provider keeps %d, want %d", got, c.provider)
				}
				w.checkBooks()
				if jobs := w.audit().GetJobsOpen(); jobs != 0 {
					t.Errorf("%d jobs are open", jobs)
				}
			})
		})
	}
}

func TestChoiceIsMadeOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.start()
		healthy, _ := w.redeem(w.nodes[0], sale{reference: "tp_ok"})
		w.present(healthy)
		time.Sleep(time.Minute)
		for choice, other := range map[offerv1.MakeGood]offerv1.MakeGood{wantVoucher: wantMoney, wantMoney: wantVoucher} {
			receipt := w.failedOrder(sale{reference: "tp_ok"})
			_, err := w.choose(receipt, choice)
			check(t, err)
			time.Sleep(time.Minute)
			before := w.get(receipt)
			for range 3 {
				again, err := w.choose(receipt, choice)
				check(t, err)
				if !proto.Equal(before, again) {
					t.Errorf("the same choice again answers %v, want %v", again, before)
				}
				if _, err := w.choose(receipt, other); status.Code(err) != codes.FailedPrecondition || rpcerr.Reason(err) != errorsv1.Reason_REASON_NO_CHOICE_PENDING {
					t.Errorf("the other choice: %v", err)
				}
			}
		}
		if _, err := w.choose(healthy, wantMoney); rpcerr.Reason(err) != errorsv1.Reason_REASON_NO_CHOICE_PENDING {
			t.Errorf("a choice about a purchase that was delivered: %v", err)
		}
		w.checkBooks()
	})
}

func TestDropWithADeadOrderSettlesAfterTheChoice(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.patient()
		w.start()
		w.failedOrder(sale{reference: "tp_ok"})
		state := func() offerv1.DropState {
			w.f.mu.Lock()
			defer w.f.mu.Unlock()
			return w.f.drops[w.drop].state
		}
		w.f.mu.Lock()
		w.f.drops[w.drop].state = offerv1.DropState_DROP_STATE_CLOSED
		w.f.mu.Unlock()
		time.Sleep(50 * time.Minute)
		if s := state(); s != offerv1.DropState_DROP_STATE_CLOSED {
			t.Fatalf("the drop is %v while a viewer may choose", s)
		}
		time.Sleep(20 * time.Minute)
		if s := state(); s != offerv1.DropState_DROP_STATE_SETTLED {
			t.Errorf("the drop is %v after the choice's time", s)
		}
	})
}

func TestPriceLocksAreLimitedPerViewerAndChannel(t *testing.T) {
	inMemory(t, func(t *testing.T, w *world) {
		w.cfg.PriceLocks, w.cfg.PriceLockWindow = 2, time.Hour
		w.start()
		elsewhere := w.newDrop(100)
		w.f.drops[elsewhere].channel = "other"
		session := w.bytes()
		fail := func(s sale, state offerv1.PurchaseState, reason string) {
			t.Helper()
			receipt, _ := w.redeem(w.nodes[0], s)
			w.present(receipt)
			time.Sleep(2 * time.Minute)
			want(t, w.get(receipt), state, reason)
		}
		mine := sale{reference: "tp_decline", session: session}
		fail(mine, voucher, "REASON_PAYMENT_DECLINED")
		fail(sale{reference: "tp_action_required", session: session}, voucher, "REASON_PAYMENT_WINDOW_OVER")
		fail(mine, refusedState, "REASON_PAYMENT_DECLINED")
		fail(sale{reference: "tp_action_required", session: session}, refusedState, "REASON_PAYMENT_WINDOW_OVER")
		fail(sale{reference: "tp_decline"}, voucher, "REASON_PAYMENT_DECLINED")
		fail(sale{reference: "tp_decline", session: session, drop: elsewhere}, voucher, "REASON_PAYMENT_DECLINED")
		fail(sale{reference: "tp_ok", session: session, unleased: true}, voucher, "REASON_UNIT_DENIED")
		time.Sleep(time.Hour)
		fail(mine, voucher, "REASON_PAYMENT_DECLINED")
		w.checkBooks()
	})
}

// A parcel that dies before PlaceOrders is answered: its unit is given back, and the order is not placed again.
func TestDeadOrderFasterThanTheAnswerThatPlacedIt(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.patient()
		w.f.drops[w.drop].goods = fulfillmentv1.GoodsKind_GOODS_KIND_PHYSICAL
		w.f.loseAnswers = true
		w.start()
		receipt := w.failedOrder(sale{reference: "tp_ok"})
		want(t, w.get(receipt), choiceRequired, orderFailed)
		w.f.mu.Lock()
		w.f.loseAnswers = false
		w.f.mu.Unlock()
		_, err := w.choose(receipt, wantMoney)
		check(t, err)
		time.Sleep(time.Hour)
		want(t, w.get(receipt), refunded, orderFailed)
		if open := w.audit().GetJobsOpen(); open != 0 {
			t.Errorf("%d jobs are open", open)
		}
		w.checkBooks()
	})
}
