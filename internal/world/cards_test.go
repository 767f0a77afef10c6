package world_test

import (
	"slices"
	"testing"

	"github.com/rimlight/rimlight/internal/world"
	"github.com/rimlight/rimlight/verifier/ledger"
	"github.com/rimlight/rimlight/verifier/saga"
)

// A few cards pay for many sessions, with outages and crashes at every step of a payment.
func TestCards(t *testing.T) {
	t.Parallel()
	n := uint64(3)
	if testing.Short() {
		n = 1
	}
	over := 0
	for s := uint64(1); s <= n; s++ {
		r := play(t, world.Torture(s, world.AimCards))
		over += r.Outcomes["refused instrument limit"]
	}
	if over == 0 {
		t.Error("no card asked for more than its share")
	}
}

func TestLawsNoticeLiesAboutCards(t *testing.T) {
	t.Parallel()
	cfg := world.Torture(1, world.AimCards)
	cfg.Schedule = nil
	truth := tellTruth(t, cfg)
	truth.Heard = "" // long to copy, and judged elsewhere
	tooMany := func(e *world.Evidence) *world.Purchase {
		return of(e, func(p *world.Purchase) bool { return p.Reason == saga.InstrumentLimit })
	}
	noticeLies(t, truth, []doctored{
		{"I2", "a fee is not in the ledger", func(e *world.Evidence) {
			e.Postings = slices.DeleteFunc(e.Postings, func(l world.Posting) bool { return l.Account == ledger.PaymentFees || l.Account == ledger.ProviderFees })
		}},
		{"caps", "a card paid for one too many", func(e *world.Evidence) {
			p := tooMany(e)
			p.State, p.Reason = saga.Delivered, saga.NoReason
		}},
		{"caps", "a card was refused before its share was over", func(e *world.Evidence) { e.Cards[tooMany(e).Token] = "another" }},
		{"caps", "one too many earned a price lock", func(e *world.Evidence) { tooMany(e).State = saga.Voucher }},
		{"caps", "one too many counts as a customer who was late", func(e *world.Evidence) { tooMany(e).Reason = saga.PaymentWindowOver }},
	})
}
