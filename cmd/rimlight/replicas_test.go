package main

import (
	"bufio"
	"context"
	"log/slog"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/rimlight/rimlight/fulfillment/node"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/cluster"
	"github.com/rimlight/rimlight/internal/pgtest"
	"github.com/rimlight/rimlight/internal/process"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/viewers"
)

// replica is a central service's process.
type replica struct {
	cmd   *osexec.Cmd
	addr  string
	ended <-chan struct{} // closed when it is dead
}

// startReplica runs a central service as this program and waits until it listens.
func startReplica(t *testing.T, args ...string) *replica {
	t.Helper()
	return startProcess(t, append(args, "--listen", "127.0.0.1:0")...)
}

// startProcess runs a service as this program and waits until it listens.
func startProcess(t *testing.T, args ...string) *replica {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := osexec.Command(self, append(args, "--log-level", "error")...)
	errOut, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(errOut)
	read := make(chan struct{})
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be dead already
		<-read
		_ = cmd.Wait() // killed
	})
	if !lines.Scan() {
		close(read)
		t.Fatalf("%v said nothing", args)
	}
	_, addr, ok := strings.Cut(lines.Text(), " listens on ")
	go func() { // what it logs is not for the test's output, and must not fill the pipe
		defer close(read)
		for lines.Scan() {
		}
	}()
	if !ok {
		t.Fatalf("%v: %s", args, lines.Text())
	}
	return &replica{cmd, addr, read}
}

func (r *replica) kill(t *testing.T) {
	t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// replicated is a platform with two replicas of each central service on one PostgreSQL database, and a depot.
type replicated struct {
	platform
	fulfillment, verifier [2]*replica
	parcels               *parcels
}

// parcels is the log of a depot: which orders left it.
type parcels struct {
	slog.Handler
	mu   sync.Mutex
	left map[string]int // how often each order did
}

// Enabled implements slog.Handler.
func (p *parcels) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs implements slog.Handler.
func (p *parcels) WithAttrs([]slog.Attr) slog.Handler { return p }

// Handle implements slog.Handler.
func (p *parcels) Handle(_ context.Context, r slog.Record) error {
	if r.Message != "a parcel left" {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "order_id" {
			p.left[a.Value.String()]++
		}
		return true
	})
	return nil
}

func startReplicated(t *testing.T, database string) *replicated {
	t.Helper()
	dir := t.TempDir()
	tokenFile := filepath.Join(dir, "tokens.json")
	tokens, err := auth.LoadOrCreate(tokenFile)
	if err != nil {
		t.Fatal(err)
	}
	p := &replicated{}
	common := []string{"--tokens", tokenFile, "--database", database, "--database-conns", "8"}
	for i := range 2 {
		p.fulfillment[i] = startReplica(t, append([]string{"fulfillment"}, common...)...)
	}
	fulfillment := p.fulfillment[0].addr + "," + p.fulfillment[1].addr
	for i := range 2 {
		p.verifier[i] = startReplica(t, append([]string{"verifier", "--fulfillment", fulfillment}, common...)...)
	}
	verifier := p.verifier[0].addr + "," + p.verifier[1].addr

	base := process.Common{Listen: "127.0.0.1:0", Tokens: tokens, Version: "test", Log: slog.New(slog.DiscardHandler)}
	var stages []process.Stage
	regions := map[string]string{}
	for _, name := range []string{"europe-west3", "us-central1"} {
		c := base
		c.DataDir, c.Metrics = filepath.Join(dir, name), prometheus.NewRegistry()
		r, err := process.StartRegion(t.Context(), process.Region{
			Common: c, Name: name, Zones: []string{cluster.Zone(name)}, Fulfillment: fulfillment, Verifier: verifier,
		})
		if err != nil {
			t.Fatal(err)
		}
		regions[name] = r.Addr()
		stages = append(stages, process.Stage{Name: name, Run: r.Run})
	}
	base.Metrics = prometheus.NewRegistry()
	router, err := process.StartRouter(t.Context(), process.Router{
		Common: base, Name: "router", Regions: regions, Fulfillment: fulfillment, Verifier: verifier, Operator: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	stages = append([]process.Stage{{Name: "router", Run: router.Run}}, stages...)
	p.parcels = &parcels{Handler: slog.DiscardHandler, left: map[string]int{}}
	depot := base
	depot.DataDir, depot.Metrics, depot.Log = filepath.Join(dir, "depot"), prometheus.NewRegistry(), slog.New(p.parcels)
	run, err := process.StartNode(t.Context(), process.Node{Common: depot, Config: node.Config{SKUs: []string{"poster"}, Parallel: 50}, Fulfillment: fulfillment})
	if err != nil {
		t.Fatal(err)
	}
	stages = append(stages, process.Stage{Name: "the depot", Run: run})
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- process.RunStages(ctx, stages...) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("stopping the platform: %v", err)
		}
	})
	p.Cluster = &cluster.Cluster{Routers: []string{router.Addr()}, Tokens: tokens}
	p.until(t, "the router reaches the regions", func() bool { return router.Reaches("europe-west3", "us-central1") })
	return p
}

