package world

import (
	"maps"
	"slices"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
	"github.com/rimlight/rimlight/verifier/ledger"
	"github.com/rimlight/rimlight/verifier/saga"
)

func oneCapture(e *Evidence, x *index, broken func(string, ...any)) {
	charges, provider, posted := map[string]int{}, map[string]int64{}, map[string]int64{}
	for _, c := range e.Charges {
		charges[c.Purchase]++
		provider[c.Currency] += c.MinorUnits
		p := x.purchases[c.Purchase]
		switch {
		case p == nil:
			broken("a charge for purchase %s, which the verifier does not know", c.Purchase)
		case p.MinorUnits != c.MinorUnits || p.Currency != c.Currency:
			broken("purchase %s costs %d %s and was charged %d %s", c.Purchase, p.MinorUnits, p.Currency, c.MinorUnits, c.Currency)
		}
	}
	for _, p := range e.Purchases {
		want := 0
		if p.State == saga.Captured || p.State == saga.Ordered || p.State == saga.Delivered {
			want = 1
		}
		if charges[p.ID] != want {
			broken("purchase %s is %v and was charged %d times", p.ID, p.State, charges[p.ID])
		}
	}
	for _, p := range e.Postings {
		if p.Account == ledger.ProviderReceivable {
			posted[p.Currency] += p.MinorUnits
		}
	}
	if !maps.Equal(provider, posted) {
		broken("the provider's books say %v, the ledger says %v", provider, posted)
	}
}

func everyReceiptEnds(e *Evidence, x *index, broken func(string, ...any)) {
	for _, f := range x.forged {
		broken("%s", f)
	}
	keys, endings := e.keys(), map[string][]Ending{}
	for _, end := range e.Endings {
		endings[end.Receipt] = append(endings[end.Receipt], end)
		p := x.purchases[end.PurchaseID]
		outcome, err := keys.OpenOutcome(end.Outcome)
		switch {
		case err != nil:
			broken("viewer %d was told an outcome of purchase %s that does not verify: %v", end.Viewer, end.PurchaseID, err)
		case outcome.GetPurchaseId() != end.PurchaseID || outcome.GetState().String() != end.State:
			broken("viewer %d was told that purchase %s is %s, the signed outcome says %s %v",
				end.Viewer, end.PurchaseID, end.State, outcome.GetPurchaseId(), outcome.GetState())
		case p == nil:
			broken("viewer %d was told the end of purchase %s, which the verifier does not know", end.Viewer, end.PurchaseID)
		case p.Outcome != end.Outcome:
			broken("viewer %d was told another outcome of purchase %s than the verifier keeps", end.Viewer, end.PurchaseID)
		case p.LicenceKey != end.LicenceKey:
			broken("viewer %d got another licence key for purchase %s than the verifier keeps", end.Viewer, end.PurchaseID)
		}
	}
	seen := map[string]bool{}
	for _, a := range e.Answers {
		if seen[a.Receipt] {
			continue
		}
		seen[a.Receipt] = true
		if len(endings[a.Receipt]) == 0 {
			broken("viewer %d holds a receipt of purchase %s from %s and never heard its end", a.Viewer, a.PurchaseID, a.Region)
		}
		for _, end := range endings[a.Receipt] {
			if end.PurchaseID != a.PurchaseID {
				broken("a receipt of purchase %s ended as purchase %s", a.PurchaseID, end.PurchaseID)
			}
		}
	}
	for _, n := range e.Noes {
		if p := x.purchases[n.PurchaseID]; p != nil && p.State != saga.Refused {
			broken("viewer %d was told no for good, and purchase %s is %v", n.Viewer, p.ID, p.State)
		}
	}
	for text, r := range x.receipts { // also of viewers who never got the answer
		if x.unreadable[text] { // a client may have it: then it has an end, above
			continue
		}
		if p := x.byToken[r.token]; p == nil {
			broken("purchase %s was accepted and never reached the verifier", r.purchase)
		} else if !p.State.Final() {
			broken("purchase %s is still %v", p.ID, p.State)
		} else if !slices.ContainsFunc(x.candidates[r.token], func(c *Candidate) bool { return c.Receipt == text }) {
			broken("a receipt of purchase %s, unit %d, is unknown to the verifier", r.purchase, r.serial)
		}
	}
}

