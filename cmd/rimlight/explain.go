package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

type explainCmd struct {
	clientFlags
	ID string `arg:"" help:"Decision id: in 'buy', and in every answer's header rimlight-decision."`
}

func (c *explainCmd) Run(ctx context.Context, s *streams) error {
	return c.call(ctx, auth.SRE, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := routerv1.NewRouterAdminServiceClient(conn).ExplainDecision(ctx, &routerv1.ExplainDecisionRequest{DecisionId: c.ID})
		if err != nil {
			return err
		}
		if c.Output == "json" {
			return printJSON(s.out, resp)
		}
		return explain(s.out, resp.GetDecision())
	})
}

func explain(out io.Writer, d *routerv1.Decision) error {
	fmt.Fprintf(out, "%s at router %s, %s, answered in %s ms\n", d.GetMethod(), d.GetRouter(), clock(d.GetTime()), ms(d.GetTotal()))
	if d.GetBudget() != nil {
		fmt.Fprintf(out, "The caller had %s ms left.\n", ms(d.GetBudget()))
	}
	for i, choice := range d.GetChoices() {
		fmt.Fprintf(out, "\nAttempt %d", i+1)
		if i < len(d.GetAttempts()) && i > 0 {
			fmt.Fprintf(out, ", after %s ms", ms(d.GetAttempts()[i].GetStartOffset()))
		}
		if err := explainChoice(out, choice); err != nil {
			return err
		}
		if i < len(d.GetAttempts()) {
			fmt.Fprintln(out, cameOf(d.GetAttempts()[i]))
		}
	}
	return nil
}

// cameOf says in a sentence what came of an attempt.
func cameOf(a *routerv1.Attempt) string {
	took, code := ms(a.GetDuration()), codes.Code(a.GetStatusCode())
	inside := a.GetResidence().AsDuration()
	switch {
	case a.GetGivenUp() && code == codes.Canceled:
		return fmt.Sprintf("%s was given up after %s ms: another region had answered.", a.GetRegion(), took)
	case a.GetGivenUp():
		return fmt.Sprintf("%s was given up after %s ms without an answer, while another region could still be asked.", a.GetRegion(), took)
	case inside > 0:
		way := durationpb.New(max(0, a.GetDuration().AsDuration()-inside))
		return fmt.Sprintf("%s answered %s in %s ms: %s ms inside the node, %s ms on the way.", a.GetRegion(), outcome(a), took, ms(a.GetResidence()), ms(way))
	case code == codes.OK:
		return fmt.Sprintf("%s answered OK in %s ms; it did not say how much of that was its own.", a.GetRegion(), took)
	default:
		return fmt.Sprintf("It ended with %s after %s ms.", outcome(a), took)
	}
}

// outcome is a reason where there is one, and the code.
func outcome(a *routerv1.Attempt) string {
	code := codes.Code(a.GetStatusCode()).String()
	if reason := reasonName(a.GetReason()); reason != "UNSPECIFIED" {
		return reason + " (" + code + ")"
	}
	return code
}

// explainChoice goes on after the choice's name.
func explainChoice(out io.Writer, choice *routerv1.Choice) error {
	fmt.Fprintf(out, " (%s): %s\n", short(choice.GetRegime(), "REGIME_"), choice.GetExplanation())
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	row(w, "", "REGION", "EXPECTED_MS", "NETWORK_MS", "+-", "SERVICE_MS", "WAIT_MS", "IN_FLIGHT", "LOAD", "OK", "NOT CHOSEN BECAUSE")
	for _, k := range choice.GetCandidates() {
		mark, why := "", short(k.GetFilterReason(), "FILTER_REASON_")
		switch {
		case k.GetNodeId() == choice.GetNodeId() && k.GetRegion() == choice.GetRegion():
			mark, why = "*", ""
		case k.GetFilterReason() != routerv1.FilterReason_FILTER_REASON_UNSPECIFIED:
		case k.GetSuspect():
			why = "suspect"
		case k.GetHeldShare() > 0:
			why = "slower or warming up"
		default:
			why = "slower"
		}
		row(w, mark, k.GetRegion(), ms(k.GetExpected()), ms(k.GetNetwork()), ms(k.GetNetworkDeviation()), ms(k.GetService()), ms(k.GetWait()),
			fmt.Sprintf("%d/%d", k.GetInFlight(), k.GetParallelism()), percent(k.GetUtilisation()),
			percent(k.GetSuccessRate()), why)
	}
	return w.Flush()
}