// sellOut lets viewers buy a digital good and a physical one until nothing is left of either, with disturbances on the way;
// then every receipt settles, the books balance, all units are sold, and each parcel left once.
func (p *replicated) sellOut(t *testing.T, disturb func(accepted func(int) func() bool)) {
	t.Helper()
	units := map[string]uint32{p.createDrop(t, digitalUnits, 10*time.Minute).GetDropId(): digitalUnits}
	code, out, errOut := p.verb(t, "drops", "create", "--channel", "test", "--title", "Poster", "--units", strconv.Itoa(parcelUnits), "--price", "19",
		"--sku", "poster", "--opens", "1s", "--duration", "10m")
	var posters fulfillmentv1.CreateDropResponse
	if err := protojson.Unmarshal([]byte(out), &posters); code != exitDone || err != nil {
		t.Fatalf("drops create: exit %d, %v: %s%s", code, err, errOut, out)
	}
	poster := posters.GetDrop().GetDrop().GetDropId()
	units[poster] = parcelUnits
	var offers []offerv1.OfferServiceClient
	for range 8 { // every buyer may wait for an outcome at the same time, and a connection carries 64 streams
		offers = append(offers, p.dial(t, p.Routers[0], auth.Viewer).offers)
	}
	catalog := p.dial(t, p.Routers[0], auth.Viewer).catalog
	audience := viewers.New(viewers.Config{
		Origins: []viewers.Origin{{Offers: offers}}, PerMinute: 1800, AbandonRate: 0.2, Delivery: []byte("Main Street 1"),
		Payments: []string{"tp_ok", "tp_timeout_before", "tp_timeout_after", "tp_500_once"}, Keep: true, // none gives its unit back
	})
	ctx, leave := context.WithCancel(t.Context())
	var left sync.WaitGroup
	left.Go(func() { _ = audience.Run(ctx) })
	defer left.Wait()
	defer leave()
	disturb(func(n int) func() bool { return func() bool { return audience.Stats().Accepted >= n } })
	sold := func() bool {
		for drop, n := range units {
			resp, err := catalog.GetDrop(t.Context(), &fulfillmentv1.GetDropRequest{DropId: drop})
			if err != nil || resp.GetDrop().GetStock().GetSold() != n {
				return false
			}
		}
		return true
	}
	p.until(t, "the drops are sold out", sold)
	leave()
	left.Wait()
	stats := audience.Stats()
	if stats.Unverified > 0 {
		t.Errorf("%d receipts or outcomes could not be verified", stats.Unverified)
	}
	p.everyReceiptSettles(t, &offerv1.Drop{}, stats.Receipts)
	p.auditHolds(t)
	for drop, n := range units {
		p.reportAgrees(t, drop, n, int(n))
		p.until(t, "a viewer who comes too late is told so", func() bool {
			code, _, errOut := p.verb(t, "buy", "--drop", drop, "--wait", "30s", "--delivery", p.slip(t))
			return code == exitRefused && strings.Contains(errOut, "SOLD_OUT")
		})
	}
	p.everyParcelLeftOnce(t)
	if !sold() {
		t.Error("units came back after the drop was sold out")
	}
}

const digitalUnits, parcelUnits = 140, 60

