package router_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/rpc/frame"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/router"
	"github.com/rimlight/rimlight/router/forward"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ms = time.Millisecond

// network is servers by address, over in-memory links.
type network struct {
	t         *testing.T
	mu        sync.Mutex
	listeners map[string]*bufconn.Listener
	closed    atomic.Int32 // connections closed
}

func (n *network) serve(address string, register func(grpc.ServiceRegistrar), options ...grpc.ServerOption) {
	listener := n.listen(address)
	s := grpc.NewServer(append(options, grpc.WaitForHandlers(true))...)
	register(s)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(listener) }) // ends with Stop
	n.t.Cleanup(func() {
		s.Stop()
		serving.Wait()
	})
}

// listen opens an address; connections wait there until somebody serves it.
func (n *network) listen(address string) *bufconn.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[address] == nil {
		n.listeners[address] = bufconn.Listen(1 << 16)
	}
	return n.listeners[address]
}

// countingConn counts its closing.
type countingConn struct {
	*grpc.ClientConn
	closed *atomic.Int32
}

// Close implements io.Closer.
func (c countingConn) Close() error {
	c.closed.Add(1)
	return c.ClientConn.Close()
}

// dial connects by address; an address without a server is a black hole.
func (n *network) dial(_, address string) (router.Conn, error) {
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			n.mu.Lock()
			listener := n.listeners[address]
			n.mu.Unlock()
			if listener == nil {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return listener.DialContext(ctx)
		}))
	return countingConn{conn, &n.closed}, err
}

// regionNode is a region's node as far as a router sees it.
type regionNode struct {
	regionv1.UnimplementedRegionServiceServer
	offerv1.UnimplementedOfferServiceServer
	name    string
	service time.Duration

	mu     sync.Mutex
	mode   regionv1.RegionMode
	slow   time.Duration // how long reads take
	bearer string        // of the last SetMode
	expire time.Duration // of the last SetMode
	faults []*regionv1.Fault
	broken error // what reads end in
	refuse error
	health health
}

// Probe implements rimlight.region.v1.RegionService.
//
//rimlight:bubble it answers in virtual time
func (r *regionNode) Probe(context.Context, *regionv1.ProbeRequest) (*regionv1.ProbeResponse, error) {
	time.Sleep(r.service)
	r.mu.Lock()
	defer r.mu.Unlock()
	return &regionv1.ProbeResponse{
		NodeId: "id-" + r.name, Region: r.name, Mode: r.mode, Zones: []string{"earth"}, Version: "v9", JournalLag: 7, Faults: r.faults,
		Load: &regionv1.LoadReport{Residence: durationpb.New(0), ServiceTime: durationpb.New(r.service + r.slow), Parallelism: 4},
	}, nil
}

// SetMode implements rimlight.region.v1.RegionService.
func (r *regionNode) SetMode(ctx context.Context, q *regionv1.SetModeRequest) (*regionv1.SetModeResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		return nil, r.refuse
	}
	r.bearer = strings.Join(metadata.ValueFromIncomingContext(ctx, "authorization"), ",")
	previous := r.mode
	r.mode, r.expire = q.GetMode(), q.GetExpireAfter().AsDuration()
	return &regionv1.SetModeResponse{PreviousMode: previous, Mode: r.mode}, nil
}

// GetPurchase implements rimlight.offer.v1.OfferService.
func (r *regionNode) GetPurchase(ctx context.Context, _ *offerv1.GetPurchaseRequest) (*offerv1.GetPurchaseResponse, error) {
	r.mu.Lock()
	slow, broken := r.slow, r.broken
	r.mu.Unlock()
	if broken != nil {
		return nil, broken
	}
	if slow > 0 { // a timer that is due at once can end the race detector in a bubble: golang.org/issue/78156
		select {
		case <-time.After(slow):
		case <-ctx.Done():
		}
	}
	return &offerv1.GetPurchaseResponse{Purchase: &offerv1.Purchase{PurchaseId: r.name}}, nil
}

