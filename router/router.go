// Package router is the shell of a router: it knows the regions, measures and forwards, and tells SREs what it did.
//
//	gossip or flags --> targets --> measure.Table --snapshots--> forward.Forwarder <--calls-- listeners
//	                      |  connections   ^                          |
//	                      +--------> probes and calls                 +--> the last 4,096 decisions --> RouterAdminService
//	                                                                  +--> windows --+ peers' --> slips --> log, webhooks
//
// A router is stateless: nothing of it must survive a restart. Whoever is in gossip or in the flags is probed; nobody
// else's word makes a node reachable. Reads of RouterAdminService cover the fleet: the asked router asks its peers for
// 500 ms and names the silent ones.
//
// The choice is router/arbiter's, the measuring router/measure's, the calls router/forward's.
package router

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	randv2 "math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/router/alert"
	"github.com/rimlight/rimlight/router/audit"
	"github.com/rimlight/rimlight/router/forward"
	"github.com/rimlight/rimlight/router/measure"
	"github.com/rimlight/rimlight/router/slo"
)

// Region is one node of a region as the flags name it.
type Region struct {
	Name    string   // the region's
	Address string   // HOST:PORT, or whatever Deps.Dial understands
	Zones   []string // residency zones, until the node tells its own
}

// Config is a router's configuration.
type Config struct {
	// Name of this router, unique in the fleet, without slash. Decision ids begin with it. Required.
	Name string
	// Regions that are known without gossip. May be empty where there is gossip.
	Regions []Region
	// ForwardServices are the full names of further services that the regions' backends serve.
	ForwardServices []string
	// MaxMessageBytes is the largest message taken from a backend. Default 4 MiB.
	MaxMessageBytes int
	// MemoryFile keeps what was measured for the router's next start, each minute and at the end; what is there already is
	// read unless it is older than a week. Its directory must exist. Empty: nothing is kept, and calls wait for the first
	// probes, 400 ms at most.
	MemoryFile string
	// Measure is how nodes are probed; the zero value takes every default.
	Measure measure.Config
	// Forward is how calls are passed on; the zero value takes every default. Router, Services and MaxMessageBytes are
	// taken from above.
	Forward forward.Config
	// SLO is which calls count as late, and how many of them are a slip; the zero value takes every default.
	SLO slo.Config
	// Webhooks are told of slips that begin and end. Give them to one router, or to two: each tells by itself.
	Webhooks alert.Config
	// Drills lets operators break regions for a while with InjectFault. Never where viewers pay.
	Drills bool
}

func (c Config) forward() forward.Config {
	f := c.Forward
	f.Router, f.Services, f.MaxMessageBytes = c.Name, c.ForwardServices, c.MaxMessageBytes
	return f
}

// Validate reports everything that is wrong with the configuration.
func (c Config) Validate() error {
	errs := []error{c.forward().Validate(), c.Measure.Validate(), c.SLO.Validate(), c.Webhooks.Validate()}
	seen := map[endpoint]bool{}
	for i, r := range c.Regions {
		id := endpoint{r.Name, r.Address}
		switch {
		case r.Name == "" || r.Address == "":
			errs = append(errs, fmt.Errorf("Regions[%d]: name and address are required", i))
		case seen[id]:
			errs = append(errs, fmt.Errorf("Regions[%d]: %s at %s is there twice", i, r.Name, r.Address))
		}
		seen[id] = true
	}
	return errors.Join(errs...)
}

// Conn is a connection to a node or to another router; *grpc.ClientConn is one.
type Conn interface {
	grpc.ClientConnInterface
	io.Closer
}

// Deps is what a router needs of others.
type Deps struct {
	// Dial connects to a region's node (name: its region) or to a peer (name: the router). It must not block: it may
	// connect later. The router closes what it dialled.
	Dial func(name, address string) (Conn, error)
	// Policy chooses where calls go; nil: router/arbiter.
	Policy forward.Policy
	// Membership is the gossip; nil without.
	Membership Membership
	// Central services by full name, forwarded without a choice, on the operator port only.
	Central map[string]grpc.ClientConnInterface
	// TimeBack decides what viewers get back of a drop's window after late answers; nil: nobody does.
	TimeBack TimeBack
	// Audit keeps what operators change; default: in memory. The router does not close it.
	Audit *audit.Log
	// Paths measures the ways to the other members of the ring; nil: nothing is measured.
	Paths func(context.Context) []*regionv1.Path
	// Saboteur breaks links and processes for drills; nil: nobody can.
	Saboteur Saboteur

	Now     func() time.Time      // stamps; default time.Now
	Random  io.Reader             // ids and draws; default crypto/rand
	Log     *slog.Logger          // default: none
	Metrics prometheus.Registerer // every metric gets the label router; nil: nowhere
	Version string                // this program's
}

// Router is one router of the fleet.
type Router struct {
	routerv1.UnimplementedRouterAdminServiceServer

	config    Config
	deps      Deps
	table     *measure.Table
	forwarder *forward.Forwarder
	decisions *decisions
	slo       *watcher
	slips     *slipFeed
	hooks     *alert.Sender
	delays    *delays
	nodes     *pool         // connections to region nodes, by measure.Target.Key
	peers     *pool         // connections to other routers, by the same form of key
	met       chan struct{} // the peers may be others

	stopping context.Context // ends watches
	stop     context.CancelFunc
}