// slip is a file with an address.
func (p *replicated) slip(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "address")
	if err := os.WriteFile(file, []byte("Main Street 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// everyParcelLeftOnce holds the depot's own word against fulfillment's: an order for each unit, and a shipment for each order.
func (p *replicated) everyParcelLeftOnce(t *testing.T) {
	t.Helper()
	p.parcels.mu.Lock()
	defer p.parcels.mu.Unlock()
	if len(p.parcels.left) != parcelUnits {
		t.Errorf("parcels of %d orders left for %d units", len(p.parcels.left), parcelUnits)
	}
	references := map[string]bool{}
	resp, err := p.dial(t, p.Routers[0], auth.Finance).orders.ListOrders(t.Context(), &fulfillmentv1.ListOrdersRequest{
		States: []fulfillmentv1.OrderState{fulfillmentv1.OrderState_ORDER_STATE_SHIPPED}, PageSize: 2 * parcelUnits,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range resp.GetOrders() {
		references[o.GetTrackingReference()] = true
		if p.parcels.left[o.GetOrderId()] != 1 {
			t.Errorf("order %s left %d times", o.GetOrderId(), p.parcels.left[o.GetOrderId()])
		}
	}
	if len(resp.GetOrders()) != parcelUnits || len(references) != parcelUnits {
		t.Errorf("fulfillment has %d shipped orders with %d references for %d units", len(resp.GetOrders()), len(references), parcelUnits)
	}
}

// reportAgrees holds the report of a sold-out drop against its units, the audit and the receipts of its viewers.
func (p *platform) reportAgrees(t *testing.T, drop string, units uint32, receipts int) {
	t.Helper()
	code, out, errOut := p.verb(t, "drops", "report", drop)
	var r verifierv1.GetDropReportResponse
	if err := protojson.Unmarshal([]byte(out), &r); code != exitDone || err != nil {
		t.Fatalf("drops report: exit %d, %v: %s%s", code, err, errOut, out)
	}
	if !r.GetAgrees() || r.GetUnsold() != 0 || r.GetSettled() != units || r.GetOpen() != 0 || r.GetOffered() < int64(receipts) {
		t.Errorf("with %d units and %d receipts the report is %v", units, receipts, &r)
	}
	audit, err := p.dial(t, p.Routers[0], auth.Finance).support.GetAudit(t.Context(), &verifierv1.GetAuditRequest{DropId: drop})
	if err != nil || len(audit.GetDrops()) != 1 {
		t.Fatalf("the audit has %d drops: %v", len(audit.GetDrops()), err)
	}
	d := audit.GetDrops()[0]
	if money := r.GetLedger(); d.GetDelivered() != r.GetSettled() || d.GetVouchers() != r.GetVouchers() || d.GetRefunded() != r.GetRefunded() ||
		d.GetCapturedMinorUnits() != money.GetCapturedMinorUnits()-money.GetRefundedMinorUnits() || d.GetChargedMinorUnits() != money.GetCapturedMinorUnits() {
		t.Errorf("the audit says %v, the report %v", d, &r)
	}
}

// Two replicas of each central service share the work; one of each is killed while a drop sells out.
func TestAReplicaIsKilledWhileADropSellsOut(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes and takes half a minute; run without -short")
	}
	p := startReplicated(t, pgtest.Database(t))
	p.sellOut(t, func(accepted func(int) func() bool) {
		p.until(t, "viewers buy", accepted(40))
		p.verifier[0].kill(t)
		p.until(t, "viewers buy without a verifier's replica", accepted(90))
		p.fulfillment[0].kill(t)
		p.until(t, "viewers buy without a replica of either", accepted(140))
	})
}

// PostgreSQL restarts twice under load, once in order and once by a crash: nothing is lost and nothing done twice.
func TestPostgresRestartsWhileADropSellsOut(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes and takes half a minute; run without -short")
	}
	server := pgtest.Start(t)
	p := startReplicated(t, server.Database(t))
	p.sellOut(t, func(accepted func(int) func() bool) {
		p.until(t, "viewers buy", accepted(40))
		server.Stop(t)
		server.Resume(t)
		p.until(t, "viewers buy after a restart", accepted(90))
		server.Kill(t)
		server.Resume(t)
		p.until(t, "viewers buy after a crash", accepted(140))
	})
}
