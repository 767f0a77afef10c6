package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
)

var goldenTime = timestamppb.New(time.Date(2026, 11, 22, 12, 4, 5, 0, time.UTC))

// ListMembers implements routerv1.RouterAdminServiceServer.
func (*fakeAdmin) ListMembers(context.Context, *routerv1.ListMembersRequest) (*routerv1.ListMembersResponse, error) {
	return &routerv1.ListMembersResponse{Members: []*routerv1.Member{
		{MemberName: "router/r1/1", Role: routerv1.MemberRole_MEMBER_ROLE_ROUTER, Name: "r1", RpcAddress: "10.0.0.9:8081", GossipState: "alive", Version: "v9"},
		{
			MemberName: "region/moon/1", Role: routerv1.MemberRole_MEMBER_ROLE_REGION, Name: "moon", RpcAddress: "10.0.0.1:9000", GossipState: "alive", Version: "v9",
			Mode: regionv1.RegionMode_REGION_MODE_SERVING, NodeId: "n1", ProbeState: "silent", CallState: "unreachable", Disagreement: "Gossip says alive, and it does not answer.",
		},
	}}, nil
}

// GetRttMatrix implements routerv1.RouterAdminServiceServer.
func (*fakeAdmin) GetRttMatrix(context.Context, *routerv1.GetRttMatrixRequest) (*routerv1.GetRttMatrixResponse, error) {
	cell := func(router, region string, rtt time.Duration) *routerv1.RttCell {
		return &routerv1.RttCell{Router: router, Region: region, Rtt: durationpb.New(rtt), Deviation: durationpb.New(time.Millisecond)}
	}
	return &routerv1.GetRttMatrixResponse{Cells: []*routerv1.RttCell{
		cell("r1", "moon", 150*time.Millisecond), cell("r1", "sun", 10*time.Millisecond), cell("r2", "moon", 90*time.Millisecond),
	}}, nil
}

// ListSlips implements routerv1.RouterAdminServiceServer.
func (*fakeAdmin) ListSlips(context.Context, *routerv1.ListSlipsRequest) (*routerv1.ListSlipsResponse, error) {
	return &routerv1.ListSlipsResponse{
		Slips: []*routerv1.Slip{{
			SlipId: "r1/1", Scope: routerv1.SlipScope_SLIP_SCOPE_REGION, Region: "moon", Rule: routerv1.SlipRule_SLIP_RULE_SLIDING,
			Cause: routerv1.SlipCause_SLIP_CAUSE_SERVICE, StartTime: goldenTime, ShareBefore: 0.01, WorstShare: 0.8, Calls: 100, LateCalls: 80,
			DecisionIds: []string{"r1/d1"}, Explanation: "80 of 100 attempts took longer than 200ms.",
		}},
		Windows: []*routerv1.SlipWindow{{
			Scope: routerv1.SlipScope_SLIP_SCOPE_FLOW, Name: "RequestOffer", Calls: 200, LateCalls: 10, LateShare: 0.05, Objective: durationpb.New(200 * time.Millisecond),
		}},
	}, nil
}

// What scripts and eyes read of the operators' verbs stays as it is until somebody means to change it.
func TestColumnsAndFieldsAreStable(t *testing.T) {
	f := startFakeAdmin(t)
	f.set(func() {
		f.listed = &routerv1.ListRegionsResponse{Router: "r1", Regions: []*routerv1.RegionStatus{
			{
				Name: "moon", NodeId: "n1", Address: "10.0.0.1:9000", Mode: regionv1.RegionMode_REGION_MODE_SERVING, Reachable: true, Share: 0.75,
				Network: durationpb.New(150 * time.Millisecond), Service: durationpb.New(2 * time.Millisecond), InFlight: 3, Parallelism: 8, SuccessRate: 1,
				LastAnswerTime: goldenTime, Stock: []*regionv1.DropStock{{DropId: "d1", Untouched: 12}}, JournalLag: 4, Zones: []string{"eu"}, Version: "v9",
				Median: durationpb.New(155 * time.Millisecond), P99: durationpb.New(180 * time.Millisecond), LateShare: 0.125, OffersPerSecond: 2.5,
				Faults: []*regionv1.Fault{{Kind: regionv1.FaultKind_FAULT_KIND_BROWNOUT, ExpireTime: goldenTime, AddedTime: durationpb.New(time.Second)}},
			},
			{Name: "sun", NodeId: "n2", Mode: regionv1.RegionMode_REGION_MODE_DRAINED, Drained: true, Reachable: true, ModeExpireTime: goldenTime},
		}, Peers: []*routerv1.RouterView{{Router: "r2", Regions: []*routerv1.RegionStatus{{Name: "moon", NodeId: "n1", LastError: "timeout"}}}}}
	})
	for _, verb := range []string{"regions", "members", "matrix", "slips"} {
		for _, output := range []string{"table", "json"} {
			code, out, errOut := f.verb(t, strings.Fields(verb+" -o "+output)...)
			if code != exitDone || errOut != "" {
				t.Fatalf("%s -o %s: exit %d, %s", verb, output, code, errOut)
			}
			golden(t, verb+"-"+output, strings.ReplaceAll(out, clock(goldenTime), "12:04:05")) // in whatever zone this runs
		}
	}
}
