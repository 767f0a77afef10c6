package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/balance"
	"github.com/rimlight/rimlight/internal/buyer"
	"github.com/rimlight/rimlight/internal/cluster"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/viewers"
	"github.com/rimlight/rimlight/internal/wan"
)

// Services that run as processes of their own are this program: the test binary stands in for it.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && slices.Contains([]string{"dev", "router", "region", "verifier", "fulfillment", "node", "top"}, os.Args[1]) {
		main()
	}
	os.Exit(m.Run())
}

// children remembers the newest pid of every node.
type children struct {
	mu   sync.Mutex
	pids map[string][]int
}

func (c *children) started(region string, pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pids[region] = append(c.pids[region], pid)
}

func (c *children) of(region string) []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.pids[region])
}

// platform is a cluster of real processes for one test.
type platform struct {
	*cluster.Cluster
	children *children
	stop     func() error
}

func startPlatform(t *testing.T, dir string, regions, routers []string, split bool, skus ...string) *platform {
	t.Helper()
	p := &platform{children: &children{pids: map[string][]int{}}}
	c, err := cluster.Start(t.Context(), cluster.Config{
		Listen: "127.0.0.1:0", DataDir: dir, Regions: regions, Routers: routers, Centre: "us-central1", Matrix: wan.Default(),
		Split: split, SKUs: skus, Version: "test", Log: slog.New(slog.DiscardHandler), OnChild: p.children.started,
	})
	if err != nil {
		t.Fatal(err)
	}
	p.Cluster = c
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	p.stop = sync.OnceValue(func() error { stop(); return <-done })
	t.Cleanup(func() {
		if err := p.stop(); err != nil {
			t.Errorf("stopping the platform: %v", err)
		}
	})
	ready, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Ready(ready); err != nil {
		t.Fatal(err)
	}
	for _, addr := range c.Routers { // the guard of Ready: nodes with processes of their own come late
		up := p.reachable(t, addr)
		for _, r := range regions {
			if !up[r] {
				t.Errorf("the platform is up, and the router at %s does not reach %s", addr, r)
			}
		}
	}
	return p
}

// until waits for a condition of other processes, which no channel tells.
func (p *platform) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func (p *platform) dial(t *testing.T, addr string, role auth.Role) routedConn {
	t.Helper()
	conn, err := rpc.Dial(addr, rpc.DialConfig{Token: p.Tokens[role]})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return routedConn{
		offerv1.NewOfferServiceClient(conn), fulfillmentv1.NewCatalogServiceClient(conn), routerv1.NewRouterAdminServiceClient(conn), verifierv1.NewSupportServiceClient(conn),
		fulfillmentv1.NewOrderServiceClient(conn),
	}
}

type routedConn struct {
	offers  offerv1.OfferServiceClient
	catalog fulfillmentv1.CatalogServiceClient
	admin   routerv1.RouterAdminServiceClient
	support verifierv1.SupportServiceClient
	orders  fulfillmentv1.OrderServiceClient
}

func (p *platform) reachable(t *testing.T, addr string) map[string]bool {
	t.Helper()
	up := map[string]bool{}
	resp, err := p.dial(t, addr, auth.SRE).admin.ListRegions(t.Context(), &routerv1.ListRegionsRequest{LocalOnly: true})
	if err != nil {
		return up // the router may not listen yet
	}
	for _, r := range resp.GetRegions() {
		up[r.GetName()] = up[r.GetName()] || r.GetReachable()
	}
	return up
}

func (p *platform) createDrop(t *testing.T, units uint32, open time.Duration) *offerv1.Drop {
	t.Helper()
	resp, err := p.dial(t, p.Routers[0], auth.Producer).catalog.CreateDrop(t.Context(), &fulfillmentv1.CreateDropRequest{
		RequestId: t.Name(), ChannelId: "test", Title: "Test drop", Units: units, Price: &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 1900},
		OpenTime: timestamppb.New(time.Now().Add(time.Second)), Duration: durationpb.New(open),
	})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetDrop().GetDrop()
}

// The platform of dev restarts region by region, as for a new version, and then a region's process is killed, while viewers buy: nobody sees an error beyond the router's one retry and the resuming of
// streams, nothing that was acknowledged is missing after the restart, and the books balance.
func TestRestartAndKillRegionsUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes and takes half a minute; run without -short")
	}
	regions := []string{"europe-west3", "europe-north1", "us-central1"}
	p := startPlatform(t, t.TempDir(), regions, []string{"europe-west1"}, true)
	drop := p.createDrop(t, 5000, 30*time.Minute)

	var offers []offerv1.OfferServiceClient
	for range 4 {
		offers = append(offers, p.dial(t, p.Routers[0], auth.Viewer).offers)
	}
	audience := viewers.New(viewers.Config{
		Origins: []viewers.Origin{{Offers: offers}}, PerMinute: 1200, AbandonRate: 0.3, Payments: []string{"tp_ok", "tp_ok", "tp_ok", "tp_decline", "tp_500_once"}, Keep: true,
	})
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() { defer close(left); _ = audience.Run(ctx) }()
	accepted := func(n int) func() bool { return func() bool { return audience.Stats().Accepted >= n } }
	p.until(t, "the audience buys", accepted(20))
	p.restartsInTurn(t, regions, audience)

	// Victim: the nearest region, which wins every call.
	victim := regions[0]
	pids := p.children.of(victim)
	if err := syscall.Kill(pids[len(pids)-1], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	before := audience.Stats().Accepted
	p.until(t, "purchases go on without the region", accepted(before+20))
	p.until(t, "the region is back", func() bool {
		return len(p.children.of(victim)) > len(pids) && p.reachable(t, p.Routers[0])[victim]
	})
	back := audience.Stats().Accepted
	p.until(t, "purchases go on with it", accepted(back+20))
	leave()
	<-left

	stats := audience.Stats()
	if broken := brokenCalls(stats); len(broken) > 0 { // a stream that breaks is resumed: what counts is that it was, below
		t.Errorf("calls ended in %v", broken)
	}
	if stats.Unverified > 0 {
		t.Errorf("%d receipts or outcomes could not be verified", stats.Unverified)
	}
	p.everyReceiptSettles(t, drop, stats.Receipts)
	p.auditHolds(t)
}

