// Package saga is what may become of a purchase, and what must be done about it: pure, state and event in, state and
// commands out.
//
//	RECEIVED -Settled-> UNIT_SETTLED -ActionNeeded-> ACTION_REQUIRED
//	   |                    |  '-----------MoneyTaken-----------+-> CAPTURED -OrderPlaced-> ORDERED -OrderDelivered-> DELIVERED
//	   |                                                                                 '-OrderShipped--> SHIPPED
//	   | Denied             | Declined, WindowOver                      |                      |
//	   | (no spare left)    |                                           '------OrderDead-------+
//	   |                    v                                                     v
//	   |--------------> VOUCHER (price lock)                               CHOICE_REQUIRED -ChoseVoucher-> VOUCHER (stored value)
//	   |                    | (no price lock left; the voucher that it          | ChoseMoney                  ^
//	   |                    v  brought is unusable; InstrumentOverLimit)        v                             | RefundFailed
//	   |-OverLimit, ----> REFUSED                                            REFUNDING -----------------------'
//	   | Expired                                                                | RefundDone
//	   '-DeniedPaid (after a restore)---------------> CHOICE_REQUIRED           v
//	                                                                         REFUNDED
//
// Invariants:
//
//   - Unit before money: no event leads from RECEIVED to a payment.
//   - Money before goods: an order is placed only by the transition that posts the capture.
//   - DELIVERED, SHIPPED, VOUCHER, REFUSED and REFUNDED are final; entering one signs the outcome, and nothing leaves it.
//   - Money that was taken and not earned ends as exactly one of a refund and a stored-value voucher.
//   - A unit that is given up is released exactly by the transition that leaves every path which could settle it again.
//
// Every command is durable in the same transaction as the state, as a job or a row; see docs/settlement.md, section 4.
// The package knows no ids, amounts, texts or clocks, and does nothing itself.
package saga

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// ErrIllegal means: the event does not fit the state. Whoever sent it acted on an old state, or repeated itself.
var ErrIllegal = errors.New("saga: the event does not fit the state")

// State is where a purchase is. The numbers are those of rimlight.offer.v1.PurchaseState.
type State int32

// The states.
const (
	Received       State = 2
	UnitSettled    State = 3
	ActionRequired State = 4
	Captured       State = 5
	Ordered        State = 6
	Shipped        State = 7
	Delivered      State = 8
	Voucher        State = 9
	Refused        State = 10
	ChoiceRequired State = 11
	Refunding      State = 12
	Refunded       State = 13
)

var stateNames = map[State]string{
	Received: "received", UnitSettled: "unit_settled", ActionRequired: "action_required", Captured: "captured",
	Ordered: "ordered", Shipped: "shipped", Delivered: "delivered", Voucher: "voucher", Refused: "refused",
	ChoiceRequired: "choice_required", Refunding: "refunding", Refunded: "refunded",
}

// States lists all of them.
func States() []State { return slices.Sorted(maps.Keys(stateNames)) }

// String is the state's name, for logs, metrics and tests.
func (s State) String() string {
	if name, ok := stateNames[s]; ok {
		return name
	}
	return fmt.Sprintf("state(%d)", int32(s))
}

// Final tells the states that nothing leaves.
func (s State) Final() bool {
	return s.Earned() || s.Failed()
}

// Earned tells the states in which the goods left us, and the money is ours.
func (s State) Earned() bool { return s == Delivered || s == Shipped }

// Failed tells the states in which a purchase came to nothing, and counts towards no share.
func (s State) Failed() bool { return s == Voucher || s == Refused || s == Refunded }

// AwaitsMoney tells the states in which a payment may be in progress.
func (s State) AwaitsMoney() bool { return s == UnitSettled || s == ActionRequired }

// Paid tells the states in which the money is taken and the order on its way.
func (s State) Paid() bool { return s == Captured || s == Ordered }

// Reason is why a purchase failed. The numbers are those of rimlight.errors.v1.Reason.
type Reason int32

// The reasons of failed purchases.
const (
	NoReason          Reason = 0
	TokenExpired      Reason = 11
	ViewerLimit       Reason = 24
	PaymentDeclined   Reason = 70
	PaymentWindowOver Reason = 71
	UnitDenied        Reason = 72
	OrderFailed       Reason = 74
	VoucherUnusable   Reason = 75
	InstrumentLimit   Reason = 78
)

