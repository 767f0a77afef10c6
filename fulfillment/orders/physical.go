package orders

import "time"

// A physical order takes two steps more, and moves on only while it is nobody's:
//
//	READY ─Assign─> LEASED(node, until, attempt) ─Accept─> ACKED(until) ─Clear─> CLEARED ─Ship─> SHIPPED
//	  ^                  │ Refuse, or until is over          │ Refuse, or until is over
//	  └──── backoff ─────┴── attempts used up ──> DEAD <─────┘
//
// Requeue, an operator's word that the node is lost, is the third way along the lower arrows.
//
// Accept deletes the delivery details here, so from then on the order is that node's or nobody's. CLEARED is the point of
// no return: the node asked whether the parcel may leave and nobody else ever gets the order, so one parcel leaves however
// long the node was cut off. See docs/decisions/0013-physical-orders.md.

// Reason is a rimlight.fulfillment.v1.RejectReason: the numbers are the same.
type Reason int

// The reasons that are not only a node's to say.
const (
	NoReason      Reason = 0
	Undeliverable Reason = 2
	Silent        Reason = 6
	NoNode        Reason = 7
	Lost          Reason = 8
)

// Assign gives a waiting order to a node.
func (p Policy) Assign(o Order, node string, now time.Time) (Order, error) {
	if o.State != Ready {
		return o, ErrFenced
	}
	return p.Claim(o, node, now)
}

// Expire takes the order away from a node whose time is over: one that did not accept it loses it to another, one that
// accepted it was the last.
func (p Policy) Expire(o Order, now time.Time) (Order, error) {
	if o.State == Ready || !o.Claimable(now) {
		return o, ErrFenced
	}
	return p.Refuse(o, o.Worker, o.Attempt, now)
}

// Accept is the node's word that the order is in its inbox. It has until then to clear it. A repeat changes nothing.
func Accept(o Order, node string, attempt int, until time.Time) (Order, error) {
	if o.State == Acked && o.heldBy(node, attempt) {
		return o, nil
	}
	o, err := Ack(o, node, attempt)
	if err == nil {
		o.Until = until
	}
	return o, err
}

// Refuse gives the order back: READY for another node, or DEAD if it had been accepted, or after the last attempt.
func (p Policy) Refuse(o Order, node string, attempt int, now time.Time) (Order, error) {
	if o.State == Acked && o.heldBy(node, attempt) {
		return Order{State: Dead, Attempt: o.Attempt, Until: now}, nil
	}
	return p.Fail(o, node, attempt, now)
}

// Clear lets the parcel leave. A repeat changes nothing.
func Clear(o Order, node string, attempt int) (Order, error) {
	if o.State != Acked && o.State != Cleared || !o.heldBy(node, attempt) {
		return o, ErrFenced
	}
	o.State = Cleared
	return o, nil
}

// Ship is the node's word that the parcel left. A repeat changes nothing.
func Ship(o Order, node string, attempt int) (Order, error) {
	if o.State != Cleared && o.State != Shipped || !o.heldBy(node, attempt) {
		return o, ErrFenced
	}
	o.State = Shipped
	return o, nil
}

// Requeue takes the order from a node that is lost for good. One that it did not accept waits for another node. One that it
// accepted is DEAD: its details were there alone. It may have packed that, and may not send it, since it has to Clear it
// first. One that it has cleared may have left, and is DEAD only when the caller says so.
func Requeue(o Order, node string, cleared bool, now time.Time) (Order, error) {
	switch {
	case o.Worker != node:
	case o.State == Leased:
		return Order{State: Ready, Attempt: o.Attempt, Until: now}, nil
	case o.State == Acked, o.State == Cleared && cleared:
		return Order{State: Dead, Attempt: o.Attempt, Until: now}, nil
	}
	return o, ErrFenced
}
