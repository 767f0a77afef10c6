// Package balance writes what must be conserved down as equations: units and money, per drop, channel and node, over what
// the verifier and fulfillment report of themselves.
//
//	GetAudit ── purchases, ledger, provider ──┐
//	                                          ├── Read ── Equations ── "left = right", or off by what is on its way
//	ListDrops ─────────── stock ──────────────┘
//
// The two books are read one after the other while purchases move, so an equation that is broken once may hold in the next
// reading: who asks reads again. It repairs nothing.
package balance

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
)

// Equation is one conservation law with its two sides as they were read.
type Equation struct {
	About string `json:"about"`
	Law   string `json:"law"`
	Left  int64  `json:"left"`
	Right int64  `json:"right"`
	// InFlight is by how much the sides may differ while purchases are on their way.
	InFlight int64 `json:"inFlight"`
	Holds    bool  `json:"holds"`
}

func (e Equation) check() Equation {
	diff := e.Left - e.Right
	e.Holds = diff >= -e.InFlight && diff <= e.InFlight
	return e
}

// Broken are those that do not hold.
func Broken(all []Equation) (not []Equation) {
	for _, e := range all {
		if !e.Holds {
			not = append(not, e)
		}
	}
	return not
}

// Read asks the verifier and fulfillment, page by page; of one drop alone, if only is not empty. The error is the status that
// one of them answered.
func Read(ctx context.Context, verifier, fulfillment grpc.ClientConnInterface, only string) ([]Equation, error) {
	books := &verifierv1.GetAuditResponse{}
	for page := ""; ; {
		resp, err := verifierv1.NewSupportServiceClient(verifier).GetAudit(ctx, &verifierv1.GetAuditRequest{DropId: only, PageToken: page})
		if err != nil {
			return nil, err
		}
		proto.Merge(books, resp) // drops and nodes go on; everything else is on the first page only
		if page = resp.GetNextPageToken(); page == "" {
			break
		}
	}
	stock := map[string]*fulfillmentv1.StockLevel{}
	for page := ""; ; {
		resp, err := fulfillmentv1.NewCatalogServiceClient(fulfillment).ListDrops(ctx, &fulfillmentv1.ListDropsRequest{PageSize: 500, PageToken: page})
		if err != nil {
			return nil, err
		}
		for _, d := range resp.GetDrops() {
			if id := d.GetDrop().GetDrop().GetDropId(); only == "" || only == id {
				stock[id] = d.GetStock()
			}
		}
		if page = resp.GetNextPageToken(); page == "" {
			break
		}
	}
	return Equations(books, stock), nil
}