func noUnitDenied(e *Evidence, _ *index, broken func(string, ...any)) {
	for _, p := range e.Purchases {
		end, given := e.Tombstones[p.Lease]
		if p.Reason == saga.UnitDenied && (!given || p.Arrived+2*maxSkew < end) { // both times are of a clock that steps
			broken("purchase %s was denied unit %d of lease %s", p.ID, p.Serial, p.Lease)
		}
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
	vouchers := map[string]int{}
	for _, v := range e.Vouchers {
		vouchers[v.Token]++
		if x.byToken[v.Token] == nil {
			broken("a voucher without a purchase")
		}
	}
	for _, p := range e.Purchases {
		want := 0
		if p.State == saga.Voucher {
			want = 1
		}
		if vouchers[p.Token] != want {
			broken("purchase %s is %v and has %d vouchers", p.ID, p.State, vouchers[p.Token])
		}
	}
}

func oneWinner(e *Evidence, x *index, broken func(string, ...any)) {
	sessions := map[string]string{}
	for _, r := range x.receipts {
		if other, known := sessions[r.token]; known && other != r.session {
			broken("the token of purchase %s was redeemed under two sessions", r.purchase)
		}
		sessions[r.token] = r.session
		if r.late > dropclock.Grace {
			broken("purchase %s was accepted %v after its token's time", r.purchase, r.late)
		}
	}
	share := map[[2]string]int{}
	for _, p := range e.Purchases {
		if session, known := sessions[p.Token]; known && session != p.Session {
			broken("purchase %s belongs to another session than its receipts", p.ID)
		}
		if p.State == saga.Delivered {
			if share[[2]string{p.Drop, p.Session}]++; share[[2]string{p.Drop, p.Session}] > 1 {
				broken("one session got %d units of drop %s", share[[2]string{p.Drop, p.Session}], p.Drop)
			}
		}
		winners := 0
		for _, c := range x.candidates[p.Token] {
			if c.State == winner {
				winners++
			}
		}
		if want := p.State == saga.Delivered; winners > 1 || want && winners != 1 {
			broken("purchase %s is %v and has %d winners", p.ID, p.State, winners)
		}
	}
}

func replaysAgree(e *Evidence, x *index, broken func(string, ...any)) {
	answers := map[[2]string]string{} // by region and purchase
	for _, a := range e.Answers {
		key := [2]string{a.Region, a.PurchaseID}
		r, genuine := x.receipts[a.Receipt]
		first, again := answers[key]
		if was := x.receipts[first]; again && first != a.Receipt && (was.nodeID != r.nodeID || was.epoch == r.epoch) { // a lost disk forgets
			broken("%s answered purchase %s with two receipts", a.Region, a.PurchaseID)
		}
		answers[key] = a.Receipt
		if genuine && r.purchase != a.PurchaseID {
			broken("%s answered purchase %s with a receipt of %s", a.Region, a.PurchaseID, r.purchase)
		}
	}
	ends := map[string]string{}
	for _, end := range e.Endings {
		if first, again := ends[end.PurchaseID]; again && first != end.Outcome {
			broken("purchase %s has two outcomes", end.PurchaseID)
		}
		ends[end.PurchaseID] = end.Outcome
	}
}

func jobsHaveEffects(e *Evidence, x *index, broken func(string, ...any)) {
	for _, j := range e.Jobs {
		broken("a job %q is not done", j.Kind)
	}
	orders := map[string]Order{}
	for _, o := range e.Orders {
		orders[o.Purchase] = o
		if p := x.purchases[o.Purchase]; p == nil || p.State != saga.Delivered {
			broken("order %s is for purchase %s, which is not delivered", o.ID, o.Purchase)
		}
	}
	for _, p := range e.Purchases {
		if p.State != saga.Delivered {
			continue
		}
		o, placed := orders[p.ID]
		switch {
		case !placed:
			broken("purchase %s is delivered and has no order", p.ID)
		case o.State != int(fulfillmentv1.OrderState_ORDER_STATE_DELIVERED) || o.Serial != p.Serial || o.Drop != p.Drop || o.LicenceKey != p.LicenceKey:
			broken("purchase %s, unit %d, does not agree with its order, unit %d in state %d", p.ID, p.Serial, o.Serial, o.State)
		}
	}
	units := map[[2]string]Unit{}
	for _, u := range e.Units {
		units[[2]string{u.Lease, u.Token}] = u
	}
	for _, c := range e.Candidates {
		p := x.byToken[c.Token]
		switch {
		case p == nil:
			broken("a redemption of unit %d without a purchase", c.Serial)
		case c.State == toRelease:
			broken("unit %d of purchase %s waits for its release", c.Serial, p.ID)
		case c.State == released && units[[2]string{c.Lease, c.Token}].Serial == c.Serial:
			broken("unit %d of purchase %s is released, and fulfillment has it sold to it", c.Serial, p.ID)
		}
	}
}
