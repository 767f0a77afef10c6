// Package orders is the life of an order, the choice of the node that works on it, and the making of licence keys.
//
//	READY ─Claim─> LEASED(worker, until, attempt) ─Ack─> ACKED ─Deliver─> DELIVERED
//	  ^                  │ Fail, or until is over          │
//	  └──── backoff ─────┴─────────────────────────────────┘──── attempts used up ──> DEAD
//
// Every step after Claim is fenced by (worker, attempt): a worker that was thought dead and wakes up finds its steps
// refused, so one order is delivered once however many workers ever held it. A claim whose time is over may be claimed
// again from LEASED and from ACKED alike: a worker that died holding an order says so to nobody. That is a digital order;
// physical.go has the physical one.
//
// It is pure. Where orders are kept, and that a step is saved before its effect is shown, is the caller's business.
package orders

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/rimlight/rimlight/internal/mutant"
)

// State is a rimlight.fulfillment.v1.OrderState: the numbers are the same.
type State int

// The states.
const (
	Ready     State = 1
	Leased    State = 2
	Acked     State = 3
	Delivered State = 4
	Dead      State = 5
	Shipped   State = 6
	Cleared   State = 7
)

// ErrFenced means: the step comes from a worker that no longer holds the order.
var ErrFenced = errors.New("orders: another worker or attempt holds the order")

// Order is what the rules need to know of one.
type Order struct {
	State State
	// Worker holds it in LEASED and ACKED.
	Worker string
	// Attempt counts claims, from 1.
	Attempt int
	// Until ends the claim in LEASED and ACKED; in READY nobody may claim it before.
	Until time.Time
}

// Policy is how patient the platform is.
type Policy struct {
	// Lease is how long a claim lasts.
	Lease time.Duration
	// MaxAttempts is how many claims an order gets.
	MaxAttempts int
}

// firstBackoff and maxBackoff bound the wait after a failed attempt: 250 ms still meets the 5 s of delivery after four
// failures; a minute keeps a lasting fault from being hammered.
const (
	firstBackoff = 250 * time.Millisecond
	maxBackoff   = time.Minute
)

// Claimable tells whether a worker may take the order at now.
func (o Order) Claimable(now time.Time) bool {
	return (o.State == Ready || o.State == Leased || o.State == Acked) && !now.Before(o.Until)
}

// Claim gives a claimable order to worker, or ends it when its attempts are used up (the result is DEAD then).
func (p Policy) Claim(o Order, worker string, now time.Time) (Order, error) {
	if !o.Claimable(now) {
		return o, ErrFenced
	}
	if o.Attempt >= p.MaxAttempts {
		return Order{State: Dead, Attempt: o.Attempt, Until: now}, nil
	}
	return Order{State: Leased, Worker: worker, Attempt: o.Attempt + 1, Until: now.Add(p.Lease)}, nil
}

// Ack is the worker's word that it took the order on.
func Ack(o Order, worker string, attempt int) (Order, error) {
	if o.State != Leased || !o.heldBy(worker, attempt) {
		return o, ErrFenced
	}
	o.State = Acked
	return o, nil
}

// Deliver is the worker's word that the goods are handed over. The claim's end does not matter as long as nobody else
// claimed the order: what was done was done once.
func Deliver(o Order, worker string, attempt int) (Order, error) {
	if o.State != Acked || !o.heldBy(worker, attempt) {
		return o, ErrFenced
	}
	o.State = Delivered
	return o, nil
}

// Fail gives the order back: READY after a backoff that doubles with every attempt, or DEAD after the last.
func (p Policy) Fail(o Order, worker string, attempt int, now time.Time) (Order, error) {
	if o.State != Leased && o.State != Acked || !o.heldBy(worker, attempt) {
		return o, ErrFenced
	}
	if o.Attempt >= p.MaxAttempts {
		return Order{State: Dead, Attempt: o.Attempt, Until: now}, nil
	}
	backoff := maxBackoff
	if shift := o.Attempt - 1; shift < 8 { // 250 ms << 8 is more than a minute
		backoff = firstBackoff << shift
	}
	return Order{State: Ready, Attempt: o.Attempt, Until: now.Add(backoff)}, nil
}

func (o Order) heldBy(worker string, attempt int) bool {
	return o.Worker == worker && o.Attempt == attempt || mutant.On(mutant.AttemptNotFenced)
}

// crockford is Douglas Crockford's base 32: no I, L, O or U, so a key survives being read out loud.
const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// KeyGroups and KeyGroupSize shape a licence key.
const (
	KeyGroups    = 5
	KeyGroupSize = 5
)

// NewLicenceKey makes a key of 125 random bits: five groups of five characters, joined by hyphens.
func NewLicenceKey(random io.Reader) (string, error) {
	var raw [KeyGroups * KeyGroupSize]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		return "", fmt.Errorf("making a licence key: %w", err)
	}
	key := make([]byte, 0, len(raw)+KeyGroups-1)
	for i, b := range raw {
		if i > 0 && i%KeyGroupSize == 0 {
			key = append(key, '-')
		}
		key = append(key, crockford[b&31]) // 32 divides 256: no character is likelier than another
	}
	return string(key), nil
}