// ring implements router.Membership.
type ring struct {
	mu      sync.Mutex
	members []router.Member
	changes chan struct{}
}

// Members implements router.Membership.
func (r *ring) Members() []router.Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.members
}

// Changes implements router.Membership.
func (r *ring) Changes() <-chan struct{} { return r.changes }

func (r *ring) set(members ...router.Member) {
	r.mu.Lock()
	r.members = members
	r.mu.Unlock()
	select {
	case r.changes <- struct{}{}:
	default:
	}
}

func routerMember(name string) router.Member {
	return router.Member{ID: "router/" + name + "/1", Role: router.RoleRouter, Name: name, Address: name + ":1", State: router.Alive}
}

func regionMember(name string) router.Member {
	return router.Member{
		ID: "region/" + name + "/1", Role: router.RoleRegion, Name: name, Address: name + ":1", State: router.Alive,
		Mode: regionv1.RegionMode_REGION_MODE_SERVING, NodeID: "id-" + name, Version: "v9",
	}
}

// fleet is two routers, r1 and r2, and the regions near and far, in virtual time. Gossip also tells of a router r3 that
// never answers.
type fleet struct {
	*network
	ring    *ring
	routers map[string]*router.Router
	regions map[string]*regionNode
	admin   routerv1.RouterAdminServiceClient // of r1
	viewer  map[string]offerv1.OfferServiceClient
}

func inFleet(t *testing.T, test func(t *testing.T, f *fleet)) {
	inFleetWith(t, func(*router.Config, *router.Deps) {}, test)
}

// inFleetWith is a fleet of routers that are a little different.
func inFleetWith(t *testing.T, change func(*router.Config, *router.Deps), test func(t *testing.T, f *fleet)) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{
			network: &network{t: t, listeners: map[string]*bufconn.Listener{}}, ring: &ring{changes: make(chan struct{}, 1)},
			routers: map[string]*router.Router{}, regions: map[string]*regionNode{}, viewer: map[string]offerv1.OfferServiceClient{},
		}
		for i, name := range []string{"near", "far"} {
			n := &regionNode{name: name, service: time.Duration(2+30*i) * ms, mode: regionv1.RegionMode_REGION_MODE_SERVING}
			f.regions[name] = n
			f.serve(name+":1", func(s grpc.ServiceRegistrar) {
				regionv1.RegisterRegionServiceServer(s, n)
				offerv1.RegisterOfferServiceServer(s, n)
			})
		}
		f.ring.members = []router.Member{routerMember("r1"), routerMember("r2"), routerMember("r3"), regionMember("near"), regionMember("far")}
		for _, name := range []string{"r1", "r2"} {
			f.listen(name + ":1") // ports are open before the ring tells of them
		}
		for i, name := range []string{"r1", "r2"} {
			f.start(t, name, uint64(i), change)
		}
		conn, err := f.dial("", "r1:1")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closing(t, conn) })
		f.admin = routerv1.NewRouterAdminServiceClient(conn)
		test(t, f)
	})
}

func closing(t *testing.T, c io.Closer) {
	if err := c.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
}

