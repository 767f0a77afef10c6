package saga_test

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/verifier/payment"
	. "github.com/rimlight/rimlight/verifier/saga" // a table of states reads better without the name on each
)

const attempts = 2

func TestTransitions(t *testing.T) {
	for _, c := range []struct {
		name     string
		from     Purchase
		event    Event
		to       Purchase
		commands []Command
	}{
		{"a settled unit starts the first payment and frees the duplicates",
			Purchase{State: Received, Spares: 2}, Settled, Purchase{State: UnitSettled, Attempt: 1}, []Command{Pay, ReleaseSpares}},
		{"a denied unit ends in a voucher and releases nothing",
			Purchase{State: Received}, Denied, Purchase{State: Voucher, Reason: UnitDenied}, []Command{IssueVoucher, SignOutcome}},
		{"a denied unit with a spare promotes it",
			Purchase{State: Received, Spares: 2}, Denied, Purchase{State: Received, Spares: 1}, []Command{Promote, Settle}},
		{"a denied unit that was paid before a restore is made good", Purchase{State: Received}, DeniedPaid,
			Purchase{State: ChoiceRequired, Reason: OrderFailed, Attempt: 1}, []Command{PostCapture, AskChoice}},
		{"a denied unit that was paid before a restore may be a duplicate's", Purchase{State: Received, Spares: 1}, DeniedPaid,
			Purchase{State: Received}, []Command{Promote, Settle}},
		{"an expired token is refused and every unit released",
			Purchase{State: Received, Spares: 1}, Expired, Purchase{State: Refused, Reason: TokenExpired}, []Command{ReleaseWinner, ReleaseSpares, SignOutcome}},
		{"a viewer over the limit is refused and every unit released",
			Purchase{State: Received, Spares: 1}, OverLimit, Purchase{State: Refused, Reason: ViewerLimit}, []Command{ReleaseWinner, ReleaseSpares, SignOutcome}},
		{"a payment that needs the customer waits",
			Purchase{State: UnitSettled, Attempt: 1}, ActionNeeded, Purchase{State: ActionRequired, Attempt: 1}, nil},
		{"money taken is posted and ordered together",
			Purchase{State: UnitSettled, Attempt: 1}, MoneyTaken, Purchase{State: Captured, Attempt: 1}, []Command{PostCapture, PlaceOrder}},
		{"money taken after the customer acted is the same",
			Purchase{State: ActionRequired, Attempt: 2}, MoneyTaken, Purchase{State: Captured, Attempt: 2}, []Command{PostCapture, PlaceOrder}},
		{"a decline for now is tried again with another intent",
			Purchase{State: ActionRequired, Attempt: 1}, DeclinedForNow, Purchase{State: UnitSettled, Attempt: 2}, []Command{Pay}},
		{"the last attempt's decline ends in a voucher and releases the unit",
			Purchase{State: UnitSettled, Attempt: 2}, DeclinedForNow, Purchase{State: Voucher, Reason: PaymentDeclined, Attempt: 2}, []Command{ReleaseWinner, ReturnVoucher, IssueVoucher, SignOutcome}},
		{"a decline for good ends at the first attempt",
			Purchase{State: UnitSettled, Attempt: 1}, DeclinedForGood, Purchase{State: Voucher, Reason: PaymentDeclined, Attempt: 1}, []Command{ReleaseWinner, ReturnVoucher, IssueVoucher, SignOutcome}},
		{"a decline beyond the budget of price locks earns nothing",
			Purchase{State: UnitSettled, Attempt: 1, NoPriceLock: true}, DeclinedForGood,
			Purchase{State: Refused, Reason: PaymentDeclined, Attempt: 1, NoPriceLock: true}, []Command{ReleaseWinner, ReturnVoucher, SignOutcome}},
		{"a denied unit is our fault: the budget does not matter",
			Purchase{State: Received, NoPriceLock: true}, Denied, Purchase{State: Voucher, Reason: UnitDenied, NoPriceLock: true}, []Command{IssueVoucher, SignOutcome}},
		{"a card beyond its share ends it, releases the unit and earns no price lock",
			Purchase{State: UnitSettled, Attempt: 1}, InstrumentOverLimit, Purchase{State: Refused, Reason: InstrumentLimit, Attempt: 1}, []Command{ReleaseWinner, ReturnVoucher, SignOutcome}},
		{"a card beyond its share ends it after the customer acted",
			Purchase{State: ActionRequired, Attempt: 1}, InstrumentOverLimit, Purchase{State: Refused, Reason: InstrumentLimit, Attempt: 1}, []Command{ReleaseWinner, ReturnVoucher, SignOutcome}},
		{"a voucher that cannot be used ends it",
			Purchase{State: UnitSettled, Attempt: 1}, VoucherRefused, Purchase{State: Refused, Reason: VoucherUnusable, Attempt: 1}, []Command{ReleaseWinner, SignOutcome}},
		{"a customer who did not come gets a voucher and the unit is released",
			Purchase{State: ActionRequired, Attempt: 1}, WindowOver, Purchase{State: Voucher, Reason: PaymentWindowOver, Attempt: 1}, []Command{ReleaseWinner, ReturnVoucher, IssueVoucher, SignOutcome}},
		{"an order placed", Purchase{State: Captured}, OrderPlaced, Purchase{State: Ordered}, nil},
		{"an order delivered", Purchase{State: Ordered}, OrderDelivered, Purchase{State: Delivered}, []Command{SignOutcome}},
		{"a parcel that left", Purchase{State: Ordered}, OrderShipped, Purchase{State: Shipped}, []Command{SignOutcome}},
		{"a parcel that overtakes the placing", Purchase{State: Captured}, OrderShipped, Purchase{State: Shipped}, []Command{SignOutcome}},
		{"a delivery that overtakes the placing", Purchase{State: Captured}, OrderDelivered, Purchase{State: Delivered}, []Command{SignOutcome}},
		{"a dead order frees the unit and asks the viewer", Purchase{State: Ordered}, OrderDead,
			Purchase{State: ChoiceRequired, Reason: OrderFailed}, []Command{ReleaseWinner, ReturnVoucher, AskChoice}},
		{"a death that overtakes the placing", Purchase{State: Captured}, OrderDead,
			Purchase{State: ChoiceRequired, Reason: OrderFailed}, []Command{ReleaseWinner, ReturnVoucher, AskChoice}},
		{"a free unit that is denied has no price to lock", Purchase{State: Received, Free: true}, Denied,
			Purchase{State: Refused, Reason: UnitDenied, Free: true}, []Command{SignOutcome}},
		{"a dead order that a voucher paid for leaves nothing to choose", Purchase{State: Ordered, NothingTaken: true}, OrderDead,
			Purchase{State: Refunded, Reason: OrderFailed, NothingTaken: true}, []Command{ReleaseWinner, ReturnVoucher, SignOutcome}},
		{"who chooses the voucher gets stored value", Purchase{State: ChoiceRequired, Reason: OrderFailed}, ChoseVoucher,
			Purchase{State: Voucher, Reason: OrderFailed}, []Command{IssueStoredValue, SignOutcome}},
		{"who chooses the money waits for it", Purchase{State: ChoiceRequired, Reason: OrderFailed}, ChoseMoney,
			Purchase{State: Refunding, Reason: OrderFailed}, []Command{StartRefund}},
		{"the money came back", Purchase{State: Refunding, Reason: OrderFailed}, RefundDone,
			Purchase{State: Refunded, Reason: OrderFailed}, []Command{SignOutcome}},
		{"money that cannot go back becomes stored value", Purchase{State: Refunding, Reason: OrderFailed}, RefundFailed,
			Purchase{State: Voucher, Reason: OrderFailed}, []Command{IssueStoredValue, SignOutcome}},
	} {
		t.Run(c.name, func(t *testing.T) {
			to, commands, err := Next(c.from, c.event, attempts)
			if err != nil || to != c.to || !slices.Equal(commands, c.commands) {
				t.Errorf("got %+v, %v, %v; want %+v, %v", to, commands, err, c.to, c.commands)
			}
		})
	}
}

