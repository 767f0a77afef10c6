package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

// changeFlags is what pause, resume, extend and close share.
type changeFlags struct {
	clientFlags
	Drop      string `arg:"" help:"The drop's id."`
	Reason    string `help:"Why; it is kept with the change." default:"by hand"`
	DryRun    bool   `help:"Change nothing; say whom it would meet."`
	RequestID string `help:"Repeat a change safely with the same id; default: a fresh one."`
}

type (
	dropsPauseCmd  struct{ changeFlags }
	dropsResumeCmd struct{ changeFlags }
	dropsExtendCmd struct {
		changeFlags
		By time.Duration `help:"By how much." required:""`
	}
	dropsCloseCmd struct{ changeFlags }
)

func (c *dropsPauseCmd) Run(ctx context.Context, s *streams) error {
	return c.change(ctx, s, &fulfillmentv1.ChangeDropRequest{Change: &fulfillmentv1.ChangeDropRequest_Pause{}})
}

func (c *dropsResumeCmd) Run(ctx context.Context, s *streams) error {
	return c.change(ctx, s, &fulfillmentv1.ChangeDropRequest{Change: &fulfillmentv1.ChangeDropRequest_Resume{}})
}

func (c *dropsExtendCmd) Run(ctx context.Context, s *streams) error {
	return c.change(ctx, s, &fulfillmentv1.ChangeDropRequest{Change: &fulfillmentv1.ChangeDropRequest_Extend{
		Extend: &fulfillmentv1.ExtendDrop{By: durationpb.New(c.By)},
	}})
}

func (c *dropsCloseCmd) Run(ctx context.Context, s *streams) error {
	return c.change(ctx, s, &fulfillmentv1.ChangeDropRequest{Change: &fulfillmentv1.ChangeDropRequest_Close{}})
}

func (f *changeFlags) change(ctx context.Context, s *streams, req *fulfillmentv1.ChangeDropRequest) error {
	req.DropId, req.Reason, req.DryRun = f.Drop, f.Reason, f.DryRun
	req.RequestId = cmp.Or(f.RequestID, ids.NewV7(time.Now(), rand.Reader))
	return f.call(ctx, auth.Producer, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := fulfillmentv1.NewCatalogServiceClient(conn).ChangeDrop(ctx, req)
		if err != nil {
			return err
		}
		return f.print(s, resp, func(w io.Writer) {
			blast := resp.GetBlastRadius()
			if f.DryRun {
				fmt.Fprintln(w, "Nothing was changed. This is what would happen:")
			}
			row(w, "", "STATE", "OPENS", "CLOSES")
			for _, side := range []struct {
				name string
				drop *fulfillmentv1.DropStatus
			}{{"before", resp.GetBefore()}, {"after", resp.GetAfter()}} {
				d := side.drop.GetDrop().GetDrop()
				row(w, side.name, short(d.GetState(), "DROP_STATE_"), clock(d.GetOpenTime()), closes(d))
			}
			fmt.Fprintf(w, "\nIt meets %d nodes in %d regions and %d units that are not sold.\n", blast.GetNodes(), blast.GetRegions(), blast.GetUnitsUnsold())
			for _, sentence := range blast.GetConsequences() {
				fmt.Fprintln(w, sentence)
			}
		})
	})
}
