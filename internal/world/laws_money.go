package world

import (
	"maps"
	"slices"
	"strings"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/verifier/ledger"
	"github.com/rimlight/rimlight/verifier/saga"
	"github.com/rimlight/rimlight/verifier/store"
)

// refundDone and refundFailed are the ends of a refund.
const (
	refundDone   = int(verifierv1.RefundState_REFUND_STATE_DONE)
	refundFailed = int(verifierv1.RefundState_REFUND_STATE_FAILED)
)

// paid tells purchases of which the provider took money at some time.
func (p *Purchase) paid() bool {
	switch p.State {
	case saga.Captured, saga.Ordered, saga.Delivered, saga.Shipped, saga.ChoiceRequired, saga.Refunding:
		return p.Charged > 0
	}
	return p.Reason == saga.OrderFailed && p.Charged > 0
}

func oneCapture(e *Evidence, x *index, broken func(string, ...any)) {
	charges, provider, posted := map[string]int{}, map[string]int64{}, map[string]int64{} // by purchase; the last two are sums
	fees := map[string]int64{}                                                            // by purchase: the provider's, less the ledger's
	for _, c := range e.Charges {
		charges[c.Purchase]++
		provider[c.Purchase] += c.MinorUnits
		fees[c.Purchase] += c.Fee
		p := x.purchases[c.Purchase]
		switch {
		case p == nil:
			broken("a charge for purchase %s, which the verifier does not know", c.Purchase)
		case p.Charged != c.MinorUnits || p.Currency != c.Currency:
			broken("purchase %s is to be charged %d %s and was charged %d %s", c.Purchase, p.Charged, p.Currency, c.MinorUnits, c.Currency)
		}
	}
	refundsAgree(e, provider, broken)
	for _, p := range e.Postings {
		switch p.Account {
		case ledger.ProviderReceivable:
			posted[p.Purchase] += p.MinorUnits
		case ledger.ProviderFees: // the provider's side: negative
			fees[p.Purchase] += p.MinorUnits
		}
	}
	for i := range e.Purchases {
		p, want := &e.Purchases[i], 0
		if p.paid() {
			want = 1
		}
		if charges[p.ID] != want {
			broken("purchase %s is %v and was charged %d times", p.ID, p.State, charges[p.ID])
		}
		if provider[p.ID] != posted[p.ID] {
			broken("the provider has %d of purchase %s, the ledger says %d", provider[p.ID], p.ID, posted[p.ID])
		}
		if fees[p.ID] != 0 {
			broken("the provider keeps %d more of purchase %s than the ledger says", fees[p.ID], p.ID)
		}
		if provider[p.ID] < 0 {
			broken("purchase %s was refunded %d more than was taken", p.ID, -provider[p.ID])
		}
	}
}

// refundsAgree takes what the provider gave back off its sums, by purchase, and compares its refunds with the verifier's.
func refundsAgree(e *Evidence, provider map[string]int64, broken func(string, ...any)) {
	made := map[string]Refund{}
	for _, r := range e.ProviderRefunds {
		if _, again := made[r.ID]; again {
			broken("the provider made a refund of purchase %s twice", r.Purchase)
		}
		made[r.ID] = r
		if r.State != refundFailed {
			provider[r.Purchase] -= r.MinorUnits
		}
	}
	known := map[string]Refund{}
	for _, r := range e.Refunds {
		known[r.ID] = r
		at, is := made[r.ID]
		switch {
		case r.State != refundDone && r.State != refundFailed:
			broken("a refund of purchase %s is in state %d", r.Purchase, r.State)
		case !is || at.State != r.State || at.MinorUnits != r.MinorUnits || at.Purchase != r.Purchase:
			broken("a refund of %d for purchase %s in state %d is at the provider %d for %s in state %d",
				r.MinorUnits, r.Purchase, r.State, at.MinorUnits, at.Purchase, at.State)
		}
	}
	for id, r := range made {
		if _, is := known[id]; !is {
			broken("the provider made a refund of purchase %s that the verifier does not know", r.Purchase)
		}
	}
	told := map[string]RefundAnswer{} // by request
	for _, a := range e.RefundAnswers {
		r, is := known[strings.ReplaceAll(a.RefundID, "-", "")]
		if !is || r.MinorUnits != a.MinorUnits || r.Purchase != a.PurchaseID {
			broken("finance was told of a refund of %d for purchase %s, which does not exist", a.MinorUnits, a.PurchaseID)
		}
		if before, again := told[a.Request]; again && before != a {
			broken("a request for a refund of purchase %s had two answers", a.PurchaseID)
		}
		told[a.Request] = a
	}
}

