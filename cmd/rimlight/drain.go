package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

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

	For    time.Duration `help:"After this time the mode before comes back by itself. 0: it stays."`
	DryRun bool          `help:"Change nothing; say what the other regions would carry."`
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
		request := &routerv1.SetRegionModeRequest{
			RequestId: ids.NewV7(time.Now(), rand.Reader), Region: f.Region, Mode: mode, Reason: f.Reason, Force: f.Force, DryRun: f.DryRun,
		}
		if f.For > 0 {
			request.ExpireAfter = durationpb.New(f.For)
		}
		resp, err := routerv1.NewRouterAdminServiceClient(conn).SetRegionMode(ctx, request)
		if err != nil {
			return err
		}
		warnSilent(s, resp.GetSilentRouters())
		return f.print(s, resp, func(w io.Writer) {
			if f.DryRun {
				prediction(w, resp)
				return
			}
			row(w, "REGION", "NODE", "MODE", "UNTIL", "LAG")
			for _, r := range resp.GetRegions() {
				until := "-"
				if f.For > 0 { // the node tells the exact time with its next probe
					until = time.Now().Add(f.For).Format("15:04:05")
				}
				row(w, r.GetName(), r.GetNodeId(), short(r.GetMode(), "REGION_MODE_"), until, r.GetJournalLag())
			}
		})
	})
}

// prediction tells what a dry run found.
func prediction(w io.Writer, r *routerv1.SetRegionModeResponse) {
	row(w, "REGION", "SHARE", "WOULD_BE", "LOAD", "WOULD_BE")
	for _, p := range r.GetPredictions() {
		row(w, p.GetRegion(), percent(p.GetShare()), percent(p.GetPredictedShare()), percent(p.GetUtilisation()), percent(p.GetPredictedUtilisation()))
	}
	fmt.Fprintf(w, "From %d calls of the last minute; %d of them nobody could serve.\n", r.GetPredictedFromCalls(), r.GetUnservedCalls())
	if r.GetLastRegion() {
		fmt.Fprintln(w, "It is the last region that serves: this needs --force.")
	}
}
