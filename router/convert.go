package router

import (
	"cmp"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/forward"
	"github.com/rimlight/rimlight/router/slo"
)

// regions is this router's view, by name, then address.
func (r *Router) regions() []*routerv1.RegionStatus {
	shares, now := r.decisions.shares(), r.slo.now()
	late := map[string]float64{}
	fleet, _ := r.slips.now()
	for _, c := range fleet {
		if c.Key.Scope == slo.Region {
			late[c.Key.Name] = c.Sliding.Share()
		}
	}
	states := r.table.States()
	list := make([]*routerv1.RegionStatus, 0, len(states))
	for _, s := range states {
		status := &routerv1.RegionStatus{
			Name: s.Target.Region, NodeId: s.Row.NodeID, Address: s.Target.Address, Mode: modeProto(s.Row.Mode),
			Reachable: s.Row.Reachable, Share: shares[s.Row.Key], Network: durationpb.New(s.Row.Network),
			Service: durationpb.New(s.Row.Service), InFlight: s.Row.InFlight, Parallelism: s.Row.Parallelism,
			SuccessRate: s.Row.SuccessRate, Stock: s.Answer.GetStock(), JournalLag: s.Answer.GetJournalLag(),
			Zones: s.Row.Zones, Version: cmp.Or(s.Answer.GetVersion(), s.Target.Version), LastError: s.LastError,
			LateShare: late[s.Target.Region], Ejected: s.Row.Ejected, Suspect: s.Row.Suspect,
			ModeExpireTime: s.Answer.GetModeExpireTime(), OffersPerSecond: s.Answer.GetOffersPerSecond(),
			Drained: s.Row.Mode == arbiter.Drained && s.Answer.GetDrained(),
			Faults:  append(r.live(s.Answer.GetFaults()), r.sabotage(s.Target.Region)...),
		}
		if median, p99 := r.slo.windows.Latency(now, s.Target.Region); p99 > 0 {
			status.Median, status.P99 = durationpb.New(median), durationpb.New(p99)
		}
		if !s.LastAnswer.IsZero() {
			status.LastAnswerTime = timestamppb.New(s.LastAnswer)
		}
		list = append(list, status)
	}
	return list
}

// rttCells is this router's row of the matrix: per region its nearest measured node.
func (r *Router) rttCells() []*routerv1.RttCell {
	var cells []*routerv1.RttCell
	for _, s := range r.table.States() { // sorted by region
		if s.Row.Network == 0 {
			continue
		}
		cell := &routerv1.RttCell{
			Router: r.config.Name, Region: s.Target.Region, Rtt: durationpb.New(s.Row.Network),
			Deviation: durationpb.New(s.Row.Deviation),
		}
		switch last := len(cells) - 1; {
		case last < 0 || cells[last].GetRegion() != s.Target.Region:
			cells = append(cells, cell)
		case s.Row.Network < cells[last].GetRtt().AsDuration():
			cells[last] = cell
		}
	}
	return cells
}

// nodesOf gives the keys of a region's nodes, and whether any other region serves.
func (r *Router) nodesOf(region string) (keys []string, othersServe bool) {
	for _, g := range r.table.Snapshot().Regions {
		if g.Name == region {
			keys = append(keys, g.Key)
		} else if g.Reachable && g.Mode == arbiter.Serving {
			othersServe = true
		}
	}
	return keys, othersServe
}

// decisionProto tells a kept decision by replaying its choices.
func decisionProto(router string, d *forward.Decision) *routerv1.Decision {
	p := &routerv1.Decision{
		DecisionId: d.ID, Router: router, Time: timestamppb.New(d.Time), Method: d.Method, DropId: d.Drop,
		ResidencyZones: d.Zones, Total: durationpb.New(d.Total),
	}
	if d.Budget > 0 {
		p.Budget = durationpb.New(d.Budget)
	}
	for _, a := range d.Attempts {
		p.Choices = append(p.Choices, choiceProto(a, a.Snapshot))
		if g := a.Choice.Region; g != nil {
			p.Attempts = append(p.Attempts, &routerv1.Attempt{
				Region: g.Name, NodeId: g.NodeID, StartOffset: durationpb.New(a.Start), Duration: durationpb.New(a.Duration),
				StatusCode: int32(a.Code), Reason: a.Reason, Residence: durationpb.New(a.Residence), GivenUp: a.GivenUp,
			})
		}
	}
	return p
}

