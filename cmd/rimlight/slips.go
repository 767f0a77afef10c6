package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"

	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

type slipsCmd struct {
	clientFlags
	Follow bool `short:"f" help:"Go on with those that begin, change and end, until interrupted."`
	Active bool `help:"Only those that last."`
}

func (c *slipsCmd) Run(ctx context.Context, s *streams) error {
	if c.Follow {
		return c.follow(ctx, s)
	}
	return c.call(ctx, auth.SRE, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := routerv1.NewRouterAdminServiceClient(conn).ListSlips(ctx, &routerv1.ListSlipsRequest{ActiveOnly: c.Active})
		if err != nil {
			return err
		}
		warnSilent(s, resp.GetSilentRouters())
		return c.print(s, resp, func(w io.Writer) {
			row(w, lateNow(resp.GetWindows()))
			slipHeader(w)
			for _, slip := range resp.GetSlips() {
				slipRow(w, slip)
			}
		})
	})
}

// lateNow sums the flows up: each viewer's call is in exactly one of them.
func lateNow(windows []*routerv1.SlipWindow) string {
	var calls, late int64
	for _, w := range windows {
		if w.GetScope() == routerv1.SlipScope_SLIP_SCOPE_FLOW {
			calls, late = calls+w.GetCalls(), late+w.GetLateCalls()
		}
	}
	if calls == 0 {
		return "No viewer's call in the last 5 s."
	}
	return fmt.Sprintf("Viewers' calls that were late in the last 5 s: %s of %d.", percent(float64(late)/float64(calls)), calls)
}

func slipHeader(w io.Writer) {
	row(w, "START", "END", "SCOPE", "NAME", "RULE", "CAUSE", "BEFORE", "WORST", "AFTER", "LATE", "LOST", "EXPLAIN")
}

func slipRow(w io.Writer, s *routerv1.Slip) {
	end := "lasts"
	if s.GetEndTime() != nil {
		end = clock(s.GetEndTime())
	}
	lost := "-" // of a drop's time
	if t := s.GetTimeLost(); t != nil {
		lost = t.AsDuration().Round(100 * time.Millisecond).String()
	}
	example := ""
	if ids := s.GetDecisionIds(); len(ids) > 0 {
		example = ids[0]
	}
	row(w, clock(s.GetStartTime()), end, short(s.GetScope(), "SLIP_SCOPE_"), s.GetFlow()+s.GetRegion()+s.GetDropId(),
		short(s.GetRule(), "SLIP_RULE_"), short(s.GetCause(), "SLIP_CAUSE_"), percent(s.GetShareBefore()), percent(s.GetWorstShare()),
		percent(s.GetShareAfter()), fmt.Sprintf("%d/%d", s.GetLateCalls(), s.GetCalls()), lost, example)
}

// follow prints slips over as many streams as it takes: one JSON message a line, or one row.
func (c *slipsCmd) follow(ctx context.Context, s *streams) error {
	conn, err := c.dial(auth.SRE)
	if err != nil {
		return err
	}
	defer conn.Close()
	admin := routerv1.NewRouterAdminServiceClient(conn)
	if c.Output == "table" {
		if err := c.table(s, slipHeader); err != nil {
			return err
		}
	}
	resume, answered := "", false
	for {
		err := c.followOnce(ctx, s, admin, &resume, &answered)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // interrupted: that is how following ends
		}
		if _, again := rpcerr.Retry(err); !errors.Is(err, io.EOF) && (!again || !answered) {
			return err
		}
		select {
		case <-time.After(reconnectDelay):
		case <-ctx.Done():
		}
	}
}

func (c *slipsCmd) followOnce(ctx context.Context, s *streams, admin routerv1.RouterAdminServiceClient, resume *string, answered *bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := admin.WatchSlips(ctx, &routerv1.WatchSlipsRequest{ResumeToken: *resume})
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		*resume, *answered = m.GetResumeToken(), true
		if c.Output == "json" {
			if err := printJSON(s.out, m); err != nil {
				return err
			}
			continue
		}
		if err := c.table(s, func(w io.Writer) {
			old := m.GetSnapshot().GetSlips() // newest first; a log reads the other way
			for i := range old {
				if slip := old[len(old)-1-i]; !c.Active || slip.GetEndTime() == nil {
					slipRow(w, slip)
				}
			}
			if slip := m.GetChanged(); slip != nil {
				slipRow(w, slip)
			}
		}); err != nil {
			return err
		}
	}
}

// columns keeps the columns of a table that grows row by row under each other.
const columns = 14

func (c *slipsCmd) table(s *streams, rows func(io.Writer)) error {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, columns, 8, 2, ' ', 0)
	rows(w)
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(s.out, text.String())
	return err
}