// New makes a router and dials its static regions. It starts nothing.
func New(config Config, deps Deps) (*Router, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("router: %w", err)
	}
	deps = deps.withDefaults(config.Name)
	r := &Router{
		config: config, deps: deps, decisions: newDecisions(), slo: newWatcher(config.SLO, deps.Metrics),
		slips:  newSlipFeed(ids.NewV7(deps.Now(), deps.Random)),
		delays: newDelays(deps), nodes: &pool{dial: deps.Dial}, peers: &pool{dial: deps.Dial},
		met: make(chan struct{}, 1),
	}
	prober := &forward.Prober{Router: config.Name, Conn: r.nodes.get}
	var err error
	r.hooks, err = alert.New(config.Webhooks, alert.Deps{
		Now: deps.Now, Log: deps.Log, Metrics: deps.Metrics,
	})
	if err != nil {
		return nil, fmt.Errorf("router: %w", err)
	}
	seeds, err := r.seeds()
	if err != nil {
		return nil, fmt.Errorf("router: %w", err)
	}
	r.table, err = measure.New(config.Measure, measure.Deps{
		Prober: prober, Now: deps.Now, Random: seeds(), Log: deps.Log,
		Metrics: deps.Metrics,
	})
	if err != nil {
		return nil, fmt.Errorf("router: %w", err)
	}
	draws := &lockedRand{rand: seeds()}
	r.forwarder, err = forward.New(config.forward(), forward.Deps{
		Measured: r.table, Policy: deps.Policy, Conn: r.nodes.get, Central: deps.Central, Record: r.record,
		Now: deps.Now, Random: deps.Random, Draw: draws.Float64, Log: deps.Log, Metrics: deps.Metrics,
	})
	if err != nil {
		return nil, fmt.Errorf("router: %w", err)
	}
	prober.Probed = r.forwarder.Probed
	r.stopping, r.stop = context.WithCancel(context.Background())
	r.remember()
	r.follow()
	return r, nil
}

func (d Deps) withDefaults(name string) Deps {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Random == nil {
		d.Random = rand.Reader
	}
	d.Random = &lockedReader{reader: d.Random}
	if d.Metrics != nil { // several routers may share a process, as in `rimlight dev`
		d.Metrics = prometheus.WrapRegistererWith(prometheus.Labels{"router": name}, d.Metrics)
	}
	if d.Audit == nil {
		d.Audit, _ = audit.Open("") // in memory nothing fails
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	return d
}

// Rules are the roles that RouterAdminService asks for.
func Rules() auth.Rules {
	return auth.Rules{
		routerv1.RouterAdminService_SetRegionMode_FullMethodName:    {auth.SRE},
		routerv1.RouterAdminService_ListAuditEntries_FullMethodName: {auth.SRE},
		routerv1.RouterAdminService_InjectFault_FullMethodName:      {auth.SRE},
		routerv1.RouterAdminService_Check_FullMethodName:            {auth.SRE}, // it makes the whole fleet send
	}
}

// Register registers RouterAdminService, for the operator port.
func (r *Router) Register(s grpc.ServiceRegistrar) { routerv1.RegisterRouterAdminServiceServer(s, r) }

// Handler forwards whatever no registered service takes: the public port's grpc.UnknownServiceHandler. The server side
// must use frame.Codec.
func (r *Router) Handler() grpc.StreamHandler { return r.forwarder.Handle }

// OperatorHandler is Handler for the operator port, where the central services are forwarded, too.
func (r *Router) OperatorHandler() grpc.StreamHandler { return r.forwarder.HandleOperator }

// Ready is closed once the regions were probed, or 400 ms after Run started. Serve from then on.
func (r *Router) Ready() <-chan struct{} { return r.table.Ready() }

// Run follows gossip and probes until the context ends; then streams end with DRAINING, so stop the listeners
// gracefully afterwards. When it returns, its goroutines have ended and unary calls still pass; Close ends those.
func (r *Router) Run(ctx context.Context) error {
	defer r.stop()
	defer r.forwarder.Stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.table.Run(ctx) })
	g.Go(func() error { return r.followAll(ctx) })
	g.Go(func() error { return r.keepMemory(ctx) })
	g.Go(func() error { return r.hearPeers(ctx) })
	g.Go(func() error { return r.watchSLO(ctx) })
	g.Go(func() error { return r.hooks.Run(ctx) })
	g.Go(func() error { return r.delays.run(ctx) })
	return g.Wait()
}

// record takes in a finished call.
func (r *Router) record(d *forward.Decision) {
	r.decisions.add(d)
	r.slo.record(d)
}

// Close closes the connections, after the listeners have stopped.
func (r *Router) Close() error { return errors.Join(r.nodes.close(), r.peers.close()) }

// seeds reads randomness for generators that need no secrecy.
func (r *Router) seeds() (func() *randv2.Rand, error) {
	var seed [16]byte
	if _, err := io.ReadFull(r.deps.Random, seed[:]); err != nil {
		return nil, fmt.Errorf("reading randomness: %w", err)
	}
	a, b := binary.LittleEndian.Uint64(seed[:8]), binary.LittleEndian.Uint64(seed[8:])
	next := uint64(0)
	return func() *randv2.Rand {
		next++
		return randv2.New(randv2.NewPCG(a, b+next))
	}, nil
}

// lockedReader makes a reader safe for concurrent use.
type lockedReader struct {
	mu     sync.Mutex
	reader io.Reader
}

// Read implements io.Reader.
func (l *lockedReader) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reader.Read(p)
}

// lockedRand makes a generator safe for concurrent use.
type lockedRand struct {
	mu   sync.Mutex
	rand *randv2.Rand
}

// Float64 draws from [0,1).
func (l *lockedRand) Float64() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rand.Float64()
}