// Cancelled means: the viewer was told a definite no before any redemption arrived.
const Cancelled Reason = 131

// Event is what happened.
type Event int

// The events.
const (
	// Expired: the node accepted after the token's time.
	Expired Event = iota + 1
	// OverLimit: the viewer session has its share of the drop.
	OverLimit
	// Settled: fulfillment made the unit the purchase's.
	Settled
	// Denied: fulfillment said no, for good.
	Denied
	// DeniedPaid: fulfillment said no, for good, of a purchase that the provider took money for: the verifier was restored from
	// a backup, and the unit was given up after the payment.
	DeniedPaid
	// ActionNeeded: the customer must confirm the payment.
	ActionNeeded
	// DeclinedForNow: the attempt's intent is declined and read as cancelled; another attempt may work.
	DeclinedForNow
	// DeclinedForGood: the attempt's intent is declined and read as cancelled; no attempt will work.
	DeclinedForGood
	// WindowOver: the customer did not come, and the intent is read as cancelled.
	WindowOver
	// InstrumentOverLimit: the payment instrument has paid its share of the drop, and the intent is read as cancelled.
	InstrumentOverLimit
	// VoucherRefused: the voucher that came with the redemption is spent, expired or for something else.
	VoucherRefused
	// MoneyTaken: the intent is read as succeeded, or a voucher covers all of the price.
	MoneyTaken
	// OrderPlaced: fulfillment has the order.
	OrderPlaced
	// OrderDelivered: fulfillment handed it over.
	OrderDelivered
	// OrderShipped: the parcel left.
	OrderShipped
	// OrderDead: fulfillment gave the order up, for good.
	OrderDead
	// ChoseVoucher: the viewer wants stored value.
	ChoseVoucher
	// ChoseMoney: the viewer wants the money, or did not choose in time.
	ChoseMoney
	// RefundDone: the provider's refund is read as done.
	RefundDone
	// RefundFailed: the provider cannot give the money back.
	RefundFailed
	lastEvent
)

// Events lists all of them, for tests.
func Events() []Event {
	var all []Event
	for e := Event(1); e < lastEvent; e++ {
		all = append(all, e)
	}
	return all
}

// Command is what the transition's transaction must make durable beside the state.
type Command int

// The commands.
const (
	// Settle: a job that asks fulfillment for the winner's unit.
	Settle Command = iota + 1
	// Pay: a job that drives payment attempt Purchase.Attempt, with no intent yet.
	Pay
	// PostCapture: the ledger's postings.
	PostCapture
	// PlaceOrder: a job that hands the order over.
	PlaceOrder
	// Promote: the oldest spare becomes the winner.
	Promote
	// ReleaseWinner: a job that frees the winner's unit.
	ReleaseWinner
	// ReleaseSpares: jobs that free the duplicates' units.
	ReleaseSpares
	// IssueVoucher: a price lock.
	IssueVoucher
	// ReturnVoucher: what a voucher put into the purchase goes back on it.
	ReturnVoucher
	// AskChoice: a job that chooses the money when the viewer's time is over.
	AskChoice
	// StartRefund: a job that gives back what the provider took.
	StartRefund
	// IssueStoredValue: a voucher of what the provider took, with its liability posted.
	IssueStoredValue
	// SignOutcome: the final word.
	SignOutcome
)

// Purchase is what the saga needs to know of a purchase.
type Purchase struct {
	State  State
	Reason Reason
	// Attempt is the payment attempt in progress, from 1; 0 before the unit is settled.
	Attempt int
	// Spares is how many duplicate redemptions could still become the winner.
	Spares int
	// NoPriceLock: the viewer has used up the channel's budget of price locks; see Config of package verifier.
	NoPriceLock bool
	// NothingTaken: the provider took nothing; a voucher paid everything, or the price is zero.
	NothingTaken bool
	// Free: the price is zero, which no voucher can lock.
	Free bool
}

// New is a purchase whose first redemption arrived.
func New() (Purchase, []Command) { return Purchase{State: Received}, []Command{Settle} }

// NewCancelled is a token that can never be redeemed any more: final at once. Redemptions that come later are duplicates of it.
func NewCancelled() (Purchase, []Command) {
	return Purchase{State: Refused, Reason: Cancelled}, []Command{SignOutcome}
}

