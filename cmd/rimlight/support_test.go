package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
)

// fakeSupport is a verifier that knows one thing of each kind with everything in it, and one with nothing.
type fakeSupport struct {
	verifierv1.UnimplementedSupportServiceServer
}

// FindPurchases implements verifierv1.SupportServiceServer.
func (fakeSupport) FindPurchases(context.Context, *verifierv1.FindPurchasesRequest) (*verifierv1.FindPurchasesResponse, error) {
	price := &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 1900}
	return &verifierv1.FindPurchasesResponse{Purchases: []*verifierv1.FoundPurchase{
		{
			PurchaseId: "p1", DropId: "d1", State: offerv1.PurchaseState_PURCHASE_STATE_VOUCHER, Reason: errorsv1.Reason_REASON_ORDER_FAILED,
			AcceptTime: goldenTime, Price: price, Charged: price, Refunded: price, OrderId: "o1", VoucherId: "v1",
		},
		{PurchaseId: "p2", DropId: "d1", State: offerv1.PurchaseState_PURCHASE_STATE_RECEIVED, AcceptTime: goldenTime, Price: price},
	}}, nil
}

// ListVouchers implements verifierv1.SupportServiceServer.
func (fakeSupport) ListVouchers(context.Context, *verifierv1.ListVouchersRequest) (*verifierv1.ListVouchersResponse, error) {
	voucher := &offerv1.Voucher{
		VoucherId: "v1", Kind: offerv1.VoucherKind_VOUCHER_KIND_PRICE_LOCK, Price: &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 1900},
		ExpireTime: timestamppb.New(time.Date(2026, 12, 22, 0, 0, 0, 0, time.UTC)),
	}
	return &verifierv1.ListVouchersResponse{Vouchers: []*verifierv1.VoucherRecord{
		{Voucher: voucher, Remaining: voucher.GetPrice(), ChannelId: "aurora", Reason: errorsv1.Reason_REASON_PAYMENT_DECLINED, PurchaseId: "p1", UsedBy: []string{"p2", "p3"}},
		{Voucher: voucher, Remaining: voucher.GetPrice(), PurchaseId: "p2"},
	}}, nil
}

// ListWebhooks implements verifierv1.SupportServiceServer.
func (fakeSupport) ListWebhooks(context.Context, *verifierv1.ListWebhooksRequest) (*verifierv1.ListWebhooksResponse, error) {
	return &verifierv1.ListWebhooksResponse{Webhooks: []*verifierv1.Webhook{
		{
			WebhookId: "w1", Url: "https://a.example/", State: verifierv1.WebhookState_WEBHOOK_STATE_ACTIVE, Cursor: 7, Behind: 3,
			FailingSinceTime: goldenTime, RetryTime: goldenTime, Problem: "the endpoint answered 500",
		},
		{WebhookId: "w2", Url: "https://b.example/", State: verifierv1.WebhookState_WEBHOOK_STATE_ACTIVE, Cursor: 10},
	}}, nil
}

// GetDropReport implements verifierv1.SupportServiceServer.
func (fakeSupport) GetDropReport(_ context.Context, r *verifierv1.GetDropReportRequest) (*verifierv1.GetDropReportResponse, error) {
	sums := &verifierv1.DropMoney{CapturedMinorUnits: 3800, NetMinorUnits: 3800, FeesMinorUnits: 170, NetAfterFeesMinorUnits: 3630}
	return &verifierv1.GetDropReportResponse{
		DropId: r.GetDropId(), Title: "A print", Final: true, Units: 10, Unsold: 8, Offered: 5, Redeemed: 2, Settled: 2, CurrencyCode: "EUR", Ledger: sums, Purchases: sums,
		Agrees: true, TimeBack: durationpb.New(7500 * time.Millisecond),
	}, nil
}

// fakeOrders is a fulfillment whose one depot is lost with an order in every state.
type fakeOrders struct {
	fulfillmentv1.UnimplementedOrderServiceServer
}

// RequeueOrders implements fulfillmentv1.OrderServiceServer.
func (fakeOrders) RequeueOrders(_ context.Context, r *fulfillmentv1.RequeueOrdersRequest) (*fulfillmentv1.RequeueOrdersResponse, error) {
	if r.GetNodeId() != "0198" || r.GetReason() != "burnt down" {
		return nil, status.Errorf(codes.InvalidArgument, "got %v", r)
	}
	said := map[bool]string{false: "1 cleared: left alone.", true: "1 cleared: dead."}
	return &fulfillmentv1.RequeueOrdersResponse{
		SeenTime: goldenTime, Requeued: 3, Dead: 2, Cleared: 1, Consequences: []string{"3 not accepted: they go to another depot.", said[r.GetIncludeCleared()]},
	}, nil
}

// What an operator reads before a lost depot's orders are taken, and after.
func TestRequeueTables(t *testing.T) {
	f := startFakeAdmin(t)
	for name, flag := range map[string]string{"orders-requeue-dry-run": "--dry-run", "orders-requeue": "--cleared"} {
		code, out, errOut := f.verb(t, "orders", "requeue", "--node", "0198", "--reason", "burnt down", flag)
		if code != exitDone || errOut != "" {
			t.Fatalf("%s: exit %d, %s", name, code, errOut)
		}
		golden(t, name, strings.ReplaceAll(out, clock(goldenTime), "12:04:05"))
	}
	if code, _, _ := f.verb(t, "orders", "requeue", "--node", "0198"); code != exitUsage {
		t.Errorf("without a reason: exit %d", code)
	}
}

func TestADropReportTellsTimeBack(t *testing.T) {
	code, out, errOut := startFakeAdmin(t).verb(t, "drops", "report", "d1")
	if code != exitDone || errOut != "" {
		t.Fatalf("exit %d, %s", code, errOut)
	}
	golden(t, "drops-report", out)
}

// Shops' tables say "-" where there is nothing, and what there is as it is.
func TestShopsTables(t *testing.T) {
	f := startFakeAdmin(t)
	at := goldenTime.AsTime().Local().Format(time.DateTime)
	for _, verb := range []string{"purchase find", "voucher", "webhooks list"} {
		code, out, errOut := f.verb(t, strings.Fields(verb)...)
		if code != exitDone || errOut != "" {
			t.Fatalf("%s: exit %d, %s", verb, code, errOut)
		}
		out = strings.NewReplacer(at, "2026-11-22 12:04:05", clock(goldenTime), "12:04:05").Replace(out)
		golden(t, strings.ReplaceAll(verb, " ", "-"), out)
	}
}

// What 'rimlight dev' tells newcomers to try works where they are.
func TestHintsCanBePasted(t *testing.T) {
	if got := hints("bin/rimlight", defaultRouter); !strings.Contains(got, "  bin/rimlight buy ") || strings.Contains(got, "--router") {
		t.Errorf("at the default address: %s", got)
	}
	if got := hints("rimlight", "https://127.0.0.1:9443"); strings.Count(got, " --router https://127.0.0.1:9443  ") != strings.Count(got, "\n") {
		t.Errorf("elsewhere: %s", got)
	}
}
