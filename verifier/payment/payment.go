// Package payment is the contract between the purchase saga and a payment provider.
//
//	CreateIntent(key) -> RequiresConfirmation -Confirm-> Authorised -Capture-> Succeeded
//	                                             |            \
//	                                             |             -Cancel-> Cancelled
//	                                             |-> RequiresAction   (the customer confirms or declines elsewhere)
//	                                             '-> Declined -Cancel-> Cancelled
//
// Invariants that every engine keeps, and package paymenttest checks:
//
//   - The same key is the same intent; money moves at most once per intent, however often a call is repeated.
//   - An intent in Succeeded or Cancelled never leaves that state.
//   - Calls answer the intent as it is after the call; a call that does not fit the state changes nothing.
//   - After ErrUnknownOutcome the truth is what GetIntent reads, never a second intent.
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
	// DeclineCode is why it was declined; it stays when a declined intent is cancelled. Empty: it was not declined.
	DeclineCode string
	// DeclineFinal: another attempt with the same reference is pointless.
	DeclineFinal bool
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

// Provider takes money. Safe for concurrent use.
type Provider interface {
	// CreateIntent makes an intent, or finds the one made with this key. It moves no money.
	CreateIntent(ctx context.Context, key string, r Request) (Intent, error)
	// GetIntent reads. ErrNotFound when there is none.
	GetIntent(ctx context.Context, id string) (Intent, error)
	// Confirm asks for the authorisation.
	Confirm(ctx context.Context, id string) (Intent, error)
	// Capture takes authorised money.
	Capture(ctx context.Context, id string) (Intent, error)
	// Cancel ends an intent that did not succeed. An intent that succeeded stays Succeeded: read the answer.
	Cancel(ctx context.Context, id string) (Intent, error)
}

// Books are a provider's own records, summed.
type Books struct {
	// CapturedMinorUnits is captured minus refunded, by currency.
	CapturedMinorUnits map[string]int64
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
