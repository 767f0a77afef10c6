package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

type ordersCmd struct {
	List    ordersListCmd    `cmd:"" default:"withargs" help:"List orders."`
	Requeue ordersRequeueCmd `cmd:"" help:"Take the orders of a depot that is lost for good: to another depot, or dead."`
}

type ordersListCmd struct {
	clientFlags
	Drop  string `help:"Only this drop's."`
	Limit int32  `help:"At most this many." default:"20"`
}

func (c *ordersListCmd) Run(ctx context.Context, s *streams) error {
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

type ordersRequeueCmd struct {
	clientFlags
	Node      string `help:"The depot's id: the worker of its orders." required:"" placeholder:"UUID"`
	Reason    string `help:"Why; it is kept." required:""`
	Cleared   bool   `help:"Orders that the depot was allowed to send, too, though their parcels may have left."`
	DryRun    bool   `help:"Change nothing; say what it would meet."`
	RequestID string `help:"Repeat it safely with the same id; default: a fresh one."`
}

func (c *ordersRequeueCmd) Run(ctx context.Context, s *streams) error {
	req := &fulfillmentv1.RequeueOrdersRequest{
		RequestId: cmp.Or(c.RequestID, ids.NewV7(time.Now(), rand.Reader)), NodeId: c.Node, Reason: c.Reason, DryRun: c.DryRun, IncludeCleared: c.Cleared,
	}
	return c.call(ctx, auth.SRE, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := fulfillmentv1.NewOrderServiceClient(conn).RequeueOrders(ctx, req)
		if err != nil {
			return err
		}
		return c.print(s, resp, func(w io.Writer) {
			if c.DryRun {
				fmt.Fprintln(w, "Nothing was changed. This is what would happen:")
			}
			seen := "-"
			if resp.GetSeenTime() != nil {
				seen = clock(resp.GetSeenTime())
			}
			row(w, "LAST HEARD OF", "REQUEUED", "DEAD", "CLEARED")
			row(w, seen, resp.GetRequeued(), resp.GetDead(), resp.GetCleared())
			fmt.Fprintln(w)
			for _, sentence := range resp.GetConsequences() {
				fmt.Fprintln(w, sentence)
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
