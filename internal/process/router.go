package process

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/gossip"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/router"
	"github.com/rimlight/rimlight/router/alert"
	"github.com/rimlight/rimlight/router/audit"
	"github.com/rimlight/rimlight/router/forward"
	"github.com/rimlight/rimlight/router/slo"
	"github.com/rimlight/rimlight/web"
)

// Router is what a router needs beyond Common. In DataDir it keeps what operators changed and what it measured, for the next
// start; without one that is kept in memory alone.
type Router struct {
	Common
	// Name of the router, unique in the fleet.
	Name string
	// Operator serves the operator port on Listen too, as `rimlight dev` does. Otherwise, or if Listen speaks TLS, which
	// other routers do not, AdminListen does, and AdminAdvertise is where they reach it when that is another address.
	Operator                    bool
	AdminListen, AdminAdvertise string
	// TLS secures the public port, with HTTP/2 and HTTP/1.1; nil: plaintext.
	TLS *tls.Config
	// Regions are nodes that are known without gossip, name to address.
	Regions map[string]string
	// ForwardServices are full names of further services that the regions' backends serve.
	ForwardServices []string
	// Fulfillment and Verifier are addresses, for the operator port; several, of replicas, are separated by commas; may be
	// empty.
	Fulfillment, Verifier string
	// MaxRecvBytes is the longest message of the ForwardServices; 0: 4 MiB from backends, 16 KiB from their callers, which
	// is what viewers have in any case.
	MaxRecvBytes int
	// MaxConnections and MaxStreams are how much the public port holds; 0: 16,000 and 20,000.
	MaxConnections, MaxStreams int
	// DialCentre and DialTo open connections to the centre and to a region or router by name; nil: TCP.
	DialCentre Dialer
	DialTo     func(name string) Dialer
	Gossip     Gossip
	// SLO is which calls count as late, and how many of them are a slip.
	SLO slo.Config
	// Webhooks are told of slips that begin and end.
	Webhooks alert.Config
	// Drills lets operators break regions for a while; Saboteur does what the nodes cannot.
	Drills   bool
	Saboteur router.Saboteur
	// Pages are what a browser sees at / of the public port, if that is the operator port, too; the router's own page is at
	// /status then. nil: only that one.
	Pages http.Handler
	// Policy chooses where calls go; nil: the router's own.
	Policy forward.Policy
}

// RouterProcess is a running router.
type RouterProcess struct {
	Process
	// GossipAddr is the ring's address; empty without gossip.
	GossipAddr string
	// AdminAddr is where the operator port is.
	AdminAddr string

	router *router.Router
}

// Ready is closed when every region that was known at the start was asked once.
func (p *RouterProcess) Ready() <-chan struct{} { return p.router.Ready() }

// Reaches tells whether a node of every one of these regions answers the router's probes.
func (p *RouterProcess) Reaches(regions ...string) bool {
	resp, err := p.router.ListRegions(context.Background(), &routerv1.ListRegionsRequest{LocalOnly: true})
	if err != nil { // never: it asks nobody
		return false
	}
	reached := map[string]bool{}
	for _, r := range resp.GetRegions() {
		reached[r.GetName()] = reached[r.GetName()] || r.GetReachable()
	}
	return !slices.ContainsFunc(regions, func(name string) bool { return !reached[name] })
}

// StartRouter opens a router's ports and joins the ring.
func StartRouter(ctx context.Context, c Router) (_ *RouterProcess, err error) {
	p := &RouterProcess{}
	defer func() {
		if err != nil {
			p.abandon()
		}
	}()
	if err := p.observe(c.Common, "router", c.Name); err != nil {
		return nil, err
	}
	log := c.Log.With("service", "router", "router", c.Name)
	central, err := p.central(c)
	if err != nil {
		return nil, err
	}
	// The ports are opened first: the ring tells others where the operator port is.
	lis, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("listening for the router's public port: %w", err)
	}
	p.listener = lis
	p.onClose(func() error { _ = lis.Close(); return nil }) // the server closes it, unless it never ran
	admin := lis
	if c.separateAdmin() {
		if admin, err = net.Listen("tcp", c.AdminListen); err != nil {
			return nil, fmt.Errorf("listening for the router's operator port: %w", err)
		}
		p.onClose(func() error { _ = admin.Close(); return nil })
	}
	p.AdminAddr = admin.Addr().String()

	auditPath := ""
	if c.DataDir != "" {
		auditPath = filepath.Join(c.DataDir, "audit.jsonl")
	}
	changes, err := audit.Open(auditPath)
	if err != nil {
		return nil, err
	}
	p.onClose(changes.Close)
	deps := router.Deps{
		Audit: changes, Saboteur: c.Saboteur,
		Dial: p.dialTo(c), Policy: c.Policy, Central: central, Now: time.Now, Random: rand.Reader, Log: log, Metrics: c.registerer(), Version: c.Version,
	}
	if c.Fulfillment != "" && c.Tokens[auth.Service] != "" {
		conn, err := p.dial(c.Common, c.Fulfillment, c.DialCentre)
		if err != nil { // a router needs no centre to serve
			log.Warn("late answers cannot be reported to fulfillment: viewers get no time back", "error", err)
		} else {
			deps.TimeBack = fulfillmentv1.NewCatalogServiceClient(conn)
		}
	}
	var ring *gossip.Ring
	if c.Gossip.Listen != "" {
		ring, err = gossip.New(gossip.Config{
			Role: gossip.RoleRouter, Name: c.Name, BindAddr: c.Gossip.Listen, AdvertiseAddr: c.Gossip.Advertise, Seeds: c.Gossip.Seeds,
			Keys: c.Gossip.Keys, RPCAddress: cmp.Or(c.AdminAdvertise, p.AdminAddr), Version: c.Version, Log: log,
		})
		if err != nil {
			return nil, err
		}
		p.onClose(ring.Close)
		p.GossipAddr = ring.Addr()
		deps.Membership, deps.Paths = membership{ring}, ring.Paths
		p.stages = append(p.stages, Stage{"the router's gossip", ring.Run})
	}
	cfg := router.Config{
		Name: c.Name, ForwardServices: c.ForwardServices, MaxMessageBytes: c.MaxRecvBytes, SLO: c.SLO, Drills: c.Drills,
		Webhooks: c.Webhooks,
	}
	if c.DataDir != "" {
		cfg.MemoryFile = filepath.Join(c.DataDir, "measured.json")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Regions)) {
		cfg.Regions = append(cfg.Regions, router.Region{Name: name, Address: c.Regions[name]})
	}
	if p.router, err = router.New(cfg, deps); err != nil {
		return nil, err
	}
	p.onClose(p.router.Close)
	return p, p.serve(c, lis, admin, slices.Sorted(maps.Keys(central)))
}

