package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

type purchaseFindCmd struct {
	clientFlags
	Drop     string        `help:"Only of this drop."`
	State    string        `help:"Only in this state, for example delivered or action-required."`
	Reason   string        `help:"Only those that failed for this reason, for example payment-declined."`
	Order    string        `help:"Only the one with this order id."`
	Purchase string        `help:"Only those whose id begins like this: 4 to 32 hex digits." placeholder:"PREFIX"`
	Since    time.Duration `help:"Only those accepted this long ago or later."`
	Limit    int32         `help:"At most this many, latest first." default:"20"`
	Page     string        `help:"Go on after the last page." placeholder:"TOKEN"`
}

func (c *purchaseFindCmd) Run(ctx context.Context, s *streams) error {
	req := &verifierv1.FindPurchasesRequest{
		DropId: c.Drop, OrderId: c.Order, PurchaseIdPrefix: strings.ToLower(c.Purchase), PageSize: c.Limit, PageToken: c.Page,
	}
	var err error
	if req.State, err = purchaseState(c.State); err != nil {
		return err
	}
	if c.Reason != "" {
		n, ok := errorsv1.Reason_value["REASON_"+enumName(c.Reason)]
		if !ok {
			return usageError{"--reason: there is no reason " + c.Reason}
		}
		req.Reason = errorsv1.Reason(n)
	}
	if c.Since > 0 {
		req.SinceTime = timestamppb.New(time.Now().Add(-c.Since))
	}
	return c.call(ctx, auth.CommunityManager, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := verifierv1.NewSupportServiceClient(conn).FindPurchases(ctx, req)
		if err != nil {
			return err
		}
		return c.print(s, resp, func(w io.Writer) {
			row(w, "PURCHASE", "ACCEPTED", "STATE", "WHY", "PRICE", "CHARGED", "REFUNDED", "ORDER", "VOUCHER", "DROP")
			for _, p := range resp.GetPurchases() {
				row(w, p.GetPurchaseId(), p.GetAcceptTime().AsTime().Local().Format(time.DateTime), short(p.GetState(), "PURCHASE_STATE_"),
					dash(findReason(p.GetReason())), money(p.GetPrice()), optionalMoney(p.GetCharged()), optionalMoney(p.GetRefunded()),
					dash(p.GetOrderId()), dash(p.GetVoucherId()), p.GetDropId())
			}
			if resp.GetNextPageToken() != "" {
				fmt.Fprintf(w, "more: --page %s\n", resp.GetNextPageToken())
			}
		})
	})
}

type purchaseEventsCmd struct {
	clientFlags
	After int64 `help:"Begin after this cursor; 0 is the beginning."`
}

// Run follows until interrupted; a line of JSON or of the table for each change.
func (c *purchaseEventsCmd) Run(ctx context.Context, s *streams) error {
	conn, err := c.dial(auth.Finance)
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := verifierv1.NewSupportServiceClient(conn).WatchPurchaseEvents(ctx, &verifierv1.WatchPurchaseEventsRequest{AfterCursor: c.After})
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if ctx.Err() != nil {
			return nil //nolint:nilerr // interrupted: that is how it ends
		}
		if err != nil {
			return err
		}
		if c.Output == "json" && len(m.GetPurchases()) > 0 {
			if err := printJSON(s.out, m); err != nil {
				return err
			}
			continue
		}
		for _, p := range m.GetPurchases() {
			fmt.Fprintf(s.out, "%s  %s  %-15s  %s  (up to cursor %d)\n", clock(p.GetStateTime()), p.GetPurchaseId(),
				short(p.GetState(), "PURCHASE_STATE_"), money(p.GetPrice()), m.GetCursor())
		}
	}
}

// purchaseState reads a state as tables print it; empty is none.
func purchaseState(text string) (offerv1.PurchaseState, error) {
	if text == "" {
		return 0, nil
	}
	n, ok := offerv1.PurchaseState_value["PURCHASE_STATE_"+enumName(text)]
	if !ok {
		return 0, usageError{"there is no state " + text}
	}
	return offerv1.PurchaseState(n), nil
}

// enumName undoes short.
func enumName(text string) string { return strings.ToUpper(strings.ReplaceAll(text, "-", "_")) }

func findReason(r errorsv1.Reason) string {
	if r == 0 {
		return ""
	}
	return reasonName(r)
}

func optionalMoney(m *offerv1.Money) string {
	if m == nil {
		return "-"
	}
	return money(m)
}
