package balance_test

import (
	"strings"
	"testing"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/balance"
)

func books() (*verifierv1.GetAuditResponse, map[string]*fulfillmentv1.StockLevel) {
	return &verifierv1.GetAuditResponse{
			Drops: []*verifierv1.DropPurchases{{DropId: "d", Received: 5, Open: 1, Delivered: 3, Vouchers: 1, UnitsHeld: 3,
				CapturedMinorUnits: 300, ChargedMinorUnits: 400, RefundedMinorUnits: 100, PostedFeesMinorUnits: 40, FeesMinorUnits: 40}},
			Nodes: []*verifierv1.NodeRedemptions{{NodeId: "n", Received: 7, Holding: 3, Open: 1, Denied: 1, Released: 1, Redundant: 1}},
			Channels: []*verifierv1.ChannelBalance{{ChannelId: "c", CurrencyCode: "EUR", CapturedMinorUnits: 400, RefundedMinorUnits: 100,
				VoucherIssuedMinorUnits: 50, VoucherSpentMinorUnits: 20, RevenueMinorUnits: 270}},
			Vouchers: []*verifierv1.VoucherBalance{{CurrencyCode: "EUR", OpenMinorUnits: 30, LiabilityMinorUnits: 30}},
			Accounts: []*verifierv1.AccountBalance{
				{Account: "provider_receivable", CurrencyCode: "EUR", BalanceMinorUnits: 300}, {Account: "channel_revenue", CurrencyCode: "EUR", BalanceMinorUnits: -300},
			},
			Provider: []*verifierv1.ProviderBalance{{CurrencyCode: "EUR", LedgerMinorUnits: 300, ProviderMinorUnits: 300, LedgerFeesMinorUnits: 40, ProviderFeesMinorUnits: 40}},
		}, map[string]*fulfillmentv1.StockLevel{
			"d": {DropId: "d", Units: 10, Free: 4, Leased: 2, Sold: 4},
		}
}

func TestTheEquationsHoldOnGoodBooks(t *testing.T) {
	for _, e := range balance.Equations(books()) {
		if !e.Holds {
			t.Errorf("%s: %s: %d and %d", e.About, e.Law, e.Left, e.Right)
		}
	}
}

// Every law is broken once, and exactly that one must say so.
func TestEveryEquationCanFail(t *testing.T) {
	for _, c := range []struct {
		law    string
		damage func(*verifierv1.GetAuditResponse, map[string]*fulfillmentv1.StockLevel)
	}{
		{"free + leased", func(_ *verifierv1.GetAuditResponse, s map[string]*fulfillmentv1.StockLevel) { s["d"].Free++ }},
		{"units sold at fulfillment", func(_ *verifierv1.GetAuditResponse, s map[string]*fulfillmentv1.StockLevel) {
			s["d"].Sold, s["d"].Free = s["d"].Sold+1, s["d"].Free-1
		}},
		{"purchases = delivered", func(b *verifierv1.GetAuditResponse, _ map[string]*fulfillmentv1.StockLevel) { b.Drops[0].Received++ }},
		{"captured in the ledger", func(b *verifierv1.GetAuditResponse, _ map[string]*fulfillmentv1.StockLevel) {
			b.Drops[0].RefundedMinorUnits--
		}},
		{"redemptions =", func(b *verifierv1.GetAuditResponse, _ map[string]*fulfillmentv1.StockLevel) { b.Nodes[0].Received-- }},
		{"units held by all nodes", func(b *verifierv1.GetAuditResponse, _ map[string]*fulfillmentv1.StockLevel) {
			b.Nodes[0].Holding, b.Nodes[0].Received = b.Nodes[0].Holding+2, b.Nodes[0].Received+2
		}},
		{"captured - refunded - turned", func(b *verifierv1.GetAuditResponse, _ map[string]*fulfillmentv1.StockLevel) {
			b.Channels[0].VoucherSpentMinorUnits++
		}},
		{"open stored value", func(b *verifierv1.GetAuditResponse, _ map[string]*fulfillmentv1.StockLevel) {
			b.Vouchers[0].OpenMinorUnits++
		}},
		{"all accounts", func(b *verifierv1.GetAuditResponse, _ map[string]*fulfillmentv1.StockLevel) {
			b.Accounts[0].BalanceMinorUnits++
		}},
		{"captured - refunded by the provider", func(b *verifierv1.GetAuditResponse, _ map[string]*fulfillmentv1.StockLevel) {
			b.Provider[0].ProviderMinorUnits++
		}},
		{"fees kept by", func(b *verifierv1.GetAuditResponse, _ map[string]*fulfillmentv1.StockLevel) {
			b.Provider[0].ProviderFeesMinorUnits++
		}},
		{"payment fees in", func(b *verifierv1.GetAuditResponse, _ map[string]*fulfillmentv1.StockLevel) {
			b.Drops[0].PostedFeesMinorUnits++
		}},
		{"transactions that do not balance", func(b *verifierv1.GetAuditResponse, _ map[string]*fulfillmentv1.StockLevel) {
			b.UnbalancedTransactions = 1
		}},
		{"purchases captured twice", func(b *verifierv1.GetAuditResponse, _ map[string]*fulfillmentv1.StockLevel) { b.DoubleCaptures = 1 }},
		{"purchases of a drop", func(b *verifierv1.GetAuditResponse, _ map[string]*fulfillmentv1.StockLevel) {
			b.Drops = append(b.Drops, &verifierv1.DropPurchases{DropId: "unknown", Received: 1, Delivered: 1})
		}},
	} {
		b, s := books()
		c.damage(b, s)
		var failed []string
		for _, e := range balance.Equations(b, s) {
			if !e.Holds {
				failed = append(failed, e.Law)
			}
		}
		if len(failed) != 1 || !strings.HasPrefix(failed[0], c.law) {
			t.Errorf("%s: broke %v", c.law, failed)
		}
	}
}