// separateAdmin tells whether the operator port is a port of its own.
func (c Router) separateAdmin() bool { return !c.Operator || c.TLS != nil }

// serve makes the servers behind the ports. Streams end first, with a word that their clients understand; then the
// ports close.
func (p *RouterProcess) serve(c Router, public, admin net.Listener, central []string) error {
	p.stages = append(p.stages, Stage{"the router", p.router.Run})
	regions := func(ctx context.Context) ([]*routerv1.RegionStatus, error) {
		resp, err := p.router.ListRegions(ctx, &routerv1.ListRegionsRequest{LocalOnly: true})
		return resp.GetRegions(), err
	}
	forwarded := append([]string{offerv1.OfferService_ServiceDesc.ServiceName}, c.ForwardServices...)
	everything := slices.Concat(forwarded, central)
	status := statusPage(c.Name, c.Version, regions, c.Log)
	console, err := web.Console(web.ConsoleSettings{Router: c.Name, Version: c.Version, Drills: c.Drills})
	if err != nil {
		return err
	}
	front, err := p.server(c.Common, "router", router.Rules(), func(cfg *rpc.ServerConfig) {
		cfg.Public, cfg.MaxRecvBytes, cfg.Unknown, cfg.Forwarded, cfg.HTTP = true, c.MaxRecvBytes, p.router.Handler(), forwarded, status
		cfg.TLS, cfg.MaxConnections, cfg.MaxStreams = c.TLS, c.MaxConnections, c.MaxStreams
		if c.Operator {
			cfg.Forwarded = everything
			cfg.Unknown, cfg.Channelz, cfg.HTTP = p.router.OperatorHandler(), true, operatorPages(status, console, c.Metrics, c.Pages)
		}
	})
	if err != nil {
		return err
	}
	if c.Operator {
		p.router.Register(front)
	}
	if c.separateAdmin() {
		back, err := p.server(c.Common, "router-admin", router.Rules(), func(cfg *rpc.ServerConfig) {
			cfg.Forwarded = everything
			cfg.Unknown, cfg.Channelz, cfg.HTTP = p.router.OperatorHandler(), true, operatorPages(status, console, c.Metrics, nil)
		})
		if err != nil {
			return err
		}
		p.router.Register(back)
		p.stages = append(p.stages, Stage{"the router's operator port", func(ctx context.Context) error { return back.ServePublic(ctx, admin) }})
	}
	p.stages = append(p.stages, Stage{"the router's public port", func(ctx context.Context) error { return front.ServePublic(ctx, public) }})
	return nil
}

// central connects to the services of the centre that operators reach through a router.
func (p *RouterProcess) central(c Router) (map[string]grpc.ClientConnInterface, error) {
	central := map[string]grpc.ClientConnInterface{}
	for addr, services := range map[string][]string{
		c.Fulfillment: {
			fulfillmentv1.CatalogService_ServiceDesc.ServiceName, fulfillmentv1.FenceService_ServiceDesc.ServiceName,
			fulfillmentv1.OrderService_ServiceDesc.ServiceName,
		},
		c.Verifier: {verifierv1.SupportService_ServiceDesc.ServiceName, verifierv1.TestPaymentService_ServiceDesc.ServiceName},
	} {
		if addr == "" {
			continue
		}
		// Without a token of its own: the caller's passes through, and with it the caller's role.
		conn, err := rpc.Dial(addr, rpc.DialConfig{Dialer: c.DialCentre})
		if err != nil {
			return nil, err
		}
		p.onClose(conn.Close)
		for _, s := range services {
			central[s] = conn
		}
	}
	return central, nil
}

func (p *RouterProcess) dialTo(c Router) func(name, address string) (router.Conn, error) {
	return func(name, address string) (router.Conn, error) {
		cfg := rpc.DialConfig{}
		if c.DialTo != nil {
			cfg.Dialer = c.DialTo(name)
		}
		return rpc.DialLanes(address, cfg)
	}
}

// membership shows the ring to the router, in the router's words.
type membership struct{ *gossip.Ring }

// Members implements router.Membership.
func (m membership) Members() []router.Member {
	ring := m.Ring.Members()
	members := make([]router.Member, len(ring))
	for i, g := range ring {
		members[i] = router.Member{
			ID: g.MemberName, Role: memberRoles[g.Role], Name: g.Name, Address: g.RPCAddress, Zones: g.Zones, Mode: g.Mode,
			NodeID: g.NodeID, State: router.State(g.State), Version: g.Version,
		}
	}
	return members
}

var memberRoles = map[gossip.Role]router.Role{gossip.RoleRouter: router.RoleRouter, gossip.RoleRegion: router.RoleRegion}
