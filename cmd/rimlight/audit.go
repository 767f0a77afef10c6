package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

// auditTries and auditPause: the two books are read one after the other while purchases move, so an equation counts as
// broken only when it stays broken over several readings.
const (
	auditTries = 5
	auditPause = time.Second
)

type auditCmd struct {
	clientFlags
	Drop      string `help:"Only this drop."`
	Operators bool   `help:"Instead: who changed what through the routers, and why."`
}

// equation is one conservation law with its two sides as they were read.
type equation struct {
	About string `json:"about"`
	Law   string `json:"law"`
	Left  int64  `json:"left"`
	Right int64  `json:"right"`
	// InFlight is by how much the sides may differ while purchases are on their way.
	InFlight int64 `json:"inFlight"`
	Holds    bool  `json:"holds"`
}

func (e equation) check() equation {
	diff := e.Left - e.Right
	e.Holds = diff >= -e.InFlight && diff <= e.InFlight
	return e
}

func (c *auditCmd) Run(ctx context.Context, s *streams) error {
	if c.Operators {
		return c.operators(ctx, s)
	}
	conn, err := c.dial(auth.Finance)
	if err != nil {
		return err
	}
	defer conn.Close()
	var all []equation
	for try := 1; ; try++ {
		if all, err = c.read(ctx, conn); err != nil {
			return err
		}
		if broken(all) == 0 || try == auditTries {
			break
		}
		select {
		case <-time.After(auditPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := c.showAudit(s, all); err != nil {
		return err
	}
	if n := broken(all); n > 0 {
		return refusal{fmt.Sprintf("%d of %d equations do not hold", n, len(all))}
	}
	return nil
}

// operators lists what operators changed.
func (c *auditCmd) operators(ctx context.Context, s *streams) error {
	return c.call(ctx, auth.SRE, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := routerv1.NewRouterAdminServiceClient(conn).ListAuditEntries(ctx, &routerv1.ListAuditEntriesRequest{})
		if err != nil {
			return err
		}
		warnSilent(s, resp.GetSilentRouters())
		return c.print(s, resp, func(w io.Writer) {
			row(w, "TIME", "WHO", "ROUTER", "WHAT", "TARGET", "BEFORE", "ASKED", "AFTER", "PROBLEM", "WHY")
			for _, e := range resp.GetEntries() {
				_, method, _ := strings.Cut(strings.TrimPrefix(e.GetMethod(), "/"), "/")
				row(w, e.GetTime().AsTime().Local().Format(time.DateTime), e.GetRole(), e.GetRouter(), method, e.GetTarget(), e.GetBefore(),
					e.GetAsked(), cmp.Or(e.GetAfter(), "-"), cmp.Or(e.GetProblem(), "-"), e.GetReason())
			}
		})
	})
}

func broken(all []equation) (n int) {
	for _, e := range all {
		if !e.Holds {
			n++
		}
	}
	return n
}

func (c *auditCmd) read(ctx context.Context, conn grpc.ClientConnInterface) ([]equation, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	books := &verifierv1.GetAuditResponse{}
	for page := ""; ; {
		resp, err := verifierv1.NewSupportServiceClient(conn).GetAudit(ctx, &verifierv1.GetAuditRequest{DropId: c.Drop, PageToken: page})
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
		resp, err := fulfillmentv1.NewCatalogServiceClient(conn).ListDrops(ctx, &fulfillmentv1.ListDropsRequest{PageSize: 500, PageToken: page})
		if err != nil {
			return nil, err
		}
		for _, d := range resp.GetDrops() {
			if id := d.GetDrop().GetDrop().GetDropId(); c.Drop == "" || c.Drop == id {
				stock[id] = d.GetStock()
			}
		}
		if page = resp.GetNextPageToken(); page == "" {
			break
		}
	}
	return equations(books, stock), nil
}

// equations writes the books down as laws.
func equations(books *verifierv1.GetAuditResponse, stock map[string]*fulfillmentv1.StockLevel) []equation {
	var all []equation
	purchases := map[string]*verifierv1.DropPurchases{}
	for _, d := range books.GetDrops() {
		purchases[d.GetDropId()] = d
	}
	for _, id := range slices.Sorted(maps.Keys(stock)) {
		st, p := stock[id], purchases[id]
		open := int64(p.GetOpen())
		all = append(all,
			equation{About: "drop " + id, Law: "free + leased + quarantined + sold = units",
				Left: int64(st.GetFree() + st.GetLeased() + st.GetQuarantined() + st.GetSold()), Right: int64(st.GetUnits())},
			equation{About: "drop " + id, Law: "units sold at fulfillment = units held by purchases", Left: int64(st.GetSold()), Right: int64(p.GetUnitsHeld()), InFlight: open},
			equation{About: "drop " + id, Law: "purchases = delivered + vouchers + refused + refunded + open",
				Left: int64(p.GetReceived()), Right: int64(p.GetDelivered() + p.GetVouchers() + p.GetRefused() + p.GetRefunded() + p.GetOpen())},
			equation{About: "drop " + id, Law: "units held = purchases delivered", Left: int64(p.GetUnitsHeld()), Right: int64(p.GetDelivered()), InFlight: open},
			equation{About: "drop " + id, Law: "captured in the ledger = charged - refunded (minor units)",
				Left: p.GetCapturedMinorUnits(), Right: p.GetChargedMinorUnits() - p.GetRefundedMinorUnits()},
		)
	}
	for _, id := range slices.Sorted(maps.Keys(purchases)) {
		if stock[id] == nil {
			all = append(all, equation{About: "drop " + id, Law: "purchases of a drop that fulfillment does not know = 0", Left: int64(purchases[id].GetReceived())})
		}
	}
	for _, n := range books.GetNodes() {
		all = append(all, equation{About: "node " + n.GetNodeId(), Law: "redemptions = holding + open + denied + released + redundant",
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
		all = append(all, equation{About: "nodes", Law: "units held by all nodes' redemptions = units held by all drops' purchases", Left: byNode, Right: byDrop, InFlight: open})
	}
	for _, ch := range books.GetChannels() {
		all = append(all, equation{About: "channel " + ch.GetChannelId() + " " + ch.GetCurrencyCode(),
			Law:   "captured - refunded - turned into vouchers + paid with vouchers = revenue in the ledger (minor units)",
			Left:  ch.GetCapturedMinorUnits() - ch.GetRefundedMinorUnits() - ch.GetVoucherIssuedMinorUnits() + ch.GetVoucherSpentMinorUnits(),
			Right: ch.GetRevenueMinorUnits()})
	}
	for _, v := range books.GetVouchers() {
		all = append(all, equation{About: "vouchers " + v.GetCurrencyCode(), Law: "open stored value = liability in the ledger (minor units)",
			Left: v.GetOpenMinorUnits(), Right: v.GetLiabilityMinorUnits()})
	}
	sums := map[string]int64{}
	for _, a := range books.GetAccounts() {
		sums[a.GetCurrencyCode()] += a.GetBalanceMinorUnits()
	}
	for _, currency := range slices.Sorted(maps.Keys(sums)) {
		all = append(all, equation{About: "ledger " + currency, Law: "all accounts sum to 0", Left: sums[currency]})
	}
	// Money that the provider took a moment ago and the ledger has not posted yet can be anything while purchases are open.
	for _, p := range books.GetProvider() {
		e := equation{About: "provider " + p.GetCurrencyCode(), Law: "captured - refunded by the provider = the same in the ledger (minor units)",
			Left: p.GetProviderMinorUnits(), Right: p.GetLedgerMinorUnits()}
		all = append(all, e)
	}
	all = append(all,
		equation{About: "ledger", Law: "transactions that do not balance = 0", Left: int64(books.GetUnbalancedTransactions())},
		equation{About: "payments", Law: "purchases captured twice = 0", Left: int64(books.GetDoubleCaptures())},
	)
	for i := range all {
		all[i] = all[i].check()
	}
	return all
}

func (c *auditCmd) showAudit(s *streams, all []equation) error {
	if c.Output == "json" {
		raw, err := json.Marshal(map[string]any{"equations": all, "holds": broken(all) == 0})
		if err != nil {
			return fmt.Errorf("encoding the audit: %w", err)
		}
		return printRawJSON(s.out, raw)
	}
	w := tabwriter.NewWriter(s.out, 0, 8, 2, ' ', 0)
	row(w, "HOLDS", "ABOUT", "LAW", "LEFT", "RIGHT", "IN FLIGHT")
	for _, e := range all {
		row(w, map[bool]string{true: "yes", false: "NO"}[e.Holds], e.About, e.Law, e.Left, e.Right, e.InFlight)
	}
	return w.Flush()
}
