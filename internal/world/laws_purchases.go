package world

import (
	"slices"
	"time"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
	"github.com/rimlight/rimlight/verifier/saga"
)

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
		case p.Outcome != end.Outcome && !e.endsAgain(p, end):
			broken("viewer %d was told another outcome of purchase %s than the verifier keeps", end.Viewer, end.PurchaseID)
		case p.LicenceKey != end.LicenceKey && end.State == offerv1.PurchaseState(p.State).String():
			broken("viewer %d got another licence key for purchase %s than the verifier keeps", end.Viewer, end.PurchaseID)
		}
	}
	seen := map[string]bool{}
	for _, a := range e.Answers {
		if seen[a.Receipt] || x.lost[a.Receipt] {
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
		if p := x.purchases[n.PurchaseID]; p != nil && p.State != saga.Refused && !e.lostCancel(p.Token) {
			broken("viewer %d was told no for good, and purchase %s is %v", n.Viewer, p.ID, p.State)
		}
	}
	copies := slices.ContainsFunc(e.Config.Regions, e.Config.copied)
	for text, r := range x.receipts { // also of viewers who never got the answer
		if x.unreadable[text] { // a client may have it: then it has an end, above
			continue
		}
		if p := x.byToken[r.token]; p == nil {
			broken("purchase %s was accepted and never reached the verifier", r.purchase)
		} else if !p.State.Final() {
			broken("purchase %s is still %v", p.ID, p.State)
		} else if !slices.ContainsFunc(x.candidates[r.token], func(c *Candidate) bool { return c.Receipt == text || copies && c.is(r) }) {
			broken("a receipt of purchase %s, unit %d, is unknown to the verifier", r.purchase, r.serial)
		}
	}
}

func noUnitDenied(e *Evidence, x *index, broken func(string, ...any)) {
	torn := e.torn(x)
	for _, p := range e.Purchases {
		if p.Reason != saga.UnitDenied {
			continue
		}
		if end, given := e.givenUp(p.Lease, p.Serial); given && p.Arrived+2*maxSkew >= end { // both times are of a clock that steps
			continue
		}
		for _, c := range x.candidates[p.Token] {
			_, given := e.Tombstones[c.Lease]
			waited := !given && e.cameBefore(c, p.Ended-2*maxSkew) // behind the one that was denied, so it was to be promoted
			if same := c.Lease == p.Lease && c.Serial == p.Serial; (same || waited) && !torn[c.unit()] && !e.lostRelease(c, x.candidates[p.Token]) {
				broken("purchase %s was denied unit %d of lease %s", p.ID, c.Serial, c.Lease)
			}
		}
	}
}

// cameBefore tells redemptions that surely reached the verifier before a moment: a purchase that came later did.
func (e *Evidence) cameBefore(c *Candidate, at time.Duration) bool {
	return slices.ContainsFunc(e.Purchases, func(p Purchase) bool { return p.Arrival > c.Arrival && p.Arrived < at })
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
		if p.State.Earned() {
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
		if want := p.State.Earned(); winners > 1 || want && winners != 1 {
			broken("purchase %s is %v and has %d winners", p.ID, p.State, winners)
		}
	}
}

func replaysAgree(e *Evidence, x *index, broken func(string, ...any)) {
	answers := map[[2]string]string{} // by who was asked and purchase
	for _, a := range e.Answers {
		key := [2]string{a.Region, a.PurchaseID}
		r, genuine := x.receipts[a.Receipt]
		first, again := answers[key]
		was := x.receipts[first]
		same := was.epoch == r.epoch // a lost disk forgets
		if was.nodeID != r.nodeID {
			same = e.Config.nodesIn(a.Region) == 1 // of two, one may answer with what the other accepted
		}
		if again && first != a.Receipt && same && !e.Config.copied(a.Region) { // copies know different things
			broken("%s answered purchase %s with two receipts", a.Region, a.PurchaseID)
		}
		answers[key] = a.Receipt
		if genuine && r.purchase != a.PurchaseID {
			broken("%s answered purchase %s with a receipt of %s", a.Region, a.PurchaseID, r.purchase)
		}
	}
	ends := map[string][]string{}
	for _, end := range e.Endings {
		if !slices.Contains(ends[end.PurchaseID], end.Outcome) {
			ends[end.PurchaseID] = append(ends[end.PurchaseID], end.Outcome)
		}
	}
	for id, outcomes := range ends { // I3 compares what they say
		if len(outcomes) > 1+len(e.lives(id)) {
			broken("purchase %s has %d outcomes", id, len(outcomes))
		}
	}
}

// orderDead stands for the states that follow a dead order.
const orderDead saga.State = -1

// ends are what the ends of an order make of its purchase.
var ends = map[int]saga.State{
	int(fulfillmentv1.OrderState_ORDER_STATE_DELIVERED): saga.Delivered,
	int(fulfillmentv1.OrderState_ORDER_STATE_SHIPPED):   saga.Shipped,
	int(fulfillmentv1.OrderState_ORDER_STATE_DEAD):      orderDead,
}

func jobsHaveEffects(e *Evidence, x *index, broken func(string, ...any)) {
	for _, j := range e.Jobs {
		broken("a job %q is not done", j.Kind)
	}
	orders := map[string]Order{}
	for _, o := range e.Orders {
		orders[o.Purchase] = o
		p := x.purchases[o.Purchase]
		if p == nil || ends[o.State] == 0 || p.State != ends[o.State] && !(ends[o.State] == orderDead && p.Reason == saga.OrderFailed) {
			broken("order %s, in state %d, does not agree with its purchase %s", o.ID, o.State, o.Purchase)
		}
	}
	for _, p := range e.Purchases {
		if !p.State.Earned() && p.Reason != saga.OrderFailed {
			continue
		}
		o, placed := orders[p.ID]
		switch {
		case !placed:
			broken("purchase %s is %v and has no order", p.ID, p.State)
		case o.Serial != p.Serial || o.Drop != p.Drop || o.LicenceKey != p.LicenceKey:
			broken("purchase %s, unit %d, does not agree with its order, unit %d", p.ID, p.Serial, o.Serial)
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
