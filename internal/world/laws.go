package world

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/verifier/ledger"
	"github.com/rimlight/rimlight/verifier/saga"
)

// law is one invariant of docs/settlement.md, section 6. check calls broken for everything that contradicts it.
type law struct {
	name, rule string
	check      func(e *Evidence, x *index, broken func(format string, args ...any))
}

// laws are all that apply. I9 needs an epoch that changes, hence a lost disk, which nothing recovers from yet.
var laws = []law{
	{"I1", "at most one order per unit, delivered no more than there are", oneOrderPerUnit},
	{"I2", "at most one capture per purchase, the provider's books equal the ledger", oneCapture},
	{"I3", "every receipt reaches exactly one terminal, signed outcome", everyReceiptEnds},
	{"I4", "no genuine winning receipt ends unit-denied", noUnitDenied},
	{"I5", "postings sum to zero, vouchers belong to failed purchases", booksBalance},
	{"I6", "one K, one viewer session, one winner; no session gets more than its share", oneWinner},
	{"I7", "free + leased + sold = stock, and nothing stays leased", stockAddsUp},
	{"I8", "the same request replayed gives the same answer", replaysAgree},
	{"I10", "a serial that a journal used is never handed out again by that node; receipts are one chain", serialsUsedOnce},
	{"I11", "a job that is done has its effect", jobsHaveEffects},
	{"I12", "no personal data in logs, metrics and errors", nothingLeaks},
	{"I13", "after healing every saga is terminal within T", everythingSettles},
	{"I14", "with willing buyers for three times the stock, at most 1 % stays unsold", stockSells},
	{"edge", "no INTERNAL, no UNKNOWN, no answer that the protocol does not know", answersAreTyped},
}

// index is the evidence by its keys.
type index struct {
	receipts   map[string]opened // by text; only genuine ones
	forged     []string          // what is wrong with the others
	purchases  map[string]*Purchase
	byToken    map[string]*Purchase
	candidates map[string][]*Candidate // by token
	drops      map[string]int          // id to place in Config.Drops
}

// opened is what a receipt says.
type opened struct {
	purchase, token, session, drop, lease, nodeID string
	serial                                        uint32
	previous                                      []byte
	late                                          time.Duration // accepted after the token's time
}

func newIndex(e *Evidence) *index {
	x := &index{
		receipts: map[string]opened{}, purchases: map[string]*Purchase{}, byToken: map[string]*Purchase{},
		candidates: map[string][]*Candidate{}, drops: map[string]int{},
	}
	keys := e.keys()
	see := func(text, where string) {
		if _, known := x.receipts[text]; known {
			return
		}
		r, offer, err := keys.OpenReceipt(text)
		if err != nil {
			x.forged = append(x.forged, fmt.Sprintf("a receipt %s: %v", where, err))
			return
		}
		x.receipts[text] = opened{
			purchase: r.GetPurchaseId(), token: hex.EncodeToString(offer.GetTokenId()), session: hex.EncodeToString(offer.GetViewerSessionId()),
			drop: ids.Text(offer.GetDropId()), lease: r.GetLeaseId(), nodeID: r.GetNodeId(), serial: r.GetSerial(),
			previous: r.GetPreviousReceiptHash(), late: r.GetAcceptTime().AsTime().Sub(time.UnixMicro(offer.GetExpireTimeUs())),
		}
	}
	for _, j := range e.Journals {
		for _, entry := range j.Entries {
			if entry.Kind == "redeemed" {
				see(entry.Receipt, fmt.Sprintf("in record %d of %s", entry.Sequence, j.Region))
			}
		}
	}
	for _, a := range e.Answers {
		see(a.Receipt, fmt.Sprintf("that viewer %d got from %s", a.Viewer, a.Region))
	}
	for i := range e.Purchases {
		p := &e.Purchases[i]
		x.purchases[p.ID], x.byToken[p.Token] = p, p
	}
	for i := range e.Candidates {
		c := &e.Candidates[i]
		x.candidates[c.Token] = append(x.candidates[c.Token], c)
	}
	for i, id := range e.DropIDs {
		x.drops[id] = i
	}
	return x
}

