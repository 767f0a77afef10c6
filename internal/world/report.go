package world

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/rimlight/rimlight/internal/simnet"
	"github.com/rimlight/rimlight/verifier/saga"
)

// Report is what became of a world.
type Report struct {
	Seed uint64
	// Duration is virtual: until everything had settled. SettledAfter is its part after the later of the healing and the
	// last drop's end.
	Duration, SettledAfter time.Duration
	// Purchases that nodes accepted, and further redemptions of the same tokens.
	Accepted, Duplicates int
	// Unheard purchases were accepted, and no answer that said so arrived: their viewers may have been told no elsewhere.
	Unheard int
	Drops   []DropReport
	// Outcomes counts purchases by final state and reason; Refusals viewers who left with empty hands.
	Outcomes, Refusals map[string]int
	// Faults counts those of hosts and links; Network those of messages.
	Faults  map[string]int
	Network simnet.Stats
	// Choices that were taken, Refunds that are done, Spent vouchers (uses of them) and Parcels that left.
	Choices, Refunds, Spent, Parcels int
	// ExtraTime counts receipts of offers that were made after a drop's planned close, in time given back.
	ExtraTime int
	// TapToReceipt is how long each viewer waited for its first receipt, by viewer.
	TapToReceipt map[int]time.Duration
	Violations   []Violation
}

// DropReport is one drop's.
type DropReport struct {
	Title                             string
	Units, Viewers, Willing           int
	Accepted, Sold, Vouchers, Refused int
	// SellsOut: I14 is about it. Excused are its units that were not the platform's to sell.
	SellsOut bool
	Excused  int
}

// SellThrough is the sold share, 0 to 1.
func (d DropReport) SellThrough() float64 { return float64(d.Sold) / float64(d.Units) }

// Violation is one contradiction of a law.
type Violation struct{ Law, Rule, Detail string }

// Judge holds evidence to every law.
func Judge(e *Evidence) *Report {
	x := newIndex(e)
	r := &Report{
		Seed: e.Config.Seed, Duration: e.Settled, Outcomes: map[string]int{}, Refusals: e.Refusals,
		Faults: e.Faults, Network: e.Network, TapToReceipt: map[int]time.Duration{},
	}
	over := e.Healed
	for i, d := range e.Config.Drops {
		over = max(over, d.Opens+d.Lasts+tokenTTL)
		r.Drops = append(r.Drops, DropReport{Title: d.Title, Units: d.Units, Viewers: e.ViewersOfDrop[i], Willing: len(e.Willing[i]), SellsOut: e.sellsOut(i)})
	}
	for _, opened := range x.receipts {
		if !opened.closes.IsZero() {
			r.ExtraTime++
		}
	}
	r.SettledAfter = max(0, e.Settled-over)
	for _, p := range e.Purchases {
		r.Outcomes[strings.TrimSuffix(fmt.Sprintf("%v %v", p.State, reasonName(p.Reason)), " ")]++
		d := &r.Drops[x.drops[p.Drop]]
		if len(x.candidates[p.Token]) > 0 {
			d.Accepted++
		}
		switch p.State {
		case saga.Delivered, saga.Shipped:
			d.Sold++
		case saga.Voucher:
			d.Vouchers++
		case saga.Refused:
			d.Refused++
		}
	}
	for _, u := range e.Units {
		if i := x.drops[u.Drop]; u.State != sold && r.Drops[i].SellsOut && e.excused(i, u) {
			r.Drops[i].Excused++
		}
	}
	for _, p := range e.Purchases { // a cancelled token is one too, and may never have been accepted
		if len(x.candidates[p.Token]) > 0 {
			r.Accepted++
		}
	}
	r.Choices, r.Spent, r.Parcels = len(e.Choices), len(e.Uses), len(e.Parcels)
	for _, refund := range e.Refunds {
		if refund.State == refundDone {
			r.Refunds++
		}
	}
	r.Duplicates = len(e.Candidates) - r.Accepted
	heard := map[string]bool{}
	for _, a := range e.Answers {
		heard[a.PurchaseID] = true
		if a.First {
			r.TapToReceipt[a.Viewer] = a.Arrived - a.Tapped
		}
	}
	for _, p := range e.Purchases { // who was told no is told so by the purchase, too
		if !heard[p.ID] && p.Reason != saga.Cancelled {
			r.Unheard++
		}
	}
	for _, l := range laws {
		l.check(e, x, func(format string, args ...any) {
			r.Violations = append(r.Violations, Violation{l.name, l.rule, fmt.Sprintf(format, args...)})
		})
	}
	return r
}

func reasonName(r saga.Reason) string {
	return map[saga.Reason]string{
		saga.TokenExpired: "token expired", saga.Cancelled: "cancelled", saga.ViewerLimit: "viewer limit", saga.PaymentDeclined: "payment declined",
		saga.PaymentWindowOver: "payment window over", saga.UnitDenied: "unit denied",
		saga.OrderFailed: "order failed", saga.VoucherUnusable: "voucher unusable", saga.InstrumentLimit: "instrument limit",
	}[r]
}

// Broken are the names of the laws that do not hold, in their order.
func (r *Report) Broken() []string {
	var names []string
	for _, v := range r.Violations {
		if !slices.Contains(names, v.Law) {
			names = append(names, v.Law)
		}
	}
	return names
}

// Summary is what two runs of one seed are compared by: who bought what and how it ended, without instants and ids.
func (r *Report) Summary() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d purchases, %d duplicates, %d unheard of\n", r.Seed, r.Accepted, r.Duplicates, r.Unheard)
	for _, d := range r.Drops {
		fmt.Fprintf(&b, "  %-10s %4d units, %4d viewers, %4d willing: %4d accepted, %4d sold (%.1f %%), %d vouchers, %d refused\n",
			d.Title, d.Units, d.Viewers, d.Willing, d.Accepted, d.Sold, 100*d.SellThrough(), d.Vouchers, d.Refused)
	}
	if r.Parcels > 0 {
		fmt.Fprintf(&b, "  %d parcels left, %d choices were taken, %d refunds made, vouchers used %d times\n", r.Parcels, r.Choices, r.Refunds, r.Spent)
	}
	for _, counts := range []struct {
		name string
		of   map[string]int
	}{{"outcomes", r.Outcomes}, {"left with nothing", r.Refusals}, {"faults", r.Faults}} {
		fmt.Fprintf(&b, "  %s:", counts.name)
		for _, key := range slices.Sorted(maps.Keys(counts.of)) {
			fmt.Fprintf(&b, " %s %d;", key, counts.of[key])
		}
		fmt.Fprintln(&b)
	}
	return b.String()
}

// String is the summary with the network's part, the times and what is broken.
func (r *Report) String() string {
	var b strings.Builder
	b.WriteString(r.Summary())
	fmt.Fprintf(&b, "  network: %+v\n  took %v of virtual time, settled %v after the last drop's end\n", r.Network, r.Duration.Round(time.Second), r.SettledAfter.Round(time.Second))
	const shown = 5 // of each law
	told := map[string]int{}
	for _, v := range r.Violations {
		if told[v.Law]++; told[v.Law] <= shown {
			fmt.Fprintf(&b, "  %s (%s) BROKEN: %s\n", v.Law, v.Rule, v.Detail)
		}
	}
	for _, law := range slices.Sorted(maps.Keys(told)) {
		if told[law] > shown {
			fmt.Fprintf(&b, "  %s broken %d times\n", law, told[law])
		}
	}
	return b.String()
}