// restartsInTurn asks each region's node to stop, and goes on once the next one has joined in its place. No visit may fail,
// and no call ask more than once again because of it.
func (p *platform) restartsInTurn(t *testing.T, regions []string, a *viewers.Audience) {
	t.Helper()
	began, before := time.Now(), a.Stats()
	for _, region := range regions {
		pids, boot := p.children.of(region), p.bootOf(t, region)
		if err := syscall.Kill(pids[len(pids)-1], syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		p.until(t, region+" is back", func() bool {
			now := p.bootOf(t, region)
			return now != "" && now != boot
		})
		enough := a.Stats().Accepted + 10
		p.until(t, "purchases go on with "+region, func() bool { return a.Stats().Accepted >= enough })
	}
	if after := a.Stats(); after.Failed > before.Failed {
		t.Errorf("the regions were restarted, and %d visits failed: of calls, %v", after.Failed-before.Failed, brokenCalls(after))
	}
	admin, q := p.dial(t, p.Routers[0], auth.SRE).admin, &routerv1.ListDecisionsRequest{PageSize: 500}
	calls, again := 0, 0
	for {
		page, err := admin.ListDecisions(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range page.GetDecisions() {
			if d.GetTime().AsTime().Before(began) {
				continue
			}
			lost := 0
			for _, attempt := range d.GetAttempts() { // what was merely late on this machine is another matter
				if reason := attempt.GetReason(); !attempt.GetGivenUp() &&
					(reason == errorsv1.Reason_REASON_UPSTREAM_UNREACHABLE || reason == errorsv1.Reason_REASON_DRAINING) {
					lost++
				}
			}
			calls, again = calls+1, again+lost
			if lost > 1 {
				t.Errorf("a restart cost a call more than one retry: %v", d)
			}
		}
		if q.PageToken = page.GetNextPageToken(); q.PageToken == "" {
			break
		}
	}
	t.Logf("%d of the last %d calls were made again", again, calls)
}

// bootOf names the one start of a region's node that takes part and answers its router's probes; empty: none does now.
func (p *platform) bootOf(t *testing.T, region string) (name string) {
	t.Helper()
	resp, err := p.dial(t, p.Routers[0], auth.SRE).admin.ListMembers(t.Context(), &routerv1.ListMembersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range resp.GetMembers() {
		if m.GetName() == region && m.GetGossipState() == "alive" && m.GetProbeState() == "answers" {
			name = m.GetMemberName()
		}
	}
	return name
}

// everyReceiptSettles asks for every receipt until its purchase is final.
func (p *platform) everyReceiptSettles(t *testing.T, drop *offerv1.Drop, receipts map[string]string) {
	t.Helper()
	if len(receipts) == 0 {
		t.Fatal("nobody bought anything")
	}
	offers := p.dial(t, p.Routers[0], auth.Viewer).offers
	for id, receipt := range receipts {
		p.until(t, "purchase "+id+" is final", func() bool {
			resp, err := offers.GetPurchase(t.Context(), &offerv1.GetPurchaseRequest{
				Hints: &offerv1.RoutingHints{DropId: drop.GetDropId()}, Credential: &offerv1.GetPurchaseRequest_Receipt{Receipt: receipt},
			})
			return err == nil && resp.GetPurchase().GetPurchaseId() == id && buyer.Final(resp.GetPurchase().GetState())
		})
	}
}

func (p *platform) auditHolds(t *testing.T) {
	t.Helper()
	code, out, errOut := p.verb(t, "audit")
	if code != exitDone {
		t.Fatalf("audit: exit %d: %s\n%s", code, errOut, out)
	}
	var audit struct {
		Holds     bool
		Equations []balance.Equation
	}
	if err := json.Unmarshal([]byte(out), &audit); err != nil {
		t.Fatal(err)
	}
	if !audit.Holds || len(audit.Equations) < 5 {
		t.Errorf("the audit says %s", out)
	}
}

// verb runs a client verb as a user would, with the deployment's tokens.
func (p *platform) verb(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	tokens, err := json.Marshal(p.Tokens)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "tokens.json")
	if err := os.WriteFile(file, tokens, 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	code = run(t.Context(), append(args, "--router", "http://"+p.Routers[0], "--tokens", file, "-o", "json"), &out, &errOut)
	return code, out.String(), errOut.String()
}
