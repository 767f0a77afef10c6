package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

type whatIfCmd struct {
	clientFlags
	ID      string                   `arg:"" help:"Decision id: in 'buy', and in every answer's header rimlight-decision."`
	Drain   []string                 `help:"Suppose that this region is drained (repeatable)." placeholder:"REGION"`
	Slow    map[string]time.Duration `help:"Suppose that every call takes so much longer in this region (repeatable)." placeholder:"REGION=50ms"`
	NoStock []string                 `help:"Suppose that this region has no unit of the drop (repeatable)." placeholder:"REGION"`
}

func (c *whatIfCmd) Run(ctx context.Context, s *streams) error {
	changes := c.changes()
	if len(changes) == 0 {
		return usageError{"say what would be different: --drain, --slow or --no-stock"}
	}
	return c.call(ctx, auth.SRE, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := routerv1.NewRouterAdminServiceClient(conn).SimulateDecision(ctx, &routerv1.SimulateDecisionRequest{
			DecisionId: c.ID, Changes: changes,
		})
		if err != nil {
			return err
		}
		if c.Output == "json" {
			return printJSON(s.out, resp)
		}
		fmt.Fprint(s.out, "As it was")
		if err := explainChoice(s.out, resp.GetActual()); err != nil {
			return err
		}
		fmt.Fprint(s.out, "\nAs it would be")
		return explainChoice(s.out, resp.GetSimulated())
	})
}

func (c *whatIfCmd) changes() (changes []*routerv1.RegionChange) {
	for _, r := range c.Drain {
		changes = append(changes, &routerv1.RegionChange{Region: r, Drained: true})
	}
	for r, by := range c.Slow {
		changes = append(changes, &routerv1.RegionChange{Region: r, Slower: durationpb.New(by)})
	}
	for _, r := range c.NoStock {
		changes = append(changes, &routerv1.RegionChange{Region: r, WithoutStock: true})
	}
	return changes
}
