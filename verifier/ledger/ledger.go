// Package ledger builds double-entry postings: pure, it stores nothing.
//
//	capture of 4.99 EUR:   provider_receivable  +499 EUR
//	                       channel_revenue      -499 EUR
//
// Invariants: the postings of a transaction sum to zero per currency; a transaction's id is its purchase and kind, so
// the store's primary key refuses to post the same thing twice. Debits are positive. Posted rows never change: a
// mistake is another transaction.
//
// There are no refunds, fees, payouts or revenue per channel yet; each will be a kind with its own constructor.
package ledger

import (
	"errors"
	"fmt"
)

// Accounts.
const (
	// ProviderReceivable is what the payment provider owes us.
	ProviderReceivable = "provider_receivable"
	// ChannelRevenue is what we owe channels, before fees.
	ChannelRevenue = "channel_revenue"
)

// KindCapture is money taken for a purchase.
const KindCapture = "capture"

// ErrUnbalanced means: postings do not sum to zero in some currency.
var ErrUnbalanced = errors.New("ledger: postings do not sum to zero")

// Posting moves an amount of one currency into (positive, debit) or out of (negative, credit) an account.
type Posting struct {
	Account      string
	CurrencyCode string
	MinorUnits   int64
}

// Transaction is what is posted together or not at all.
type Transaction struct {
	// PurchaseID and Kind are its id.
	PurchaseID string
	Kind       string
	Postings   []Posting
}

// Capture is money taken for a purchase; minorUnits is not negative.
func Capture(purchaseID, currencyCode string, minorUnits int64) (Transaction, error) {
	t := Transaction{purchaseID, KindCapture, []Posting{
		{ProviderReceivable, currencyCode, minorUnits},
		{ChannelRevenue, currencyCode, -minorUnits},
	}}
	return t, errors.Join(t.Validate(), notNegative(minorUnits))
}

// Validate checks what every transaction must satisfy. Amounts are bounded by the contract's Money, so sums of the few
// postings of a transaction cannot overflow.
func (t Transaction) Validate() error {
	if t.PurchaseID == "" || t.Kind == "" || len(t.Postings) < 2 {
		return errors.New("ledger: a transaction has a purchase, a kind and at least two postings")
	}
	for currency, sum := range Balances(t.Postings) {
		if sum != 0 {
			return fmt.Errorf("%w: %d %s over", ErrUnbalanced, sum, currency)
		}
	}
	return nil
}

// Balances sums postings by currency.
func Balances(postings []Posting) map[string]int64 {
	sums := map[string]int64{}
	for _, p := range postings {
		sums[p.CurrencyCode] += p.MinorUnits
	}
	return sums
}

func notNegative(minorUnits int64) error {
	if minorUnits < 0 {
		return fmt.Errorf("ledger: a capture of %d minor units", minorUnits)
	}
	return nil
}