// choiceProto replays a choice, over its own snapshot or one that was changed.
func choiceProto(a forward.Attempt, s *arbiter.Snapshot) *routerv1.Choice {
	e := arbiter.Explain(s, a.Request, a.Draw)
	p := &routerv1.Choice{
		Regime: regimeProto(e.Regime), Explanation: e.Sentence, SnapshotVersion: a.Snapshot.Version,
		SnapshotAge: durationpb.New(a.SnapshotAge), Draw: a.Draw,
	}
	if e.Region != nil {
		p.Region, p.NodeId = e.Region.Name, e.Region.NodeID
	}
	for _, c := range e.Candidates {
		g := c.Region
		p.Candidates = append(p.Candidates, &routerv1.Candidate{
			Region: g.Name, NodeId: g.NodeID, FilterReason: filterProto(c.Reason), Network: durationpb.New(g.Network),
			NetworkDeviation: durationpb.New(g.Deviation), Service: durationpb.New(g.Service), Wait: durationpb.New(c.Wait),
			InFlight: g.InFlight, Parallelism: g.Parallelism, SuccessRate: g.SuccessRate, Expected: durationpb.New(c.Expected),
			Utilisation: c.Load, Suspect: g.Suspect, HeldShare: g.Held, FailureTime: durationpb.New(g.FailureTime),
			NetworkFloor: durationpb.New(g.Floor),
		})
	}
	return p
}

func filterProto(r arbiter.Reason) routerv1.FilterReason {
	return map[arbiter.Reason]routerv1.FilterReason{
		arbiter.Residency:   routerv1.FilterReason_FILTER_REASON_RESIDENCY,
		arbiter.NoStock:     routerv1.FilterReason_FILTER_REASON_NO_STOCK,
		arbiter.Draining:    routerv1.FilterReason_FILTER_REASON_DRAINING,
		arbiter.Unreachable: routerv1.FilterReason_FILTER_REASON_UNREACHABLE,
		arbiter.Ejected:     routerv1.FilterReason_FILTER_REASON_EJECTED,
		arbiter.Tried:       routerv1.FilterReason_FILTER_REASON_TRIED,
		arbiter.TooFar:      routerv1.FilterReason_FILTER_REASON_TOO_FAR,
		arbiter.JournalFull: routerv1.FilterReason_FILTER_REASON_JOURNAL_FULL,
		arbiter.Loaded:      routerv1.FilterReason_FILTER_REASON_LOADED,
	}[r]
}

func regimeProto(r arbiter.Regime) routerv1.Regime {
	return map[arbiter.Regime]routerv1.Regime{
		arbiter.Normal:       routerv1.Regime_REGIME_NORMAL,
		arbiter.Preferred:    routerv1.Regime_REGIME_PREFERRED,
		arbiter.Panic:        routerv1.Regime_REGIME_PANIC,
		arbiter.LateExpected: routerv1.Regime_REGIME_LATE_EXPECTED,
		arbiter.None:         routerv1.Regime_REGIME_NONE,
		arbiter.Spill:        routerv1.Regime_REGIME_SPILL,
		arbiter.Suspected:    routerv1.Regime_REGIME_SUSPECT,
		arbiter.Hedge:        routerv1.Regime_REGIME_HEDGE,
		arbiter.Cold:         routerv1.Regime_REGIME_COLD,
	}[r]
}

func changesOf(list []*routerv1.RegionChange) []arbiter.Change {
	changes := make([]arbiter.Change, 0, len(list))
	for _, c := range list {
		changes = append(changes, arbiter.Change{
			Region: c.GetRegion(), Drained: c.GetDrained(), Slower: c.GetSlower().AsDuration(), WithoutStock: c.GetWithoutStock(),
		})
	}
	return changes
}

func modeProto(m arbiter.Mode) regionv1.RegionMode {
	return map[arbiter.Mode]regionv1.RegionMode{
		arbiter.Serving:  regionv1.RegionMode_REGION_MODE_SERVING,
		arbiter.Cordoned: regionv1.RegionMode_REGION_MODE_CORDONED,
		arbiter.Drained:  regionv1.RegionMode_REGION_MODE_DRAINED,
	}[m]
}

func roleProto(r Role) routerv1.MemberRole {
	return map[Role]routerv1.MemberRole{
		RoleRouter: routerv1.MemberRole_MEMBER_ROLE_ROUTER,
		RoleRegion: routerv1.MemberRole_MEMBER_ROLE_REGION,
	}[r]
}
