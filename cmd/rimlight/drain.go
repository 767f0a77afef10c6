package main

import (
	"context"
	"crypto/rand"
	"io"
	"time"

	"google.golang.org/grpc"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

// modeFlags is what drain, cordon and undrain share.
type modeFlags struct {
	clientFlags
	Region string `arg:"" help:"The region."`
	Reason string `help:"Why; colleagues see it." default:"by hand"`
	Force  bool   `help:"Even if nobody else is left to serve."`
}

type (
	drainCmd   struct{ modeFlags }
	cordonCmd  struct{ modeFlags }
	undrainCmd struct{ modeFlags }
)

func (c *drainCmd) Run(ctx context.Context, s *streams) error {
	return c.set(ctx, s, regionv1.RegionMode_REGION_MODE_DRAINED)
}

func (c *cordonCmd) Run(ctx context.Context, s *streams) error {
	return c.set(ctx, s, regionv1.RegionMode_REGION_MODE_CORDONED)
}

func (c *undrainCmd) Run(ctx context.Context, s *streams) error {
	return c.set(ctx, s, regionv1.RegionMode_REGION_MODE_SERVING)
}

func (f *modeFlags) set(ctx context.Context, s *streams, mode regionv1.RegionMode) error {
	return f.call(ctx, auth.SRE, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := routerv1.NewRouterAdminServiceClient(conn).SetRegionMode(ctx, &routerv1.SetRegionModeRequest{
			RequestId: ids.NewV7(time.Now(), rand.Reader), Region: f.Region, Mode: mode, Reason: f.Reason, Force: f.Force,
		})
		if err != nil {
			return err
		}
		return f.print(s, resp, func(w io.Writer) {
			row(w, "REGION", "NODE", "MODE", "LAG")
			for _, r := range resp.GetRegions() {
				row(w, r.GetName(), r.GetNodeId(), short(r.GetMode(), "REGION_MODE_"), r.GetJournalLag())
			}
		})
	})
}
