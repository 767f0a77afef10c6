// Package payment is the contract between the purchase saga and a payment provider.
//
//	CreateIntent(key) -> RequiresConfirmation -Confirm-> Authorised -Capture-> Succeeded
//	                                             |            \
//	                                             |             -Cancel-> Cancelled
//	                                             |-> RequiresAction   (the customer confirms or declines elsewhere)
//	                                             '-> Declined -Cancel-> Cancelled
//
//	Refund(key, Succeeded intent) -> RefundPending -> RefundSucceeded
//	                                       '--------> RefundFailed
//
// Invariants that every engine keeps, and package paymenttest checks:
//
//   - The same key is the same intent; money moves at most once per intent, however often a call is repeated.
//   - An intent in Succeeded or Cancelled never leaves that state.
//   - Calls answer the intent as it is after the call; a call that does not fit the state changes nothing.
//   - After ErrUnknownOutcome the truth is what GetIntent reads, never a second intent.
//   - An intent that Succeeded tells its Fee, the same whatever is refunded; no other has one.
//   - An intent that was Authorised tells its Instrument from then on, the same one in every state.
//   - Refunds of an intent never add up to more than was captured, failed ones aside.
//
// What engines do not promise, and callers live with:
//
//   - A key is forgotten after a time (a day is usual): then it makes a second intent, or a second refund. So the anchor
//     is what was stored of the answer (the intent's id) or is read back (a refund's own id), never the key.
//   - A call that failed may have its error kept under its key and answered again until the key is forgotten:
//     ErrReplayed. That request is over; a fresh key is a fresh request.
//   - Hints of what happened come late, twice, in any order, or not at all: they say which intent to read, no more.
//
// Two intents of one purchase can both succeed: nothing here prevents it, so the caller cancels one, and reads that it
// is cancelled, before it makes the next. See docs/settlement.md, section 4. No card data passes through this contract.
package payment

import (
	"context"
	"errors"
)

// Errors of a Provider. Anything else is a fault of the provider's engine and is retried like ErrRetryable.
var (
	// ErrUnknownOutcome: no answer came; the call may or may not have had its effect. Read the intent by its id.
	ErrUnknownOutcome = errors.New("payment: outcome unknown")
	// ErrRetryable: the provider said that nothing happened and that the same call may be repeated.
	ErrRetryable = errors.New("payment: try again")
	// ErrReplayed: the same error as the first time, kept under the key. Nothing happened, and nothing will under this key
	// until it is forgotten.
	ErrReplayed = errors.New("payment: an earlier error, answered again")
	// ErrNotRefundable: the intent did not succeed, or has less left than is to be refunded.
	ErrNotRefundable = errors.New("payment: not refundable")
	// ErrNotFound: no intent has this id.
	ErrNotFound = errors.New("payment: no such intent")
	// ErrKeyReused: the key was used before with another request.
	ErrKeyReused = errors.New("payment: idempotency key used with another request")
	// ErrNoActionPending: the intent does not wait for the customer.
	ErrNoActionPending = errors.New("payment: no action pending")
)

// State is where an intent is.
type State int

// The states of an intent.
const (
	RequiresConfirmation State = iota + 1
	// RequiresAction: the customer must do something at the provider.
	RequiresAction
	// Authorised: the money is reserved and waits for Capture.
	Authorised
	// Succeeded: the money is taken. Final.
	Succeeded
	// Cancelled: no money can be taken any more. Final.
	Cancelled
	// Declined: refused, but the intent is still open at the provider and must be cancelled.
	Declined
)

// String is the state's name for logs and tests.
func (s State) String() string {
	names := [...]string{"unspecified", "requires_confirmation", "requires_action", "authorised", "succeeded", "cancelled", "declined"}
	if s < 0 || int(s) >= len(names) {
		return "invalid"
	}
	return names[s]
}

// Intent is one attempt to take money, as the provider has it.
type Intent struct {
	// ID is the provider's name of it, at most 128 characters: the anchor of everything after CreateIntent.
	ID string
	// State is where it is.
	State State
	// MinorUnits is what it takes, of its currency: the request's.
	MinorUnits int64
	// DeclineCode is why it was declined; it stays when a declined intent is cancelled. Empty: it was not declined.
	DeclineCode string
	// DeclineFinal: another attempt with the same reference is pointless.
	DeclineFinal bool
	// Fee is what the provider keeps of what it took, minor units of the intent's currency, 0 to what was taken. Known when
	// Succeeded, and the same from then on: a refund does not give it back.
	Fee int64
	// Instrument is the provider's opaque name of what pays, at most 128 characters: the same for every intent that the
	// same card pays, whoever presents it, and of no use at the provider. Known of every intent that was Authorised at some
	// time. Empty: it was not, or the provider does not tell. It names a person as well as a card does: never logged, never stored as it is.
	Instrument string
}

