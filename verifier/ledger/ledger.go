// Package ledger builds double-entry postings: pure, it stores nothing.
//
//	capture of 4.99 EUR, 2.00 of it from a voucher:   provider_receivable  +299    a refund of 1.00:   channel_revenue      +100
//	                                                  voucher_liability    +200                        provider_receivable  -100
//	                                                  channel_revenue      -499
//	and the provider's fee of 0.39 of it:             payment_fees          +39
//	                                                  provider_fees         -39
//	2.99 turned into stored value:                    channel_revenue      +299    2.00 put back on the voucher that
//	                                                  voucher_liability    -299    paid it: the same with 200
//
// Invariants: the postings of a transaction sum to zero per currency; a transaction's id is its purchase and kind, so
// the store's primary key refuses to post the same thing twice. Debits are positive. Posted rows never change: a
// mistake is another transaction.
//
// A fee has two accounts of its own, so that what was captured and refunded stays what the customer saw: the provider pays out
// provider_receivable + provider_fees. A refund gives no fee back, and posts none. A price lock is no liability and posts
// nothing. There are no payouts yet; they will be a kind with its own constructor.
package ledger

import (
	"errors"
	"fmt"
)

// Accounts.
const (
	// ProviderReceivable is what the payment provider took for us and has not given back to customers.
	ProviderReceivable = "provider_receivable"
	// ChannelRevenue is what we owe channels, before fees.
	ChannelRevenue = "channel_revenue"
	// VoucherLiability is what we owe the holders of stored value.
	VoucherLiability = "voucher_liability"
	// PaymentFees is what taking money has cost us.
	PaymentFees = "payment_fees"
	// ProviderFees is what the payment provider keeps of what it took for us.
	ProviderFees = "provider_fees"
)

// Kinds of transactions; a refund's is KindRefund with the refund's id, since a purchase may have several.
const (
	// KindCapture is money taken for a purchase.
	KindCapture = "capture"
	// KindVoucher is money taken and not earned, turned into stored value.
	KindVoucher = "voucher"
	// KindVoucherReturn is stored value put back on the voucher that paid.
	KindVoucherReturn = "voucher_return"
	// KindRefund is money given back through the provider.
	KindRefund = "refund/"
)

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

// Capture is money taken for a purchase: charged by the provider, which keeps a fee of it, and stored value off a voucher.
// None is negative.
func Capture(purchaseID, currencyCode string, charged, storedValue, fee int64) (Transaction, error) {
	t := Transaction{purchaseID, KindCapture, []Posting{
		{ProviderReceivable, currencyCode, charged},
		{ChannelRevenue, currencyCode, -charged - storedValue},
	}}
	if storedValue != 0 {
		t.Postings = append(t.Postings, Posting{VoucherLiability, currencyCode, storedValue})
	}
	if fee != 0 {
		t.Postings = append(t.Postings, Posting{PaymentFees, currencyCode, fee}, Posting{ProviderFees, currencyCode, -fee})
	}
	return t, errors.Join(t.Validate(), notNegative(charged), notNegative(storedValue), notNegative(fee))
}

// Voucher is money that was taken and not earned, which the viewer holds as stored value now.
func Voucher(purchaseID, currencyCode string, minorUnits int64) (Transaction, error) {
	return owed(purchaseID, KindVoucher, currencyCode, minorUnits)
}

// VoucherReturn is stored value that was not earned, put back on the voucher that paid it.
func VoucherReturn(purchaseID, currencyCode string, minorUnits int64) (Transaction, error) {
	return owed(purchaseID, KindVoucherReturn, currencyCode, minorUnits)
}

func owed(purchaseID, kind, currencyCode string, minorUnits int64) (Transaction, error) {
	t := Transaction{purchaseID, kind, []Posting{
		{ChannelRevenue, currencyCode, minorUnits},
		{VoucherLiability, currencyCode, -minorUnits},
	}}
	return t, errors.Join(t.Validate(), notNegative(minorUnits))
}

// Refund is money that went back through the provider.
func Refund(purchaseID, refundID, currencyCode string, minorUnits int64) (Transaction, error) {
	t := Transaction{purchaseID, KindRefund + refundID, []Posting{
		{ChannelRevenue, currencyCode, minorUnits},
		{ProviderReceivable, currencyCode, -minorUnits},
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
		return fmt.Errorf("ledger: a transaction over %d minor units", minorUnits)
	}
	return nil
}