func booksBalance(e *Evidence, x *index, broken func(string, ...any)) {
	sums := map[[3]string]int64{}
	for _, p := range e.Postings {
		sums[[3]string{p.Purchase, p.Kind, p.Currency}] += p.MinorUnits
	}
	for _, transaction := range slices.SortedFunc(maps.Keys(sums), func(a, b [3]string) int { return slices.Compare(a[:], b[:]) }) {
		if sum := sums[transaction]; sum != 0 {
			broken("the postings of %v sum to %d", transaction, sum)
		}
	}
	vouchers, refunds := map[string][]Voucher{}, map[string]int64{} // by token; by purchase what made it good
	for _, v := range e.Vouchers {
		vouchers[v.Token] = append(vouchers[v.Token], v)
		if x.byToken[v.Token] == nil {
			broken("a voucher without a purchase")
		}
	}
	for _, r := range e.Refunds {
		switch p := x.purchases[r.Purchase]; {
		case p == nil:
			broken("a refund without a purchase")
		case !r.MakeGood && !p.State.Earned():
			broken("the shop refunded purchase %s, which is %v", p.ID, p.State)
		case r.MakeGood && r.State == refundDone:
			refunds[r.Purchase] += r.MinorUnits
		}
	}
	for i := range e.Purchases {
		p := &e.Purchases[i]
		var want []Voucher // its kind and amount
		back := int64(0)
		switch {
		case p.State == saga.Voucher && p.Reason == saga.OrderFailed:
			want = []Voucher{{Kind: int(store.StoredValue), MinorUnits: p.Charged}}
		case p.State == saga.Voucher:
			want = []Voucher{{Kind: int(store.PriceLock), MinorUnits: p.MinorUnits}}
		case p.State == saga.Refunded:
			back = p.Charged
		}
		got := vouchers[p.Token]
		if !slices.EqualFunc(got, want, func(a, b Voucher) bool {
			return a.Kind == b.Kind && a.MinorUnits == b.MinorUnits && a.Currency == p.Currency
		}) {
			broken("purchase %s is %v (%v) and has %d vouchers: %v", p.ID, p.State, reasonName(p.Reason), len(got), got)
		}
		if refunds[p.ID] != back {
			broken("purchase %s is %v, and %d of %d went back", p.ID, p.State, refunds[p.ID], p.Charged)
		}
	}
}