// Next is the whole table. maxAttempts bounds payment attempts. On ErrIllegal the purchase is unchanged.
func Next(p Purchase, e Event, maxAttempts int) (Purchase, []Command, error) {
	next := func(s State, r Reason, commands ...Command) (Purchase, []Command, error) {
		q := p
		q.State, q.Reason = s, r
		if slices.Contains(commands, ReleaseSpares) {
			q.Spares = 0
		}
		if s.Final() {
			commands = append(commands, SignOutcome)
		}
		return q, commands, nil
	}
	// unpaid ends a purchase whose payment came to nothing by the viewer's doing.
	unpaid := func(r Reason) (Purchase, []Command, error) {
		if p.NoPriceLock {
			return next(Refused, r, ReleaseWinner, ReturnVoucher)
		}
		return next(Voucher, r, ReleaseWinner, ReturnVoucher, IssueVoucher)
	}
	switch {
	case p.State == Received && e == Expired:
		return next(Refused, TokenExpired, ReleaseWinner, ReleaseSpares)
	case p.State == Received && e == OverLimit:
		return next(Refused, ViewerLimit, ReleaseWinner, ReleaseSpares)
	case p.State == Received && e == Settled:
		p.Attempt = 1
		return next(UnitSettled, NoReason, Pay, ReleaseSpares)
	case p.State == Received && (e == Denied || e == DeniedPaid) && p.Spares > 0:
		p.Spares--
		return next(Received, NoReason, Promote, Settle)
	case p.State == Received && e == DeniedPaid && !p.NothingTaken: // made good like a dead order; the unit is not this purchase's
		p.Attempt = 1
		return next(ChoiceRequired, OrderFailed, PostCapture, AskChoice)
	case p.State == Received && (e == Denied || e == DeniedPaid) && p.Free:
		return next(Refused, UnitDenied)
	case p.State == Received && (e == Denied || e == DeniedPaid): // the unit was never this purchase's
		return next(Voucher, UnitDenied, IssueVoucher)

	case p.State == UnitSettled && e == ActionNeeded:
		return next(ActionRequired, NoReason)
	case p.State.AwaitsMoney() && e == MoneyTaken:
		return next(Captured, NoReason, PostCapture, PlaceOrder)
	case p.State.AwaitsMoney() && e == DeclinedForNow && p.Attempt < maxAttempts:
		p.Attempt++
		return next(UnitSettled, NoReason, Pay)
	case p.State.AwaitsMoney() && (e == DeclinedForNow || e == DeclinedForGood):
		return unpaid(PaymentDeclined)
	case p.State.AwaitsMoney() && e == WindowOver:
		return unpaid(PaymentWindowOver)
	case p.State.AwaitsMoney() && e == InstrumentOverLimit: // no price lock: asking with a card beyond its share earns nothing
		return next(Refused, InstrumentLimit, ReleaseWinner, ReturnVoucher)
	case p.State.AwaitsMoney() && e == VoucherRefused: // nothing was taken of it
		return next(Refused, VoucherUnusable, ReleaseWinner)

	case p.State == Captured && e == OrderPlaced:
		return next(Ordered, NoReason)
	case p.State.Paid() && e == OrderDelivered: // news of delivery may overtake PlaceOrders' answer
		return next(Delivered, NoReason)
	case p.State.Paid() && e == OrderShipped:
		return next(Shipped, NoReason)
	case p.State.Paid() && e == OrderDead && p.NothingTaken: // nothing to choose: what was paid is back on the voucher
		return next(Refunded, OrderFailed, ReleaseWinner, ReturnVoucher)
	case p.State.Paid() && e == OrderDead:
		return next(ChoiceRequired, OrderFailed, ReleaseWinner, ReturnVoucher, AskChoice)
	case p.State == ChoiceRequired && e == ChoseVoucher:
		return next(Voucher, p.Reason, IssueStoredValue)
	case p.State == ChoiceRequired && e == ChoseMoney:
		return next(Refunding, p.Reason, StartRefund)
	case p.State == Refunding && e == RefundDone:
		return next(Refunded, p.Reason)
	case p.State == Refunding && e == RefundFailed: // the money cannot go back, so it stays the viewer's here
		return next(Voucher, p.Reason, IssueStoredValue)
	}
	return p, nil, fmt.Errorf("%w: event %d in %v", ErrIllegal, e, p.State)
}

// Duplicate says what becomes of another redemption of the same token: kept as a spare while the winner may still be
// refused its unit, released at once afterwards. An expired redemption can never win.
func Duplicate(winner State, expired bool) (keep bool) { return winner == Received && !expired }