func oneOrderPerUnit(e *Evidence, x *index, broken func(string, ...any)) {
	orders, delivered, keys := map[string]string{}, map[string]int{}, map[string]string{}
	for _, o := range e.Orders {
		if o.State == int(fulfillmentv1.OrderState_ORDER_STATE_DEAD) {
			continue
		}
		unit := fmt.Sprintf("unit %d of drop %s", o.Serial, o.Drop)
		if other, taken := orders[unit]; taken {
			broken("%s has the orders %s and %s", unit, other, o.ID)
		}
		orders[unit] = o.ID
		if o.State == int(fulfillmentv1.OrderState_ORDER_STATE_DELIVERED) {
			delivered[o.Drop]++
			if other, taken := keys[o.LicenceKey]; taken {
				broken("the orders %s and %s have one licence key", other, o.ID)
			}
			keys[o.LicenceKey] = o.ID
		}
	}
	for id, i := range x.drops {
		if delivered[id] > e.Config.Drops[i].Units {
			broken("drop %s delivered %d of %d units", id, delivered[id], e.Config.Drops[i].Units)
		}
	}
}

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
	for text, r := range x.receipts { // also of viewers who never got the answer
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
	for _, p := range e.Purchases { // no lease is ever CLOSED here
		if p.Reason == saga.UnitDenied {
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

// States of a unit and of a candidate, as the stores number them.
const (
	free, leased, sold  = 1, 2, 3
	winner              = 1
	toRelease, released = 4, 5
)

func stockAddsUp(e *Evidence, x *index, broken func(string, ...any)) {
	count := map[string]int{}
	held := map[string]*Purchase{}
	for i := range e.Purchases {
		if p := &e.Purchases[i]; p.State == saga.Delivered {
			held[fmt.Sprintf("%s/%d", p.Drop, p.Serial)] = p
		}
	}
	for _, u := range e.Units {
		count[u.Drop]++
		p := held[fmt.Sprintf("%s/%d", u.Drop, u.Serial)]
		switch {
		case u.State == leased:
			broken("unit %d of drop %s is still leased", u.Serial, u.Drop)
		case u.State == sold && (p == nil || p.Token != u.Token):
			broken("unit %d of drop %s is sold, and no delivered purchase has it", u.Serial, u.Drop)
		case u.State == free && p != nil:
			broken("unit %d of drop %s is free, and purchase %s has it", u.Serial, u.Drop, p.ID)
		case u.State < free || u.State > sold:
			broken("unit %d of drop %s is in state %d", u.Serial, u.Drop, u.State)
		}
	}
	for id, i := range x.drops {
		if count[id] != e.Config.Drops[i].Units {
			broken("drop %s has %d units, %d were created", id, count[id], e.Config.Drops[i].Units)
		}
	}
}

func replaysAgree(e *Evidence, x *index, broken func(string, ...any)) {
	answers := map[[2]string]string{} // by region and purchase
	for _, a := range e.Answers {
		key := [2]string{a.Region, a.PurchaseID}
		if first, again := answers[key]; again && first != a.Receipt {
			broken("%s answered purchase %s with two receipts", a.Region, a.PurchaseID)
		}
		answers[key] = a.Receipt
		if r, genuine := x.receipts[a.Receipt]; genuine && r.purchase != a.PurchaseID {
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

func serialsUsedOnce(e *Evidence, x *index, broken func(string, ...any)) {
	for _, j := range e.Journals {
		units := map[string]string{} // lease and serial to what the journal last said of it
		var last []byte
		step := func(entry Entry, lease string, serial uint32, from, to string) {
			unit := fmt.Sprintf("unit %d of lease %s", serial, lease)
			if units[unit] != from {
				broken("%s, record %d: %s is %s after it was %q", j.Region, entry.Sequence, unit, to, units[unit])
			}
			units[unit] = to
		}
		for _, entry := range j.Entries {
			switch entry.Kind {
			case "leased":
				for _, serial := range entry.Serials {
					if unit := fmt.Sprintf("unit %d of lease %s", serial, entry.Lease); units[unit] == "" { // a lost answer's lease comes twice
						units[unit] = "leased"
					}
				}
			case "returned":
				for _, serial := range entry.Serials {
					step(entry, entry.Lease, serial, "leased", "returned")
				}
			case "redeemed":
				r, genuine := x.receipts[entry.Receipt]
				if !genuine {
					continue // I3 tells
				}
				step(entry, r.lease, r.serial, "leased", "used")
				if !bytes.Equal(last, r.previous) {
					broken("%s, record %d: the receipt does not follow the one before it", j.Region, entry.Sequence)
				}
				hash := sha256.Sum256([]byte(entry.Receipt))
				last = hash[:]
			}
		}
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

func nothingLeaks(e *Evidence, _ *index, broken func(string, ...any)) {
	for name, form := range canaryForms() {
		if i := strings.Index(e.Heard, form); i >= 0 {
			broken("a viewer's data (%s): ...%s...", name, strings.ReplaceAll(e.Heard[max(0, i-200):min(len(e.Heard), i+40)], form, "CANARY"))
		}
	}
	secret := map[string]string{}
	for _, a := range e.Answers {
		secret[a.Receipt] = "a receipt"
	}
	for _, end := range e.Endings {
		secret[end.Outcome] = "an outcome"
		if end.LicenceKey != "" {
			secret[end.LicenceKey] = "a licence key"
		}
	}
	isWord := func(r rune) bool {
		return r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z'
	}
	for word := range strings.FieldsFuncSeq(e.Heard, func(r rune) bool { return !isWord(r) }) {
		if kind, is := secret[word]; is {
			broken("%s, whole", kind)
		}
	}
}

// canaryForms are the spellings in which viewers' data could show.
func canaryForms() map[string]string {
	list := strings.Trim(fmt.Sprint([]byte(canary)), "[]")
	forms := map[string]string{
		"plain": canary, "hexadecimal": hex.EncodeToString([]byte(canary)),
		"decimal bytes": list, "decimal bytes, JSON": strings.ReplaceAll(list, " ", ","),
	}
	for shift := range 3 { // base64 has three spellings, by what comes before; the first and last characters mix with it
		text := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + canary))
		forms[fmt.Sprintf("base64, shift %d", shift)] = strings.TrimRight(text, "=")[shift+min(shift, 1) : len(strings.TrimRight(text, "="))-1]
	}
	return forms
}

func everythingSettles(e *Evidence, _ *index, broken func(string, ...any)) {
	if !e.Complete || e.Unfinished > 0 {
		broken("%v after the faults were over and the last drop closed, %d purchases, jobs, leases and drops are open, or a viewer waits",
			e.Config.HealWithin, e.Unfinished)
	}
	for i, state := range e.DropStates {
		if state != "settled" {
			broken("drop %d is %s", i, state)
		}
	}
}

// resale is how long a unit that comes back needs to find another buyer: the release, a heartbeat and a grant.
const resale = 5 * time.Second

func stockSells(e *Evidence, x *index, broken func(string, ...any)) {
	for id, i := range x.drops {
		d := e.Config.Drops[i]
		if e.WillingOfDrop[i] < 3*d.Units {
			continue
		}
		end, unsold, dead := d.Opens+d.Lasts, 0, e.heldByTheDead(d.Opens+d.Lasts)
		for _, u := range e.Units {
			// A unit that its buyer did not pay for, and that came back when nobody could ask any more, is not the
			// platform's to sell. Neither is what a dead node holds.
			if u.Drop == id && u.State != sold && u.Released < end-resale && !dead[fmt.Sprintf("%s/%d", id, u.Serial)] {
				unsold++
			}
		}
		if unsold*100 > d.Units {
			broken("%d of %d units of drop %q stayed unsold with %d willing buyers", unsold, d.Units, d.Title, e.WillingOfDrop[i])
		}
	}
}

// heldByTheDead are units, as "drop/serial", that nodes gave back unsold which were down in the last moments before an
// instant. A journal has no times: what such a node gave back earlier counts too, and was for others to sell.
func (e *Evidence) heldByTheDead(at time.Duration) map[string]bool {
	held := map[string]bool{}
	for _, j := range e.Journals {
		down := slices.ContainsFunc(e.Outages, func(o Outage) bool {
			return o.Host == j.Region && o.At < at && o.At+o.For > at-resale
		})
		if !down {
			continue
		}
		drops := map[string]string{} // by lease
		for _, entry := range j.Entries {
			switch entry.Kind {
			case "leased":
				drops[entry.Lease] = entry.Drop
			case "returned":
				for _, serial := range entry.Serials {
					held[fmt.Sprintf("%s/%d", drops[entry.Lease], serial)] = true
				}
			}
		}
	}
	return held
}

func answersAreTyped(e *Evidence, _ *index, broken func(string, ...any)) {
	for _, what := range slices.Sorted(maps.Keys(e.Misdeeds)) {
		broken("%d times: %s", e.Misdeeds[what], what)
	}
	for _, s := range e.Surprises {
		broken("%s", s)
	}
}