func vouchersAreSpentOnce(e *Evidence, x *index, broken func(string, ...any)) {
	known, used, uses := map[string]*Voucher{}, map[string]int64{}, map[string]int{}
	for i := range e.Vouchers {
		known[e.Vouchers[i].ID] = &e.Vouchers[i]
	}
	byToken := map[string]Use{}
	for _, u := range e.Uses {
		used[u.Voucher] += u.MinorUnits
		uses[u.Voucher]++
		byToken[u.Token] = u
		v, p := known[u.Voucher], x.byToken[u.Token]
		switch {
		case v == nil || p == nil:
			broken("a use of a voucher that is none, or by no purchase")
		case u.State != 2 || !p.State.Earned() || p.Voucher != u.Voucher || p.Currency != v.Currency:
			broken("voucher %s is in use (state %d) by purchase %s, which is %v", u.Voucher, u.State, p.ID, p.State)
		}
	}
	open, locks := map[string]int64{}, map[[2]string]int{}
	for _, v := range e.Vouchers {
		if v.Remaining < 0 || v.Remaining+used[v.ID] != v.MinorUnits {
			broken("voucher %s was worth %d, %d of it is used and %d is left", v.ID, v.MinorUnits, used[v.ID], v.Remaining)
		}
		switch v.Kind {
		case int(store.StoredValue):
			open[v.Currency] += v.Remaining
		case int(store.PriceLock):
			if uses[v.ID] > 1 {
				broken("price lock %s was used %d times", v.ID, uses[v.ID])
			}
			if p := x.byToken[v.Token]; p != nil && p.Reason != saga.UnitDenied {
				locks[[2]string{v.Session, v.Channel}]++
			}
		}
	}
	for session, n := range locks {
		if n > priceLocks {
			broken("a session got %d price locks in channel %s", n, session[1])
		}
	}
	for i := range e.Purchases {
		p := &e.Purchases[i]
		if !p.State.Earned() {
			continue
		}
		u, covered := byToken[p.Token]
		v := known[u.Voucher]
		pays := p.Charged + p.StoredValue
		switch {
		case covered != p.Held || covered != (p.Voucher != ""):
			broken("purchase %s came with a voucher %v, holds it %v, and used it %v", p.ID, p.Voucher != "", p.Held, covered)
		case !covered && pays != p.MinorUnits, covered && v != nil && v.Kind == int(store.StoredValue) && (pays != p.MinorUnits || p.StoredValue != u.MinorUnits),
			covered && v != nil && v.Kind == int(store.PriceLock) && pays != min(p.MinorUnits, v.MinorUnits):
			broken("purchase %s costs %d: %d were charged, and %d paid by a voucher", p.ID, p.MinorUnits, p.Charged, p.StoredValue)
		}
	}
	for _, p := range e.Postings {
		if p.Account == ledger.VoucherLiability {
			open[p.Currency] += p.MinorUnits // a liability is negative
		}
	}
	for currency, diff := range open {
		if diff != 0 {
			broken("%d %s more are left on vouchers than the ledger owes", diff, currency)
		}
	}
}

func choicesStand(e *Evidence, x *index, broken func(string, ...any)) {
	failed := map[string]bool{} // refunds that turned into a voucher: then that was chosen, too
	for _, r := range e.Refunds {
		if r.MakeGood && r.State == refundFailed {
			failed[r.Purchase] = true
		}
	}
	for _, c := range e.Choices {
		p := x.purchases[c.PurchaseID]
		if p == nil || p.State != map[bool]saga.State{true: saga.Voucher, false: saga.Refunded}[c.Choice == offerv1.MakeGood_MAKE_GOOD_VOUCHER || failed[p.ID]] {
			broken("viewer %d chose %v for purchase %s, which is not what it ended in", c.Viewer, c.Choice, c.PurchaseID)
		}
	}
}

func equationsHold(e *Evidence, _ *index, broken func(string, ...any)) {
	for _, q := range e.Equations {
		broken("%s: %s: %d and %d", q.About, q.Law, q.Left, q.Right)
	}
}

func oneParcelPerOrder(e *Evidence, _ *index, broken func(string, ...any)) {
	labels := map[string][]string{} // by order
	for _, p := range e.Parcels {
		labels[p.Order] = append(labels[p.Order], p.Label)
	}
	known := map[string]bool{}
	for _, o := range e.Orders {
		known[o.ID] = true
		var want []string
		if o.SKU != "" && ends[o.State] == saga.Shipped {
			want = []string{o.Tracking}
		}
		if !slices.Equal(labels[o.ID], want) {
			broken("order %s is in state %d with tracking %q, and left as %q", o.ID, o.State, o.Tracking, labels[o.ID])
		}
	}
	for order, l := range labels {
		if !known[order] {
			broken("order %s left as %q and is unknown", order, l)
		}
	}
}
