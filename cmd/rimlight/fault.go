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

type faultCmd struct {
	clientFlags
	Kind   string        `arg:"" enum:"brownout,kill,partition,errors" help:"brownout: calls take longer; errors: calls fail; partition: the region is cut off (with --split from the routers alone); kill: its process dies (--split)."`
	Region string        `arg:"" help:"The region."`
	For    time.Duration `help:"For how long; it heals by itself." default:"30s"`
	Added  time.Duration `help:"brownout: how much longer each call takes." default:"500ms"`
	Share  float64       `help:"errors: the share of calls that fail." default:"1"`
	Reason string        `help:"Why, for the audit log." default:"drill"`
}

var faultKinds = map[string]regionv1.FaultKind{
	"brownout": regionv1.FaultKind_FAULT_KIND_BROWNOUT, "errors": regionv1.FaultKind_FAULT_KIND_ERRORS,
	"partition": regionv1.FaultKind_FAULT_KIND_PARTITION, "kill": regionv1.FaultKind_FAULT_KIND_KILL,
}

func (c *faultCmd) Run(ctx context.Context, s *streams) error {
	return c.call(ctx, auth.SRE, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := routerv1.NewRouterAdminServiceClient(conn).InjectFault(ctx, &routerv1.InjectFaultRequest{
			RequestId: ids.NewV7(time.Now(), rand.Reader), Region: c.Region, Kind: faultKinds[c.Kind], Duration: durationpb.New(c.For),
			AddedTime: durationpb.New(c.Added), ErrorShare: c.Share, Reason: c.Reason,
		})
		if err != nil {
			return err
		}
		return c.print(s, resp, func(w io.Writer) {
			row(w, "REGION", "FAULT", "UNTIL", "ADDED_MS", "FAILING")
			for _, f := range resp.GetFaults() {
				added, failing := "-", "-"
				if f.GetAddedTime() != nil {
					added = ms(f.GetAddedTime())
				}
				if f.GetKind() == regionv1.FaultKind_FAULT_KIND_ERRORS {
					failing = percent(f.GetErrorShare())
				}
				row(w, c.Region, short(f.GetKind(), "FAULT_KIND_"), clock(f.GetExpireTime()), added, failing)
			}
			fmt.Fprintln(w, "Watch it: rimlight slips --follow")
		})
	})
}
