package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"google.golang.org/grpc"

	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

type regionsCmd struct{ clientFlags }

func (c *regionsCmd) Run(ctx context.Context, s *streams) error {
	return c.call(ctx, auth.SRE, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := routerv1.NewRouterAdminServiceClient(conn).ListRegions(ctx, &routerv1.ListRegionsRequest{})
		if err != nil {
			return err
		}
		warnSilent(s, resp.GetSilentRouters())
		return c.print(s, resp, func(w io.Writer) {
			row(w, "ROUTER", "REGION", "MODE", "UP", "SHARE", "LATE", "RTT_MS", "SERVICE_MS", "P50_MS", "P99_MS", "IN_FLIGHT", "OK", "LAG", "STOCK", "NOTES")
			regionRows(w, resp.GetRouter(), resp.GetRegions())
			for _, p := range resp.GetPeers() {
				regionRows(w, p.GetRouter(), p.GetRegions())
			}
		})
	})
}

func regionRows(w io.Writer, router string, regions []*routerv1.RegionStatus) {
	for _, r := range regions {
		var stock uint32
		for _, st := range r.GetStock() {
			stock += st.GetUntouched()
		}
		up := map[bool]string{true: "yes", false: "no"}[r.GetReachable()]
		row(w, router, r.GetName(), short(r.GetMode(), "REGION_MODE_"), up, percent(r.GetShare()), percent(r.GetLateShare()),
			ms(r.GetNetwork()), ms(r.GetService()), ms(r.GetMedian()), ms(r.GetP99()),
			fmt.Sprintf("%d/%d", r.GetInFlight(), r.GetParallelism()), percent(r.GetSuccessRate()), r.GetJournalLag(), stock, notes(r))
	}
}

// notes is what an SRE should know of a region that no column has: drills first, so that nobody takes one for an incident.
func notes(r *routerv1.RegionStatus) string {
	var all []string
	for _, f := range r.GetFaults() {
		all = append(all, fmt.Sprintf("DRILL %s until %s", short(f.GetKind(), "FAULT_KIND_"), clock(f.GetExpireTime())))
	}
	if t := r.GetModeExpireTime(); t != nil {
		all = append(all, fmt.Sprintf("%s until %s", short(r.GetMode(), "REGION_MODE_"), clock(t)))
	}
	if r.GetDrained() {
		all = append(all, "empty: it can be turned off")
	}
	if r.GetEjected() {
		all = append(all, "ejected: its calls fail")
	}
	if r.GetSuspect() {
		all = append(all, "suspect: answers are overdue")
	}
	if !r.GetReachable() && r.GetLastError() != "" {
		all = append(all, r.GetLastError())
	}
	return strings.Join(all, "; ")
}

func percent(f float64) string { return fmt.Sprintf("%.1f%%", 100*f) }

func warnSilent(s *streams, silent []string) {
	if len(silent) > 0 {
		fmt.Fprintf(s.err, "no answer within 500 ms from: %s\n", strings.Join(silent, ", "))
	}
}

type membersCmd struct{ clientFlags }

func (c *membersCmd) Run(ctx context.Context, s *streams) error {
	return c.call(ctx, auth.SRE, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := routerv1.NewRouterAdminServiceClient(conn).ListMembers(ctx, &routerv1.ListMembersRequest{})
		if err != nil {
			return err
		}
		return c.print(s, resp, func(w io.Writer) {
			row(w, "ROLE", "NAME", "GOSSIP", "PROBES", "CALLS", "MODE", "ADDRESS", "VERSION", "THEY DISAGREE")
			for _, m := range resp.GetMembers() {
				row(w, short(m.GetRole(), "MEMBER_ROLE_"), m.GetName(), cmp.Or(m.GetGossipState(), "-"), cmp.Or(m.GetProbeState(), "-"),
					cmp.Or(m.GetCallState(), "-"), short(m.GetMode(), "REGION_MODE_"), m.GetRpcAddress(), m.GetVersion(), m.GetDisagreement())
			}
		})
	})
}

type matrixCmd struct{ clientFlags }

func (c *matrixCmd) Run(ctx context.Context, s *streams) error {
	return c.call(ctx, auth.SRE, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := routerv1.NewRouterAdminServiceClient(conn).GetRttMatrix(ctx, &routerv1.GetRttMatrixRequest{})
		if err != nil {
			return err
		}
		warnSilent(s, resp.GetSilentRouters())
		return c.print(s, resp, func(w io.Writer) { rttTable(w, resp.GetCells()) })
	})
}

func rttTable(w io.Writer, cells []*routerv1.RttCell) {
	var routers, regions []string
	rtt := map[[2]string]string{}
	for _, c := range cells {
		routers, regions = append(routers, c.GetRouter()), append(regions, c.GetRegion())
		rtt[[2]string{c.GetRouter(), c.GetRegion()}] = ms(c.GetRtt())
	}
	slices.Sort(routers)
	slices.Sort(regions)
	routers, regions = slices.Compact(routers), slices.Compact(regions)
	fmt.Fprintf(w, "RTT_MS\t%s\n", strings.Join(regions, "\t"))
	for _, router := range routers {
		fmt.Fprint(w, router)
		for _, region := range regions {
			fmt.Fprint(w, "\t", cmp.Or(rtt[[2]string{router, region}], "-"))
		}
		fmt.Fprintln(w)
	}
}