// start runs a router with gossip and serves it at NAME:1.
func (f *fleet) start(t *testing.T, name string, seed uint64, change func(*router.Config, *router.Deps)) {
	var membership router.Membership = f.ring
	if name == "r2" { // the first ring's changes are r1's
		membership = &ring{members: f.ring.members}
	}
	config, deps := router.Config{Name: name}, router.Deps{
		Dial: f.dial, Membership: membership, Random: mathrand.NewChaCha8([32]byte{byte(seed)}), Version: "v9",
	}
	change(&config, &deps)
	r, err := router.New(config, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	f.serve(name+":1", r.Register, grpc.ForceServerCodecV2(frame.Codec{}), grpc.UnknownServiceHandler(r.OperatorHandler()))
	conn, err := f.dial("", name+":1")
	if err != nil {
		t.Fatal(err)
	}
	f.viewer[name] = offerv1.NewOfferServiceClient(conn)
	t.Cleanup(func() {
		cancel()
		running.Wait()
		closing(t, conn)
		closing(t, r)
	})
	<-r.Ready()
	f.routers[name] = r
}

// buy makes one call through a router and gives the decision's id.
func (f *fleet) read(t *testing.T, name string) string {
	t.Helper()
	var header metadata.MD
	if _, err := f.viewer[name].GetPurchase(t.Context(), &offerv1.GetPurchaseRequest{}, grpc.Header(&header)); err != nil {
		t.Fatal(err)
	}
	ids := header.Get(forward.HeaderDecision)
	if len(ids) != 1 || !strings.HasPrefix(ids[0], name+"/") {
		t.Fatalf("got decision ids %q", ids)
	}
	return ids[0]
}

func wantStatus(t *testing.T, err error, code codes.Code, reason string) {
	t.Helper()
	if got := strings.TrimPrefix(rpcerr.Reason(err).String(), "REASON_"); status.Code(err) != code || got != reason {
		t.Errorf("got %v, want %v with reason %s", err, code, reason)
	}
}

func TestListRegionsCoversTheFleetAndNamesTheSilent(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		f.read(t, "r1")
		start := time.Now()
		got, err := f.admin.ListRegions(t.Context(), &routerv1.ListRegionsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 500*ms {
			t.Errorf("took %v, want the 500 ms that a silent router gets", took)
		}
		if len(got.GetRegions()) != 2 || got.GetRegions()[0].GetName() != "far" || got.GetRouter() != "r1" {
			t.Errorf("got %v", got)
		}
		near := got.GetRegions()[1]
		if !near.GetReachable() || near.GetShare() != 1 || near.GetJournalLag() != 7 || near.GetVersion() != "v9" ||
			near.GetNodeId() != "id-near" || near.GetLastAnswerTime() == nil || near.GetService().AsDuration() != 2*ms {
			t.Errorf("got %v", near)
		}
		if len(got.GetPeers()) != 1 || got.GetPeers()[0].GetRouter() != "r2" || len(got.GetPeers()[0].GetRegions()) != 2 {
			t.Errorf("got peers %v", got.GetPeers())
		}
		if s := got.GetSilentRouters(); len(s) != 1 || s[0] != "r3" {
			t.Errorf("got silent %v", s)
		}
	})
}

func TestPagesFollowEachOther(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		var names []string
		request := &routerv1.ListRegionsRequest{LocalOnly: true, PageSize: 1}
		for range 3 {
			got, err := f.admin.ListRegions(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, got.GetRegions()[0].GetName())
			if request.PageToken = got.GetNextPageToken(); request.PageToken == "" {
				break
			}
		}
		if strings.Join(names, " ") != "far near" {
			t.Errorf("got %v", names)
		}
		for _, token := range []string{"x", "-1"} {
			_, err := f.admin.ListRegions(t.Context(), &routerv1.ListRegionsRequest{PageToken: token})
			wantStatus(t, err, codes.InvalidArgument, "INVALID_REQUEST")
			_, err = f.admin.ListDecisions(t.Context(), &routerv1.ListDecisionsRequest{PageToken: token})
			wantStatus(t, err, codes.InvalidArgument, "INVALID_REQUEST")
		}
	})
}

