package world_test

import (
	"fmt"
	"slices"
	"testing"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/world"
	"github.com/rimlight/rimlight/verifier/saga"
)

// Parcels that never come, choices, refunds and vouchers, with everything against them.
func TestMoney(t *testing.T) {
	t.Parallel()
	first, n := uint64(300), uint64(3)
	if testing.Short() {
		n = 1
	}
	if *seedFlag != 0 {
		first, n = *seedFlag, 1
	}
	var all world.Report
	for s := first; s < first+n; s++ {
		r := play(t, world.Torture(s, world.AimMoney))
		all.Parcels, all.Choices, all.Refunds, all.Spent = all.Parcels+r.Parcels, all.Choices+r.Choices, all.Refunds+r.Refunds, all.Spent+r.Spent
	}
	if n > 1 && (all.Parcels == 0 || all.Choices == 0 || all.Refunds == 0 || all.Spent == 0) {
		t.Errorf("%d parcels left, %d choices were taken, %d refunds made, vouchers used %d times", all.Parcels, all.Choices, all.Refunds, all.Spent)
	}
}

// of finds the first purchase, and its place, that fits.
func of(e *world.Evidence, fits func(*world.Purchase) bool) *world.Purchase {
	for i := range e.Purchases {
		if fits(&e.Purchases[i]) {
			return &e.Purchases[i]
		}
	}
	panic("no such purchase in the evidence")
}

func givenBack(e *world.Evidence) *world.Purchase {
	return of(e, func(p *world.Purchase) bool { return p.State == saga.Refunded && p.Charged > 0 })
}

// voucherWith finds one of a kind, used or not.
func voucherWith(e *world.Evidence, kind int, used bool) *world.Voucher {
	for i, v := range e.Vouchers {
		if v.Kind == kind && used == slices.ContainsFunc(e.Uses, func(u world.Use) bool { return u.Voucher == v.ID }) {
			return &e.Vouchers[i]
		}
	}
	panic(fmt.Sprintf("no voucher of kind %d in the evidence, used %v", kind, used))
}

