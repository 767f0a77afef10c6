package main

import (
	"cmp"
	"context"
	"io"

	"google.golang.org/grpc"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

type ordersCmd struct {
	clientFlags
	Drop  string `help:"Only this drop's."`
	Limit int32  `help:"At most this many." default:"20"`
}

func (c *ordersCmd) Run(ctx context.Context, s *streams) error {
	return c.call(ctx, auth.Finance, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := fulfillmentv1.NewOrderServiceClient(conn).ListOrders(ctx,
			&fulfillmentv1.ListOrdersRequest{DropId: c.Drop, PageSize: c.Limit})
		if err != nil {
			return err
		}
		return c.print(s, resp, func(w io.Writer) {
			row(w, "ORDER", "STATE", "SINCE", "ATTEMPT", "WORKER", "REASON", "TRACKING", "SERIAL", "DROP", "PURCHASE")
			for _, o := range resp.GetOrders() {
				row(w, o.GetOrderId(), short(o.GetState(), "ORDER_STATE_"), clock(o.GetStateTime()), o.GetAttempt(), dash(o.GetWorker()), whyNot(o), dash(o.GetTrackingReference()), o.GetSerial(), o.GetDropId(), o.GetPurchaseId())
			}
		})
	})
}

// dash stands for what there is not.
func dash(text string) string { return cmp.Or(text, "-") }

// whyNot is why an order was last refused.
func whyNot(o *fulfillmentv1.Order) string {
	if o.GetReason() == fulfillmentv1.RejectReason_REJECT_REASON_UNSPECIFIED {
		return "-"
	}
	return short(o.GetReason(), "REJECT_REASON_")
}