// world is what the commands of a run did, counted.
type world struct {
	settled           bool // fulfillment's word on the winner's unit
	captures, orders  int
	pays, outcomes    int
	vouchers, stored  int
	asked, refunds    int
	returned          int
	refunded          bool // the provider's word
	winnerFreed       bool
	spares, freed     int
	settlesAfterFreed int
	paidForNothing    bool // before a restore, for a unit that was given up: its order is not placed again
}

func TestAnyOrderOfEventsKeepsTheInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, commands := New()
		w := world{spares: rapid.IntRange(0, 3).Draw(t, "spares")}
		total := w.spares
		p.Spares = w.spares
		p.NoPriceLock, p.Free = rapid.Bool().Draw(t, "no price lock"), rapid.Bool().Draw(t, "free")
		p.NothingTaken = p.Free || rapid.Bool().Draw(t, "covered")
		obey := func(commands []Command) {
			for _, c := range commands {
				switch c {
				case Settle:
					if w.winnerFreed {
						w.settlesAfterFreed++
					}
				case Pay:
					w.pays++
					if !w.settled {
						t.Fatal("a payment began before the unit was settled")
					}
				case PostCapture:
					w.captures++
				case PlaceOrder:
					w.orders++
				case Promote:
					if w.spares == 0 {
						t.Fatal("nothing to promote")
					}
					w.spares--
					total--
				case ReleaseWinner:
					w.winnerFreed = true
				case ReleaseSpares:
					w.freed += w.spares
					w.spares = 0
				case IssueVoucher:
					w.vouchers++
				case IssueStoredValue:
					w.stored++
				case ReturnVoucher:
					w.returned++
				case AskChoice:
					w.asked++
				case StartRefund:
					w.refunds++
				case SignOutcome:
					w.outcomes++
				}
			}
		}
		obey(commands)
		for _, e := range rapid.SliceOfN(rapid.SampledFrom(Events()), 0, 30).Draw(t, "events") {
			before := p
			if e == Settled && p.State == Received {
				w.settled = true
			}
			next, commands, err := Next(p, e, attempts)
			w.refunded = w.refunded || err == nil && e == RefundDone
			w.paidForNothing = w.paidForNothing || err == nil && e == DeniedPaid && next.State == ChoiceRequired
			if err != nil {
				if !errors.Is(err, ErrIllegal) || next != p {
					t.Fatalf("event %d in %v: %v, and the purchase became %+v", e, p.State, err, next)
				}
				continue
			}
			if before.State.Final() {
				t.Fatalf("event %d left %v", e, before.State)
			}
			obey(commands)
			p = next
			if p.Spares != w.spares {
				t.Fatalf("%d spares, the commands leave %d", p.Spares, w.spares)
			}
		}
		orders := w.captures
		if w.paidForNothing {
			orders = 0
		}
		good := p.State == Captured || p.State == Ordered || p.State.Earned()
		failed := p.Reason == OrderFailed
		switch {
		case w.captures > 1 || w.orders != orders || (w.captures == 1) != (good || failed):
			t.Fatalf("%d captures and %d orders in %v", w.captures, w.orders, p.State)
		case p.State.Final() && failed && !p.NothingTaken && w.refunded == (w.stored == 1), w.stored > 1, w.refunds > 1, w.asked > 1:
			t.Fatalf("money that was not earned: refunded %v, %d vouchers of stored value, %d refunds, %d choices", w.refunded, w.stored, w.refunds, w.asked)
		case w.returned > 1, w.returned == 1 && good:
			t.Fatalf("a voucher was returned %d times in %v", w.returned, p.State)
		case p.NothingTaken && (w.stored > 0 || w.refunds > 0):
			t.Fatalf("nothing was charged, and %d vouchers and %d refunds came of it", w.stored, w.refunds)
		case w.pays > attempts:
			t.Fatalf("%d payment attempts", w.pays)
		case p.State.Final() != (w.outcomes == 1) || w.outcomes > 1:
			t.Fatalf("%d outcomes in %v", w.outcomes, p.State)
		case (p.State == Voucher) != (w.vouchers+w.stored == 1):
			t.Fatalf("%d vouchers in %v", w.vouchers, p.State)
		case w.winnerFreed && good, w.settlesAfterFreed > 0:
			t.Fatalf("a unit was freed that is or could be sold, in %v", p.State)
		case p.State.Final() && !p.State.Earned() && w.settled && !w.winnerFreed:
			t.Fatalf("a settled unit leaks in %v", p.State)
		case p.State != Received && w.freed != total:
			t.Fatalf("%d of %d spares were freed in %v", w.freed, total, p.State)
		}
	})
}