var moneyLies = []doctored{
	{"I1", "a parcel left twice", func(e *world.Evidence) {
		e.Parcels = append(e.Parcels, world.Parcel{Order: e.Parcels[0].Order, Label: "other", Times: 1})
	}},
	{"I1", "a parcel left under another label", func(e *world.Evidence) { e.Parcels[0].Label = "other" }},
	{"I1", "a shipped parcel never left", func(e *world.Evidence) { e.Parcels = e.Parcels[1:] }},
	{"I1", "a dead order's parcel left", func(e *world.Evidence) {
		i := slices.IndexFunc(e.Orders, func(o world.Order) bool { return o.State == 5 })
		e.Parcels = append(e.Parcels, world.Parcel{Order: e.Orders[i].ID, Label: "other", Times: 1})
	}},
	{"I11", "a shipped purchase's order is dead", func(e *world.Evidence) {
		i := slices.IndexFunc(e.Orders, func(o world.Order) bool { return o.State == 6 })
		e.Orders[i].State = 5
	}},
	{"I12", "an address is in a journal", func(e *world.Evidence) { e.Readable = []string{"the journal of us-east1"} }},
	{"I12", "an address is kept", func(e *world.Evidence) { e.Addresses = 1 }},
	{"I12", "a voucher is in the log", func(e *world.Evidence) {
		i := slices.IndexFunc(e.Endings, func(end world.Ending) bool { return end.Voucher != "" })
		e.Heard += " voucher=" + e.Endings[i].Voucher
	}},
	{"I2", "a refund was made twice", func(e *world.Evidence) { e.ProviderRefunds = append(e.ProviderRefunds, e.ProviderRefunds[0]) }},
	{"I2", "a refund was never made", func(e *world.Evidence) { e.ProviderRefunds = e.ProviderRefunds[1:] }},
	{"I2", "a refund nobody knows of", func(e *world.Evidence) { e.Refunds = e.Refunds[1:] }},
	{"I2", "a refund gave another amount back", func(e *world.Evidence) { e.ProviderRefunds[0].MinorUnits++ }},
	{"I2", "a refund is pending for ever", func(e *world.Evidence) { e.Refunds[0].State = 1 }},
	{"I2", "finance was told of a refund that is none", func(e *world.Evidence) { e.RefundAnswers[0].RefundID = "" }},
	{"I2", "one request made two refunds", func(e *world.Evidence) {
		i := slices.IndexFunc(e.RefundAnswers, func(a world.RefundAnswer) bool { return a.RefundID != e.RefundAnswers[0].RefundID })
		other := e.RefundAnswers[i]
		other.Request = e.RefundAnswers[0].Request
		e.RefundAnswers = append(e.RefundAnswers, other)
	}},
	{"I2", "the ledger forgot a refund", func(e *world.Evidence) {
		p := givenBack(e)
		e.Postings = slices.DeleteFunc(e.Postings, func(l world.Posting) bool { return l.Purchase == p.ID && l.Kind != "capture" })
	}},
	{"I5", "money went back and a voucher was given", func(e *world.Evidence) {
		p := givenBack(e)
		e.Vouchers = append(e.Vouchers, world.Voucher{ID: "other", Token: p.Token, Kind: 2, Currency: p.Currency, MinorUnits: p.Charged, Remaining: p.Charged})
	}},
	{"I5", "money went back twice", func(e *world.Evidence) {
		p := givenBack(e)
		i := slices.IndexFunc(e.Refunds, func(r world.Refund) bool { return r.Purchase == p.ID && r.MakeGood })
		e.Refunds = append(e.Refunds, e.Refunds[i])
	}},
	{"I5", "a voucher replaces a price lock", func(e *world.Evidence) { voucherWith(e, 1, false).Kind = 2 }},
	{"I5", "a voucher has less than nothing", func(e *world.Evidence) { voucherWith(e, 2, true).Remaining -= 10_000 }},
	{"I5", "a spent voucher is full again", func(e *world.Evidence) { v := voucherWith(e, 2, true); v.Remaining = v.MinorUnits }},
	{"I5", "a price lock is used twice", func(e *world.Evidence) {
		v := voucherWith(e, 1, true)
		v.MinorUnits *= 2
		i := slices.IndexFunc(e.Uses, func(u world.Use) bool { return u.Voucher == v.ID })
		e.Uses = append(e.Uses, e.Uses[i])
	}},
	{"I5", "a failed purchase keeps a voucher", func(e *world.Evidence) {
		e.Uses[0].Token = of(e, func(p *world.Purchase) bool { return p.State == saga.Refused }).Token
	}},
	{"I5", "a voucher is held for ever", func(e *world.Evidence) { e.Uses[0].State = 1 }},
	{"I5", "a purchase paid less than its price", func(e *world.Evidence) {
		of(e, func(p *world.Purchase) bool { return p.StoredValue > 0 && p.State.Earned() }).MinorUnits += 5000
	}},
	{"I5", "a session got price locks without end", func(e *world.Evidence) {
		for i := range e.Vouchers {
			e.Vouchers[i].Session = "one"
		}
	}},
	{"I5", "the ledger owes what nobody holds", func(e *world.Evidence) {
		e.Postings = slices.DeleteFunc(e.Postings, func(l world.Posting) bool { return l.Kind == "voucher" })
	}},
	{"I8", "a choice did not stand", func(e *world.Evidence) {
		p := givenBack(e)
		e.Choices = append(e.Choices, world.Choice{PurchaseID: p.ID, Choice: offerv1.MakeGood_MAKE_GOOD_VOUCHER})
	}},
}

// Each law about money notices each lie that it is about.
func TestLawsNoticeLiesAboutMoney(t *testing.T) {
	t.Parallel()
	cfg := world.Torture(8, world.AimMoney)
	cfg.Schedule = nil
	for i, n := range []int{30, 40} { // enough that everything happens, whoever is faster
		cfg.Drops[i].Units = n
	}
	cfg.Drops[0].Viewers, cfg.Abandon = 60, -1
	truth := tellTruth(t, cfg)
	truth.Heard = "" // long to copy, and judged elsewhere
	noticeLies(t, truth, moneyLies)
}
