package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"

	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/internal/balance"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

// auditTries and auditPause: the two books are read one after the other while purchases move, so an equation counts as
// broken only when it stays broken over several readings.
const (
	auditTries = 5
	auditPause = time.Second
)

type auditCmd struct {
	clientFlags
	Drop      string `help:"Only this drop."`
	Operators bool   `help:"Instead: who changed what through the routers, and why."`
}

func (c *auditCmd) Run(ctx context.Context, s *streams) error {
	if c.Operators {
		return c.operators(ctx, s)
	}
	conn, err := c.dial(auth.Finance)
	if err != nil {
		return err
	}
	defer conn.Close()
	var all []balance.Equation
	for try := 1; ; try++ {
		if all, err = c.read(ctx, conn); err != nil {
			return err
		}
		if len(balance.Broken(all)) == 0 || try == auditTries {
			break
		}
		select {
		case <-time.After(auditPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := c.showAudit(s, all); err != nil {
		return err
	}
	if n := len(balance.Broken(all)); n > 0 {
		return refusal{fmt.Sprintf("%d of %d equations do not hold", n, len(all))}
	}
	return nil
}

// operators lists what operators changed.
func (c *auditCmd) operators(ctx context.Context, s *streams) error {
	return c.call(ctx, auth.SRE, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := routerv1.NewRouterAdminServiceClient(conn).ListAuditEntries(ctx, &routerv1.ListAuditEntriesRequest{})
		if err != nil {
			return err
		}
		warnSilent(s, resp.GetSilentRouters())
		return c.print(s, resp, func(w io.Writer) {
			row(w, "TIME", "WHO", "ROUTER", "WHAT", "TARGET", "BEFORE", "ASKED", "AFTER", "PROBLEM", "WHY")
			for _, e := range resp.GetEntries() {
				_, method, _ := strings.Cut(strings.TrimPrefix(e.GetMethod(), "/"), "/")
				row(w, e.GetTime().AsTime().Local().Format(time.DateTime), e.GetRole(), e.GetRouter(), method, e.GetTarget(), e.GetBefore(),
					e.GetAsked(), cmp.Or(e.GetAfter(), "-"), cmp.Or(e.GetProblem(), "-"), e.GetReason())
			}
		})
	})
}

func (c *auditCmd) read(ctx context.Context, conn grpc.ClientConnInterface) ([]balance.Equation, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	return balance.Read(ctx, conn, conn, c.Drop)
}

func (c *auditCmd) showAudit(s *streams, all []balance.Equation) error {
	if c.Output == "json" {
		raw, err := json.Marshal(map[string]any{"equations": all, "holds": len(balance.Broken(all)) == 0})
		if err != nil {
			return fmt.Errorf("encoding the audit: %w", err)
		}
		return printRawJSON(s.out, raw)
	}
	w := tabwriter.NewWriter(s.out, 0, 8, 2, ' ', 0)
	row(w, "HOLDS", "ABOUT", "LAW", "LEFT", "RIGHT", "IN FLIGHT")
	for _, e := range all {
		row(w, map[bool]string{true: "yes", false: "NO"}[e.Holds], e.About, e.Law, e.Left, e.Right, e.InFlight)
	}
	return w.Flush()
}