func TestMoves(t *testing.T) {
	late, over := Attempt{WindowOver: true}, Attempt{InstrumentOver: true}
	for _, c := range []struct {
		name    string
		intent  payment.Intent
		attempt Attempt
		move    Move
		event   Event
	}{
		{"a new intent is confirmed, late or not", payment.Intent{State: payment.RequiresConfirmation}, late, Confirm, 0},
		{"authorised money is taken", payment.Intent{State: payment.Authorised}, Attempt{}, Capture, 0},
		{"authorised money is taken even after the window", payment.Intent{State: payment.Authorised}, late, Capture, 0},
		{"the customer is waited for", payment.Intent{State: payment.RequiresAction}, Attempt{}, Wait, ActionNeeded},
		{"a customer who is late finds the intent cancelled", payment.Intent{State: payment.RequiresAction}, late, Cancel, 0},
		{"a declined intent is cancelled before anything else", payment.Intent{State: payment.Declined, DeclineCode: "x"}, Attempt{}, Cancel, 0},
		{"read as succeeded means purchase, whatever was wanted", payment.Intent{State: payment.Succeeded, DeclineCode: "x"}, late, Done, MoneyTaken},
		{"read as cancelled after a decline", payment.Intent{State: payment.Cancelled, DeclineCode: "x"}, Attempt{}, Done, DeclinedForNow},
		{"read as cancelled after a decline for good", payment.Intent{State: payment.Cancelled, DeclineCode: "x", DeclineFinal: true}, Attempt{}, Done, DeclinedForGood},
		{"what would be one too many is cancelled", payment.Intent{State: payment.Authorised}, over, Cancel, 0},
		{"read as cancelled since it was one too many", payment.Intent{State: payment.Cancelled}, over, Done, InstrumentOverLimit},
		{"read as succeeded means purchase, one too many or not", payment.Intent{State: payment.Succeeded}, over, Done, MoneyTaken},
		{"declined before it was one too many", payment.Intent{State: payment.Cancelled, DeclineCode: "x"}, over, Done, DeclinedForNow},
		{"read as cancelled without a decline", payment.Intent{State: payment.Cancelled}, late, Done, WindowOver},
	} {
		t.Run(c.name, func(t *testing.T) {
			if move, event := NextMove(c.intent, c.attempt); move != c.move || event != c.event {
				t.Errorf("got %d, %d; want %d, %d", move, event, c.move, c.event)
			}
		})
	}
}

