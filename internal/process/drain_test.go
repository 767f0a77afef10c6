package process_test

import (
	"context"
	"testing"
	"time"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/internal/process"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/auth"
)

// A drained node stays in the ring, so that it can be undrained; it leaves when its process is asked to stop, and says so:
// the others see that it left, not that it is dead.
func TestADrainedNodeLeavesTheRingWhenItStops(t *testing.T) {
	tokens := auth.NewTokens()
	fulfillment, err := process.StartFulfillment(t.Context(), process.Fulfillment{Common: common(t, "fulfillment", tokens)})
	if err != nil {
		t.Fatal(err)
	}
	runs(t, fulfillment.Run)
	region, err := process.StartRegion(t.Context(), process.Region{
		Common: common(t, "region", tokens), Name: "moon", Fulfillment: fulfillment.Addr(), Verifier: "127.0.0.1:1", Gossip: process.Gossip{Listen: "127.0.0.1:0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- region.Run(running) }()
	t.Cleanup(stop)
	router, err := process.StartRouter(t.Context(), process.Router{
		Common: common(t, "router", tokens), Name: "r1", AdminListen: "127.0.0.1:0",
		Gossip: process.Gossip{Listen: "127.0.0.1:0", Seeds: []string{region.GossipAddr}},
	})
	if err != nil {
		t.Fatal(err)
	}
	runs(t, router.Run)
	conn, err := rpc.Dial(router.AdminAddr, rpc.DialConfig{Token: tokens[auth.SRE], Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	admin := routerv1.NewRouterAdminServiceClient(conn)
	// gossip is what the router's own ring says of the region; empty: nothing.
	gossip := func() string {
		all, err := admin.ListMembers(t.Context(), &routerv1.ListMembersRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all.GetMembers() {
			if m.GetRole() == routerv1.MemberRole_MEMBER_ROLE_REGION {
				return m.GetGossipState()
			}
		}
		return ""
	}
	await(t, "the region is known", func() bool { return gossip() == "alive" })
	await(t, "the drain is taken", func() bool {
		_, err := admin.SetRegionMode(t.Context(), &routerv1.SetRegionModeRequest{
			RequestId: "0192d3a0-0000-7000-8000-00000000000a", Region: "moon", Mode: regionv1.RegionMode_REGION_MODE_DRAINED, Reason: "test", Force: true,
		})
		return err == nil
	})
	await(t, "nothing is left in it", func() bool {
		all, err := admin.ListRegions(t.Context(), &routerv1.ListRegionsRequest{})
		return err == nil && len(all.GetRegions()) == 1 && all.GetRegions()[0].GetDrained()
	})
	if got := gossip(); got != "alive" {
		t.Errorf("a drained node is %q in the ring", got)
	}
	stop() // as SIGTERM does
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	await(t, "the others see that it left", func() bool { return gossip() == "left" })
}

// await waits for what other processes do.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(time.Minute)
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}