// Equations writes the books down as laws.
func Equations(books *verifierv1.GetAuditResponse, stock map[string]*fulfillmentv1.StockLevel) []Equation {
	var all []Equation
	purchases := map[string]*verifierv1.DropPurchases{}
	for _, d := range books.GetDrops() {
		purchases[d.GetDropId()] = d
	}
	for _, id := range slices.Sorted(maps.Keys(stock)) {
		st, p := stock[id], purchases[id]
		open := int64(p.GetOpen())
		all = append(all,
			Equation{About: "drop " + id, Law: "free + leased + quarantined + sold = units",
				Left: int64(st.GetFree() + st.GetLeased() + st.GetQuarantined() + st.GetSold()), Right: int64(st.GetUnits())},
			Equation{About: "drop " + id, Law: "units sold at fulfillment = units held by purchases", Left: int64(st.GetSold()), Right: int64(p.GetUnitsHeld()), InFlight: open},
			Equation{About: "drop " + id, Law: "purchases = delivered + vouchers + refused + refunded + open",
				Left: int64(p.GetReceived()), Right: int64(p.GetDelivered() + p.GetVouchers() + p.GetRefused() + p.GetRefunded() + p.GetOpen())},
			Equation{About: "drop " + id, Law: "units held = purchases delivered", Left: int64(p.GetUnitsHeld()), Right: int64(p.GetDelivered()), InFlight: open},
			Equation{About: "drop " + id, Law: "captured in the ledger = charged - refunded (minor units)",
				Left: p.GetCapturedMinorUnits(), Right: p.GetChargedMinorUnits() - p.GetRefundedMinorUnits()},
			Equation{About: "drop " + id, Law: "payment fees in the ledger = fees of purchases (minor units)",
				Left: p.GetPostedFeesMinorUnits(), Right: p.GetFeesMinorUnits()},
		)
	}
	for _, id := range slices.Sorted(maps.Keys(purchases)) {
		if stock[id] == nil {
			all = append(all, Equation{About: "drop " + id, Law: "purchases of a drop that fulfillment does not know = 0", Left: int64(purchases[id].GetReceived())})
		}
	}
	for _, n := range books.GetNodes() {
		all = append(all, Equation{About: "node " + n.GetNodeId(), Law: "redemptions = holding + open + denied + released + redundant",
			Left: int64(n.GetReceived()), Right: int64(n.GetHolding() + n.GetOpen() + n.GetDenied() + n.GetReleased() + n.GetRedundant())})
	}
	if c := books.GetNodes(); len(c) > 0 { // every unit that a purchase holds came from some node
		var byNode, byDrop int64
		for _, n := range c {
			byNode += int64(n.GetHolding())
		}
		var open int64
		for _, d := range books.GetDrops() {
			byDrop += int64(d.GetUnitsHeld())
			open += int64(d.GetOpen())
		}
		all = append(all, Equation{About: "nodes", Law: "units held by all nodes' redemptions = units held by all drops' purchases", Left: byNode, Right: byDrop, InFlight: open})
	}
	for _, ch := range books.GetChannels() {
		all = append(all, Equation{About: "channel " + ch.GetChannelId() + " " + ch.GetCurrencyCode(),
			Law:   "captured - refunded - turned into vouchers + paid with vouchers = revenue in the ledger (minor units)",
			Left:  ch.GetCapturedMinorUnits() - ch.GetRefundedMinorUnits() - ch.GetVoucherIssuedMinorUnits() + ch.GetVoucherSpentMinorUnits(),
			Right: ch.GetRevenueMinorUnits()})
	}
	for _, v := range books.GetVouchers() {
		all = append(all, Equation{About: "vouchers " + v.GetCurrencyCode(), Law: "open stored value = liability in the ledger (minor units)",
			Left: v.GetOpenMinorUnits(), Right: v.GetLiabilityMinorUnits()})
	}
	sums := map[string]int64{}
	for _, a := range books.GetAccounts() {
		sums[a.GetCurrencyCode()] += a.GetBalanceMinorUnits()
	}
	for _, currency := range slices.Sorted(maps.Keys(sums)) {
		all = append(all, Equation{About: "ledger " + currency, Law: "all accounts sum to 0", Left: sums[currency]})
	}
	// Money that the provider took a moment ago and the ledger has not posted yet can be anything while purchases are open.
	for _, p := range books.GetProvider() {
		all = append(all,
			Equation{About: "provider " + p.GetCurrencyCode(), Law: "captured - refunded by the provider = the same in the ledger (minor units)",
				Left: p.GetProviderMinorUnits(), Right: p.GetLedgerMinorUnits()},
			Equation{About: "provider " + p.GetCurrencyCode(), Law: "fees kept by the provider = the same in the ledger (minor units)",
				Left: p.GetProviderFeesMinorUnits(), Right: p.GetLedgerFeesMinorUnits()})
	}
	all = append(all,
		Equation{About: "ledger", Law: "transactions that do not balance = 0", Left: int64(books.GetUnbalancedTransactions())},
		Equation{About: "payments", Law: "purchases captured twice = 0", Left: int64(books.GetDoubleCaptures())},
	)
	for i := range all {
		all[i] = all[i].check()
	}
	return all
}