func TestDuplicateIsKeptOnlyWhileItCouldWin(t *testing.T) {
	for s := Received; s <= Refunded; s++ {
		if got, want := Duplicate(s, false), s == Received; got != want {
			t.Errorf("in %v: kept %v", s, got)
		}
		if Duplicate(s, true) {
			t.Errorf("in %v: an expired redemption is kept", s)
		}
	}
}

func TestNumbersAreThoseOfTheContract(t *testing.T) {
	for state, want := range map[State]offerv1.PurchaseState{
		Received: offerv1.PurchaseState_PURCHASE_STATE_RECEIVED, UnitSettled: offerv1.PurchaseState_PURCHASE_STATE_UNIT_SETTLED,
		ActionRequired: offerv1.PurchaseState_PURCHASE_STATE_ACTION_REQUIRED, Captured: offerv1.PurchaseState_PURCHASE_STATE_CAPTURED,
		Ordered: offerv1.PurchaseState_PURCHASE_STATE_ORDERED, Delivered: offerv1.PurchaseState_PURCHASE_STATE_DELIVERED,
		Shipped: offerv1.PurchaseState_PURCHASE_STATE_SHIPPED,
		Voucher: offerv1.PurchaseState_PURCHASE_STATE_VOUCHER, Refused: offerv1.PurchaseState_PURCHASE_STATE_REFUSED,
		ChoiceRequired: offerv1.PurchaseState_PURCHASE_STATE_CHOICE_REQUIRED, Refunding: offerv1.PurchaseState_PURCHASE_STATE_REFUNDING,
		Refunded: offerv1.PurchaseState_PURCHASE_STATE_REFUNDED,
	} {
		if int32(state) != int32(want) {
			t.Errorf("%v is %d, the contract says %d", state, state, want)
		}
	}
	for reason, want := range map[Reason]errorsv1.Reason{
		TokenExpired: errorsv1.Reason_REASON_TOKEN_EXPIRED, ViewerLimit: errorsv1.Reason_REASON_VIEWER_LIMIT,
		PaymentDeclined: errorsv1.Reason_REASON_PAYMENT_DECLINED, PaymentWindowOver: errorsv1.Reason_REASON_PAYMENT_WINDOW_OVER,
		UnitDenied: errorsv1.Reason_REASON_UNIT_DENIED, OrderFailed: errorsv1.Reason_REASON_ORDER_FAILED,
		VoucherUnusable: errorsv1.Reason_REASON_VOUCHER_UNUSABLE, InstrumentLimit: errorsv1.Reason_REASON_INSTRUMENT_LIMIT,
	} {
		if int32(reason) != int32(want) {
			t.Errorf("reason %d, the contract says %v", reason, want)
		}
	}
}
