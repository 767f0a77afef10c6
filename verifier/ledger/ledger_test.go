package ledger_test

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/rimlight/rimlight/verifier/ledger"
)

func TestEveryTransactionSumsToZeroAndMovesItsAmounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := rapid.Int64Range(-10, 100_000_000_000).Draw(t, "amount")
		stored := rapid.Int64Range(-1, 100_000_000_000).Draw(t, "stored value")
		fee := rapid.Int64Range(-1, 1_000_000).Draw(t, "fee")
		currency := rapid.StringMatching("[A-Z]{3}").Draw(t, "currency")
		const receivable, revenue, liability = ledger.ProviderReceivable, ledger.ChannelRevenue, ledger.VoucherLiability
		for _, c := range []struct {
			name  string
			make  func() (ledger.Transaction, error)
			valid bool
			moves map[string]int64
		}{
			{"capture", func() (ledger.Transaction, error) { return ledger.Capture("p", currency, a, stored, fee) }, a >= 0 && stored >= 0 && fee >= 0,
				map[string]int64{receivable: a, liability: stored, revenue: -a - stored, ledger.PaymentFees: fee, ledger.ProviderFees: -fee}},
			{"voucher", func() (ledger.Transaction, error) { return ledger.Voucher("p", currency, a) }, a >= 0,
				map[string]int64{revenue: a, liability: -a}},
			{"voucher return", func() (ledger.Transaction, error) { return ledger.VoucherReturn("p", currency, a) }, a >= 0,
				map[string]int64{revenue: a, liability: -a}},
			{"refund", func() (ledger.Transaction, error) { return ledger.Refund("p", "r", currency, a) }, a >= 0,
				map[string]int64{revenue: a, receivable: -a}},
		} {
			tr, err := c.make()
			if (err == nil) != c.valid {
				t.Fatalf("%s of %d and %d: %v", c.name, a, stored, err)
			}
			if err != nil {
				continue
			}
			for in, sum := range ledger.Balances(tr.Postings) {
				if in != currency || sum != 0 {
					t.Fatalf("%s: %d %s over", c.name, sum, in)
				}
			}
			for _, p := range tr.Postings {
				c.moves[p.Account] -= p.MinorUnits
			}
			for account, off := range c.moves {
				if off != 0 {
					t.Fatalf("%s: %s is off by %d", c.name, account, off)
				}
			}
		}
	})
}

func TestValidateRefusesExactlyWhatDoesNotBalance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		postings := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) ledger.Posting {
			return ledger.Posting{
				Account: "a", CurrencyCode: rapid.SampledFrom([]string{"EUR", "JPY"}).Draw(t, "currency"),
				MinorUnits: rapid.Int64Range(-2, 2).Draw(t, "amount"),
			}
		}), 2, 6).Draw(t, "postings")
		eur, jpy := int64(0), int64(0)
		for _, p := range postings {
			if p.CurrencyCode == "EUR" {
				eur += p.MinorUnits
			} else {
				jpy += p.MinorUnits
			}
		}
		err := ledger.Transaction{PurchaseID: "p", Kind: "k", Postings: postings}.Validate()
		if balanced := eur == 0 && jpy == 0; balanced != (err == nil) || !balanced && !errors.Is(err, ledger.ErrUnbalanced) {
			t.Fatalf("%+v: %v", postings, err)
		}
	})
}

func TestValidateRefusesNamelessAndOneSided(t *testing.T) {
	for name, tr := range map[string]ledger.Transaction{
		"no purchase":      {Kind: "k", Postings: make([]ledger.Posting, 2)},
		"no kind":          {PurchaseID: "p", Postings: make([]ledger.Posting, 2)},
		"a single posting": {PurchaseID: "p", Kind: "k", Postings: make([]ledger.Posting, 1)},
	} {
		if tr.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
