package ledger_test

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/rimlight/rimlight/verifier/ledger"
)

func TestCaptureSumsToZeroAndMovesThePrice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amount := rapid.Int64Range(-10, 100_000_000_000).Draw(t, "amount")
		currency := rapid.StringMatching("[A-Z]{3}").Draw(t, "currency")
		tr, err := ledger.Capture("p", currency, amount)
		if (err == nil) != (amount >= 0) {
			t.Fatalf("a capture of %d: %v", amount, err)
		}
		if err != nil {
			return
		}
		for c, sum := range ledger.Balances(tr.Postings) {
			if c != currency || sum != 0 {
				t.Fatalf("%d %s over", sum, c)
			}
		}
		if p := tr.Postings[0]; p.Account != ledger.ProviderReceivable || p.MinorUnits != amount {
			t.Fatalf("debits %+v", p)
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
