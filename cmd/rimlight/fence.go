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

type fenceCmd struct {
	clientFlags
	Node      string `arg:"" help:"The node's id."`
	Drop      string `help:"Only out of this drop." placeholder:"UUID"`
	AllDrops  bool   `help:"Out of every drop: the node is gone for good."`
	Reason    string `help:"Why; it is kept with the fence." required:""`
	DryRun    bool   `help:"Change nothing; say what it would meet."`
	RequestID string `help:"Repeat a fence safely with the same id; default: a fresh one."`
}

func (c *fenceCmd) Run(ctx context.Context, s *streams) error {
	if (c.Drop == "") != c.AllDrops {
		return usageError{"--drop UUID or --all-drops says what the node is fenced out of: give one of them"}
	}
	req := &fulfillmentv1.FenceNodeRequest{
		RequestId: cmp.Or(c.RequestID, ids.NewV7(time.Now(), rand.Reader)), NodeId: c.Node, DropId: c.Drop, Reason: c.Reason, DryRun: c.DryRun,
	}
	return c.call(ctx, auth.SRE, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := fulfillmentv1.NewFenceServiceClient(conn).FenceNode(ctx, req)
		if err != nil {
			return err
		}
		return c.print(s, resp, func(w io.Writer) {
			if c.DryRun {
				fmt.Fprintln(w, "Nothing was changed. This is what would happen:")
			}
			row(w, "REGION", "EPOCH", "LAST HEARD OF", "LEASES", "UNITS")
			row(w, resp.GetRegion(), resp.GetEpoch(), clock(resp.GetSeenTime()), resp.GetLeases(), resp.GetUnits())
			fmt.Fprintln(w)
			for _, sentence := range resp.GetConsequences() {
				fmt.Fprintln(w, sentence)
			}
		})
	})
}