func TestSetRegionMode(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer secret")
		set := func(region string, mode regionv1.RegionMode, force bool) error {
			got, err := f.admin.SetRegionMode(ctx, &routerv1.SetRegionModeRequest{RequestId: "x", Region: region, Mode: mode, Force: force})
			if err == nil && (len(got.GetRegions()) != 1 || got.GetRegions()[0].GetMode() != mode) {
				t.Errorf("got %v", got)
			}
			return err
		}
		wantStatus(t, set("mars", regionv1.RegionMode_REGION_MODE_DRAINED, true), codes.NotFound, "REGION_NOT_FOUND")
		if err := set("near", regionv1.RegionMode_REGION_MODE_DRAINED, false); err != nil {
			t.Fatal(err)
		}
		if f.regions["near"].bearer != "Bearer secret" {
			t.Errorf("the node saw %q", f.regions["near"].bearer)
		}
		got, err := f.viewer["r1"].GetPurchase(ctx, &offerv1.GetPurchaseRequest{}) // at once, without waiting for a probe
		if err != nil || got.GetPurchase().GetPurchaseId() != "far" {
			t.Errorf("got %v and %v, want far", got, err)
		}
		wantStatus(t, set("far", regionv1.RegionMode_REGION_MODE_CORDONED, false), codes.FailedPrecondition, "LAST_REGION")
		if err := set("far", regionv1.RegionMode_REGION_MODE_DRAINED, true); err != nil {
			t.Fatal(err)
		}
		_, err = f.viewer["r1"].GetPurchase(ctx, &offerv1.GetPurchaseRequest{})
		wantStatus(t, err, codes.Unavailable, "NO_REGION")
		if err := set("near", regionv1.RegionMode_REGION_MODE_SERVING, false); err != nil {
			t.Fatal(err)
		}
		f.read(t, "r1")
	})
}

func TestSetRegionModePassesTheNodesRefusal(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		drain := &routerv1.SetRegionModeRequest{RequestId: "x", Region: "near", Mode: regionv1.RegionMode_REGION_MODE_DRAINED}
		f.regions["near"].refuse = rpcerr.New(codes.PermissionDenied, 51, "No.")
		_, err := f.admin.SetRegionMode(t.Context(), drain)
		wantStatus(t, err, codes.PermissionDenied, "ROLE_NOT_ALLOWED")
		f.regions["near"].refuse = status.Error(codes.Unavailable, "dial tcp 10.0.0.1: refused")
		_, err = f.admin.SetRegionMode(t.Context(), drain)
		wantStatus(t, err, codes.Unavailable, "UPSTREAM_UNREACHABLE")
	})
}

func TestGetRttMatrix(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		time.Sleep(3 * time.Second) // the first probes took the connections' setup, too
		got, err := f.admin.GetRttMatrix(t.Context(), &routerv1.GetRttMatrixRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var cells []string
		for _, c := range got.GetCells() {
			cells = append(cells, fmt.Sprintf("%s-%s %v", c.GetRouter(), c.GetRegion(), c.GetRtt().AsDuration().Round(ms)))
		}
		if want := "r1-far 32ms r1-near 2ms r2-far 32ms r2-near 2ms"; strings.Join(cells, " ") != want {
			t.Errorf("got %v, want %v", cells, want)
		}
		if s := got.GetSilentRouters(); len(s) != 1 || s[0] != "r3" {
			t.Errorf("got silent %v", s)
		}
	})
}

func TestListMembers(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		got, err := f.admin.ListMembers(t.Context(), &routerv1.ListMembersRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, m := range got.GetMembers() {
			names = append(names, fmt.Sprintf("%s:%s:%v", m.GetName(), m.GetGossipState(), m.GetReachable()))
		}
		if want := "r1:alive:false r2:alive:false r3:alive:false far:alive:true near:alive:true"; strings.Join(names, " ") != want {
			t.Errorf("got %v, want %v", names, want)
		}
	})
}

func TestTheTableFollowsGossip(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		dead := regionMember("near")
		dead.State = router.Dead
		f.ring.set(routerMember("r1"), dead, regionMember("far"))
		time.Sleep(ms)
		got, err := f.admin.ListRegions(t.Context(), &routerv1.ListRegionsRequest{})
		if err != nil || len(got.GetRegions()) != 1 || len(got.GetPeers())+len(got.GetSilentRouters()) != 0 {
			t.Errorf("got %v and %v, want far alone and no peers", got, err)
		}
		if n := f.closed.Load(); n != 0 {
			t.Errorf("%d connections closed at once; calls may be in them", n)
		}
		time.Sleep(10 * time.Second)
		if n := f.closed.Load(); n != 3 { // near, r2, r3
			t.Errorf("%d connections closed, want 3", n)
		}
		f.ring.set(regionMember("near"), regionMember("far"))
		time.Sleep(100 * ms)
		got, err = f.admin.ListRegions(t.Context(), &routerv1.ListRegionsRequest{})
		if err != nil || len(got.GetRegions()) != 2 || !got.GetRegions()[1].GetReachable() {
			t.Errorf("got %v and %v, want near back and reachable", got, err)
		}
	})
}