// Request describes an intent. A provider refuses the same key with another Request.
type Request struct {
	// PurchaseID is kept as metadata, so that the provider's books can be compared with the ledger.
	PurchaseID string
	// CurrencyCode is ISO 4217.
	CurrencyCode string
	// MinorUnits of the currency, not negative.
	MinorUnits int64
	// Reference is opaque: what the customer authorised.
	Reference string
}

// RefundState is where a refund is.
type RefundState int

// The states of a refund.
const (
	RefundPending RefundState = iota + 1
	// RefundSucceeded: the money went back. Final.
	RefundSucceeded
	// RefundFailed: the money could not be delivered and is with us. Final.
	RefundFailed
)

// RefundRequest describes a refund. A provider refuses the same key with another RefundRequest.
type RefundRequest struct {
	// RefundID is the caller's name of it, kept as metadata: Refunds finds it again when an answer was lost.
	RefundID string
	// IntentID names what was captured.
	IntentID string
	// MinorUnits of the intent's currency, more than zero.
	MinorUnits int64
}

// Refund is money on its way back, as the provider has it.
type Refund struct {
	RefundRequest
	State RefundState
}

// Provider takes money. Safe for concurrent use.
type Provider interface {
	// CreateIntent makes an intent, or finds the one made with this key. It moves no money.
	CreateIntent(ctx context.Context, key string, r Request) (Intent, error)
	// GetIntent reads. ErrNotFound when there is none.
	GetIntent(ctx context.Context, id string) (Intent, error)
	// Intents reads all intents of a purchase, oldest first, none if there are none: for who lost what was stored of them.
	Intents(ctx context.Context, purchaseID string) ([]Intent, error)
	// Confirm asks for the authorisation.
	Confirm(ctx context.Context, id string) (Intent, error)
	// Capture takes authorised money.
	Capture(ctx context.Context, id string) (Intent, error)
	// Cancel ends an intent that did not succeed. An intent that succeeded stays Succeeded: read the answer.
	Cancel(ctx context.Context, id string) (Intent, error)
	// Refund gives captured money back, or finds the refund made with this key. ErrNotRefundable.
	Refund(ctx context.Context, key string, r RefundRequest) (Refund, error)
	// Refunds reads all refunds of an intent. ErrNotFound when there is no such intent.
	Refunds(ctx context.Context, intentID string) ([]Refund, error)
}

// Hint says that something happened to an intent, and nothing about what: the intent is read.
type Hint struct {
	// ID is the provider's name of the event, at most 128 characters; a duplicate has the same.
	ID string
	// IntentID is what to read.
	IntentID string
}

// Hinter is a provider that tells when something happened (a webhook's receiving end). Who polls besides loses nothing
// but time without it.
type Hinter interface {
	// Hints calls deliver until ctx ends; hints that deliver failed on come again. deliver is never called concurrently.
	Hints(ctx context.Context, deliver func(context.Context, []Hint) error) error
}

// Books are a provider's own records, summed.
type Books struct {
	// CapturedMinorUnits is captured minus refunded, by currency.
	CapturedMinorUnits map[string]int64
	// FeesMinorUnits is what it keeps of all that it captured, refunded later or not, by currency.
	FeesMinorUnits map[string]int64
	// DoubleCaptures counts purchases with more than one capture that was not refunded.
	DoubleCaptures int
}

// Bookkeeper is a provider whose books the audit can read.
type Bookkeeper interface {
	Books(ctx context.Context) (Books, error)
}

// TestCustomer is a provider that moves no real money: it also plays the customer. A production profile refuses it.
type TestCustomer interface {
	// CompleteAction confirms or declines as the customer would, and answers which purchase the intent is for.
	// ErrNotFound, ErrNoActionPending.
	CompleteAction(ctx context.Context, intentID string, decline bool) (purchaseID string, err error)
}
