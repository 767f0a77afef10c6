package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

type checkCmd struct {
	clientFlags
	SlowDisk time.Duration `help:"From which 99th percentile of its commits on a node's disk is slow. Lower, it warns sooner; at 100ms a decision has no time left." default:"80ms"`
}

// Validate implements kong's check of the command line.
func (c *checkCmd) Validate() error {
	if c.SlowDisk <= 0 || c.SlowDisk > time.Minute {
		return usageError{"--slow-disk must be above 0, and at most a minute"}
	}
	return nil
}

// Run has the fleet look at itself; exit 1 when something is wrong.
func (c *checkCmd) Run(ctx context.Context, s *streams) error {
	s.progress("asking every router and node; this takes some seconds")
	return c.call(ctx, auth.SRE, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := routerv1.NewRouterAdminServiceClient(conn).Check(ctx, &routerv1.CheckRequest{SlowDisk: durationpb.New(c.SlowDisk)})
		if err != nil {
			return err
		}
		if err := c.print(s, resp, func(w io.Writer) { checkTable(w, resp) }); err != nil {
			return err
		}
		switch n := len(resp.GetProblems()); n {
		case 0:
			return nil
		case 1:
			return refusal{"there is a problem"}
		default:
			return refusal{fmt.Sprintf("there are %d problems", n)}
		}
	})
}

func checkTable(w io.Writer, r *routerv1.CheckResponse) {
	row(w, "MEMBER", "ANSWERS", "VERSION", "CLOCK_MS", "FSYNC_P99_MS", "DISK_FREE", "ADDRESS")
	for _, m := range r.GetMembers() {
		answers := "yes"
		if m.GetSilence() != "" {
			answers = "no"
		}
		clockOff := "-"
		if m.GetClockOffset() != nil {
			clockOff = fmt.Sprintf("%s±%s", ms(m.GetClockOffset()), ms(m.GetClockError()))
		}
		fsync, free := "-", "-"
		if d := m.GetDisk(); d != nil {
			if d.GetSyncP99() != nil {
				fsync = ms(d.GetSyncP99())
			}
			free = fmt.Sprintf("%.1f GiB of %.1f", float64(d.GetFreeBytes())/(1<<30), float64(d.GetTotalBytes())/(1<<30))
		}
		row(w, m.GetName(), answers, cmp.Or(m.GetVersion(), "-"), clockOff, fsync, free, cmp.Or(m.GetAddress(), "-"))
	}
	fmt.Fprintln(w)
	pathTable(w, r.GetPaths())
	fmt.Fprintln(w)
	if len(r.GetProblems()) == 0 {
		fmt.Fprintln(w, "No problem was found.")
	}
	for _, p := range r.GetProblems() {
		fmt.Fprintf(w, "%s: %s\n  %s\n", p.GetSubject(), p.GetSentence(), p.GetFix())
	}
}

// mostColumns is how many members fit side by side; of more, the worst ways are listed.
const mostColumns = 8

// pathTable shows the round trips from each member to each, and the pings that were lost.
func pathTable(w io.Writer, paths []*routerv1.CheckedPath) {
	var names []string
	cells := map[[2]string]string{}
	for _, p := range paths {
		names = append(names, p.GetFrom(), p.GetTo())
		cells[[2]string{p.GetFrom(), p.GetTo()}] = pathCell(p)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > mostColumns {
		worstPaths(w, paths)
		return
	}
	row(w, "RTT_MS FROM, TO", strings.Join(names, "\t"))
	for _, from := range names {
		line := []any{from}
		for _, to := range names {
			line = append(line, cmp.Or(cells[[2]string{from, to}], "-"))
		}
		row(w, line...)
	}
}

func worstPaths(w io.Writer, paths []*routerv1.CheckedPath) {
	worst := slices.Clone(paths)
	loss := func(p *routerv1.CheckedPath) float64 { return float64(p.GetLost()) / float64(max(p.GetSent(), 1)) }
	slices.SortStableFunc(worst, func(a, b *routerv1.CheckedPath) int {
		return cmp.Or(cmp.Compare(loss(b), loss(a)), cmp.Compare(b.GetRtt().AsDuration(), a.GetRtt().AsDuration()))
	})
	const most = 20
	row(w, "FROM", "TO", "RTT_MS")
	for _, p := range worst[:min(most, len(worst))] {
		row(w, p.GetFrom(), p.GetTo(), pathCell(p))
	}
	fmt.Fprintf(w, "The worst of %d ways; -o json has all.\n", len(paths))
}

func pathCell(p *routerv1.CheckedPath) string {
	text := rttText(p.GetRtt())
	if p.GetLost() > 0 {
		text += fmt.Sprintf(" (%d/%d lost)", p.GetLost(), p.GetSent())
	}
	return text
}

func rttText(d *durationpb.Duration) string {
	if d == nil {
		return "no answer"
	}
	return ms(d)
}
