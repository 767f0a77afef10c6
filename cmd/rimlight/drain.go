package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

var errNotInTime = errors.New("the time to wait is over")

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
	drainCmd struct {
		modeFlags
		Wait   bool          `help:"Wait until nothing is left in the region: no call inside, no stock, nothing that the verifier does not have. Then it can be turned off."`
		Within time.Duration `help:"With --wait: how long at most; then exit 3, and the region stays drained." default:"5m"`
	}
	cordonCmd  struct{ modeFlags }
	undrainCmd struct{ modeFlags }
)

// Validate implements kong's check of the command line: a time in the past is no time at all.
func (f *modeFlags) Validate() error {
	if f.For < 0 {
		return usageError{fmt.Sprintf("--for %v is over already", f.For)}
	}
	return nil
}

// Validate implements kong's check of the command line.
func (c *drainCmd) Validate() error {
	if err := c.modeFlags.Validate(); err != nil {
		return err
	}
	switch {
	case c.Wait && c.DryRun:
		return usageError{"--dry-run changes nothing, so there is nothing to --wait for"}
	case c.Wait && c.Within <= 0:
		return usageError{"--within must be above 0"}
	case c.Wait && c.For > 0 && c.For <= c.Within:
		return usageError{fmt.Sprintf("the region serves again after --for %v; wait for less --within", c.For)}
	}
	return nil
}

// Run drains a region and, if asked to, waits until it is empty.
func (c *drainCmd) Run(ctx context.Context, s *streams) error {
	conn, err := c.dial(auth.SRE)
	if err != nil {
		return err
	}
	defer conn.Close()
	resp, err := c.set(ctx, s, conn, regionv1.RegionMode_REGION_MODE_DRAINED)
	if err != nil {
		return err
	}
	if c.Wait {
		var last []*routerv1.RegionStatus
		if last, err = c.waitEmpty(ctx, s, conn); last != nil {
			resp.Regions = last
		}
	}
	if perr := c.show(s, resp); err == nil {
		err = perr
	}
	return err
}

// Run lets a region win nothing new.
func (c *cordonCmd) Run(ctx context.Context, s *streams) error {
	return c.run(ctx, s, regionv1.RegionMode_REGION_MODE_CORDONED)
}

// Run puts a region back into service.
func (c *undrainCmd) Run(ctx context.Context, s *streams) error {
	return c.run(ctx, s, regionv1.RegionMode_REGION_MODE_SERVING)
}

func (f *modeFlags) run(ctx context.Context, s *streams, mode regionv1.RegionMode) error {
	conn, err := f.dial(auth.SRE)
	if err != nil {
		return err
	}
	defer conn.Close()
	resp, err := f.set(ctx, s, conn, mode)
	if err != nil {
		return err
	}
	return f.show(s, resp)
}

// set asks the router for the mode, or what it would bring.
func (f *modeFlags) set(ctx context.Context, s *streams, conn *grpc.ClientConn, mode regionv1.RegionMode) (*routerv1.SetRegionModeResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, f.Timeout)
	defer cancel()
	request := &routerv1.SetRegionModeRequest{
		RequestId: ids.NewV7(time.Now(), rand.Reader), Region: f.Region, Mode: mode, Reason: f.Reason, Force: f.Force, DryRun: f.DryRun,
	}
	if f.For > 0 {
		request.ExpireAfter = durationpb.New(f.For)
	}
	resp, err := routerv1.NewRouterAdminServiceClient(conn).SetRegionMode(ctx, request)
	if err == nil {
		warnSilent(s, resp.GetSilentRouters())
	}
	return resp, err
}

func (f *modeFlags) show(s *streams, resp *routerv1.SetRegionModeResponse) error {
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
}

// waitEmpty watches the region's nodes until all of them are drained; what it gives is how they were last.
func (c *drainCmd) waitEmpty(ctx context.Context, s *streams, conn *grpc.ClientConn) (nodes []*routerv1.RegionStatus, err error) {
	ctx, cancel := context.WithCancelCause(ctx) // no deadline: the router would end the stream at it, too, and perhaps first
	defer cancel(nil)
	defer time.AfterFunc(c.Within, func() { cancel(errNotInTime) }).Stop()
	stream, err := routerv1.NewRouterAdminServiceClient(conn).WatchRegions(ctx, &routerv1.WatchRegionsRequest{})
	for err == nil {
		var m *routerv1.WatchRegionsResponse
		if m, err = stream.Recv(); err != nil {
			break
		}
		nodes = slices.DeleteFunc(m.GetRegions(), func(r *routerv1.RegionStatus) bool { return r.GetName() != c.Region })
		left := leftIn(nodes)
		if left == "" {
			s.live("")
			return nodes, nil
		}
		s.live(c.Region + ": " + left)
	}
	s.live("")
	if errors.Is(context.Cause(ctx), errNotInTime) {
		return nodes, lateError{fmt.Sprintf("%s is drained, and after %v there is still something in it: %s", c.Region, c.Within, leftIn(nodes))}
	}
	return nodes, err
}

// leftIn says what a drained region still has; empty: nothing, and its routers know that from its nodes.
func leftIn(nodes []*routerv1.RegionStatus) string {
	var calls, stock uint32
	var lag int64
	var others []string
	drained := len(nodes) > 0
	for _, r := range nodes {
		calls, lag = calls+r.GetInFlight(), lag+r.GetJournalLag()
		for _, st := range r.GetStock() {
			stock += st.GetUntouched()
		}
		drained = drained && r.GetDrained()
		if !r.GetReachable() {
			others = append(others, "node "+r.GetNodeId()+" does not answer")
		}
		if r.GetMode() != regionv1.RegionMode_REGION_MODE_DRAINED {
			others = append(others, "somebody set it to "+short(r.GetMode(), "REGION_MODE_"))
		}
	}
	if drained {
		return ""
	}
	parts := []string{fmt.Sprintf("%d calls, %d units, %d redemptions to forward", calls, stock, lag)}
	return strings.Join(append(parts, others...), "; ")
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