func TestWatchRegions(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := f.admin.WatchRegions(ctx, &routerv1.WatchRegionsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for range 3 {
			if got, err := stream.Recv(); err != nil || len(got.GetRegions()) != 2 {
				t.Fatalf("got %v and %v", got, err)
			}
		}
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("three messages took %v, want 2s", took)
		}
		cancel()
		if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
			t.Errorf("got %v", err)
		}
	})
}

func TestFlagsAloneAreEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{t: t, listeners: map[string]*bufconn.Listener{}}
		node := &regionNode{name: "near", service: 2 * ms, mode: regionv1.RegionMode_REGION_MODE_SERVING}
		n.serve("a:1", func(s grpc.ServiceRegistrar) { regionv1.RegisterRegionServiceServer(s, node) })
		n.serve("b:1", func(grpc.ServiceRegistrar) {}) // a foreign backend: neither RegionService nor health
		r, err := router.New(router.Config{Name: "r1", Regions: []router.Region{{Name: "near", Address: "a:1"}, {Name: "echo", Address: "b:1"}}},
			router.Deps{Dial: n.dial})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := r.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		<-r.Ready()
		time.Sleep(5 * time.Second)
		got, err := r.ListRegions(ctx, &routerv1.ListRegionsRequest{})
		if err != nil || len(got.GetRegions()) != 2 || !got.GetRegions()[0].GetReachable() || !got.GetRegions()[1].GetReachable() {
			t.Errorf("got %v and %v, want both reachable", got, err)
		}
		members, err := r.ListMembers(ctx, &routerv1.ListMembersRequest{})
		if err != nil || len(members.GetMembers()) != 2 || members.GetMembers()[1].GetVersion() != "v9" {
			t.Errorf("got %v and %v", members, err)
		}
		cancel()
		running.Wait()
		closing(t, r)
	})
}

func TestANodeOfAnotherRegionIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{t: t, listeners: map[string]*bufconn.Listener{}}
		node := &regionNode{name: "far", service: 2 * ms}
		n.serve("a:1", func(s grpc.ServiceRegistrar) { regionv1.RegisterRegionServiceServer(s, node) })
		r, err := router.New(router.Config{Name: "r1", Regions: []router.Region{{Name: "near", Address: "a:1"}}}, router.Deps{Dial: n.dial})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = r.Run(ctx) })
		<-r.Ready()
		got, err := r.ListRegions(ctx, &routerv1.ListRegionsRequest{})
		if err != nil || got.GetRegions()[0].GetReachable() || !strings.Contains(got.GetRegions()[0].GetLastError(), `"far"`) {
			t.Errorf("got %v and %v", got, err)
		}
		cancel()
		running.Wait()
		closing(t, r)
	})
}

func TestValidateReportsAllProblems(t *testing.T) {
	_, err := router.New(router.Config{Regions: []router.Region{{Name: "a", Address: "x"}, {Name: "a", Address: "x"}, {}}, ForwardServices: []string{"a/b"}},
		router.Deps{Dial: func(string, string) (router.Conn, error) { return nil, errors.New("no") }})
	for _, want := range []string{"Router", "Services", "Regions[1]", "Regions[2]"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want something about %s", err, want)
		}
	}
}

func TestRules(t *testing.T) {
	if got := router.Rules()[routerv1.RouterAdminService_SetRegionMode_FullMethodName]; len(got) != 1 || got[0] != auth.SRE {
		t.Errorf("got %v", got)
	}
}
