// Package fulfillment is the service that owns drops, their serial-numbered stock, and the orders that deliver it.
//
//	operators ── CatalogService ──┐                      ┌── WatchCatalog ──> nodes
//	nodes ────── StockService ────┼──> fulfillment/store ┤
//	verifier ─── OrderService ────┘     (SQL, escrow)    └── WatchOrders ───> verifier
//	                                         ^
//	       digital worker (claims, delivers)      router of physical orders ── WorkOrders ──> microfulfillment nodes
//
// Invariants: every RPC that changes something is one database transaction; every one of them is idempotent by an id
// that its caller chose; free + leased + quarantined + sold = units at every commit.
//
// This package is the shell: RPCs, loops, soft state (who is hungry, who watches). What a drop may be is
// fulfillment/catalog, how much to lend is fulfillment/stock, what an order may become is fulfillment/orders, and what
// is durable is fulfillment/store. It knows nothing of money, receipts or viewers.
package fulfillment

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/rimlight/rimlight/fulfillment/orders"
	"github.com/rimlight/rimlight/fulfillment/store"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/dropclock"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/telemetry"
	"github.com/rimlight/rimlight/internal/token"
)

// Config is what an operator may tune. The zero value is the default everywhere.
type Config struct {
	// OrderLease is how long a worker may keep an order without finishing it, before another life of the worker takes it
	// over. Zero means 2 s; from 100 ms to 1 min. Half of it and a slow disk makes two lives race for one order (the
	// fence lets one of them win); double it and an order that a crash interrupted misses the 5 s of delivery.
	OrderLease time.Duration
	// OrderAttempts is how often an order is tried before it is DEAD and goes back to the verifier. Zero means 10; from
	// 1 to 1,000. A crash counts as an attempt.
	OrderAttempts int
	// AcceptWithin is how long a microfulfillment node may take to accept an order, before another node gets it. Zero means
	// 10 s; from 100 ms to 1 h. Half of it and a node on a bad line loses orders that it was about to accept; double it and
	// a node that died makes its orders wait.
	AcceptWithin time.Duration
	// PackWithin is how long a node may keep an order that it accepted, before the parcel may leave; then the order is DEAD
	// and its buyer gets the money back. Zero means 72 h; from 1 s to 30 days.
	PackWithin time.Duration
	// NodeWithin is how long an order waits for a node that can take it; then it is DEAD. Zero means 72 h; from 1 s to 30
	// days. Less than the longest time that a node is closed, and orders of a weekend die.
	NodeWithin time.Duration
	// TimeBack is how much later than planned a drop closes at most because answers to its viewers were late. Zero means
	// 30 s, and no more is taken; below zero: drops close as planned. Never more than a quarter of the window. At half, a
	// bad minute is not made good; at double, nodes and the verifier would refuse it.
	TimeBack time.Duration
	// Claims are how long late receipts for a lost node's units are waited for.
	Claims ClaimsWindows
	// RecoverWithout are nodes (UUIDs) that are gone for good: after a restore nobody waits for their reports. What they may
	// have been lent is out of sale for the claims window.
	RecoverWithout []string
}

// Validate reports all that is wrong with it.
func (c Config) Validate() error {
	var problems []error
	if c.OrderLease != 0 && (c.OrderLease < 100*time.Millisecond || c.OrderLease > time.Minute) {
		problems = append(problems, fmt.Errorf("OrderLease is %v, need 100 ms to 1 min", c.OrderLease))
	}
	if c.OrderAttempts < 0 || c.OrderAttempts > 1000 {
		problems = append(problems, fmt.Errorf("OrderAttempts is %d, need 1 to 1,000, or 0 for the default", c.OrderAttempts))
	}
	for _, f := range []struct {
		name             string
		value, low, high time.Duration
	}{
		{"AcceptWithin", c.AcceptWithin, 100 * time.Millisecond, time.Hour},
		{"PackWithin", c.PackWithin, time.Second, 30 * 24 * time.Hour},
		{"NodeWithin", c.NodeWithin, time.Second, 30 * 24 * time.Hour},
	} {
		if f.value != 0 && (f.value < f.low || f.value > f.high) {
			problems = append(problems, fmt.Errorf("%s is %v, need %v to %v, or 0 for the default", f.name, f.value, f.low, f.high))
		}
	}
	if c.TimeBack > dropclock.LongestBack {
		problems = append(problems, fmt.Errorf("TimeBack is %v, need %v at most", c.TimeBack, dropclock.LongestBack))
	}
	_, err := c.withoutIDs()
	problems = append(problems, c.Claims.validate(), err)
	return errors.Join(problems...)
}

// Deps is what the service is given. It closes none of it.
type Deps struct {
	// DB is the migrated store: see Migrate. Required.
	DB *sqldb.DB
	// Now stamps what outlives the process. Nil means time.Now.
	Now func() time.Time
	// Random makes ids and licence keys. Nil means crypto/rand. It need not be safe for concurrent use.
	Random io.Reader
	// Log takes what an operator should see. Nil discards.
	Log *slog.Logger
	// Metrics takes the collectors. Nil means a registry of its own.
	Metrics prometheus.Registerer
	// Traces makes spans of orders that are part of a trace; nil: of none.
	Traces *telemetry.Tracer
}

// Migrate brings the store's schema up to date.
func Migrate(ctx context.Context, db *sqldb.DB) error { return store.Migrate(ctx, db) }

// Service is the fulfillment service. Make one with New.
type Service struct {
	store   *store.Store
	now     func() time.Time
	random  io.Reader
	log     *slog.Logger
	metrics *metrics
	policy  orders.Policy
	worker  string // this process life's name in orders; a restart has another

	physical   orders.Policy
	packWithin time.Duration
	nodeWithin time.Duration
	crew       crew // the microfulfillment nodes that are connected

	timeBack time.Duration                // the most that is given back; not positive: nothing
	signer   atomic.Pointer[token.Signer] // ownSigner's

	recovering atomic.Bool // restored, and what was lost is not rebuilt yet
	without    []store.ID  // nobody waits for these then

	claims  ClaimsWindows
	board   board // what nodes last reported
	catalog hub   // poked after a drop changed
	placed  hub   // poked after an order came, or a node
	events  hub   // poked after an order changed

	tracer *telemetry.Tracer

	stop     sync.Once
	stopping chan struct{} // closed when Run's context ends: streams end
}

// New checks the config and wires the service. It opens nothing and starts nothing.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("fulfillment's config: %w", err)
	}
	if deps.DB == nil {
		return nil, errors.New("fulfillment needs Deps.DB")
	}
	if cfg.OrderLease == 0 {
		cfg.OrderLease = 2 * time.Second
	}
	if cfg.OrderAttempts == 0 {
		cfg.OrderAttempts = 10
	}
	cfg.AcceptWithin = cmp.Or(cfg.AcceptWithin, 10*time.Second)
	cfg.PackWithin = cmp.Or(cfg.PackWithin, 72*time.Hour)
	cfg.NodeWithin = cmp.Or(cfg.NodeWithin, 72*time.Hour)
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Random == nil {
		deps.Random = rand.Reader
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Metrics == nil {
		deps.Metrics = prometheus.NewRegistry()
	}
	m, err := newMetrics(deps.Metrics)
	if err != nil {
		return nil, fmt.Errorf("registering fulfillment's metrics: %w", err)
	}
	random := &lockedReader{r: deps.Random}
	without, err := cfg.withoutIDs()
	if err != nil {
		return nil, err
	}
	s := &Service{
		store:    store.New(deps.DB),
		now:      deps.Now,
		random:   random,
		log:      deps.Log,
		metrics:  m,
		policy:   orders.Policy{Lease: cfg.OrderLease, MaxAttempts: cfg.OrderAttempts},
		physical: orders.Policy{Lease: cfg.AcceptWithin, MaxAttempts: cfg.OrderAttempts}, packWithin: cfg.PackWithin, nodeWithin: cfg.NodeWithin,
		timeBack: cmp.Or(cfg.TimeBack, dropclock.LongestBack), claims: cfg.Claims.withDefaults(),
		worker: ids.NewV7(deps.Now(), random), tracer: deps.Traces,

		without: without, stopping: make(chan struct{}),
	}
	restore, err := s.store.Restore(context.Background())
	if err != nil {
		return nil, fmt.Errorf("fulfillment: %w", err)
	}
	s.recovering.Store(restore.Recovering())
	return s, nil
}

// Register adds CatalogService, StockService, FenceService and OrderService.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	fulfillmentv1.RegisterCatalogServiceServer(r, &catalogServer{Service: s})
	fulfillmentv1.RegisterStockServiceServer(r, &stockServer{Service: s})
	fulfillmentv1.RegisterFenceServiceServer(r, &fenceServer{Service: s})
	fulfillmentv1.RegisterOrderServiceServer(r, &orderServer{Service: s})
}

// Run delivers orders until ctx ends, then ends the watch streams. It returns nil after ctx ended, and an error when the
// store is broken and the process must stop. Call it once.
func (s *Service) Run(ctx context.Context) error {
	defer s.stop.Do(func() { close(s.stopping) })
	if rebuilt, err := s.rebuild(ctx); err != nil || !rebuilt {
		return err
	}
	loops, ctx := errgroup.WithContext(ctx)
	if s.store.Shared() {
		loops.Go(func() error { s.follow(ctx); return nil })
	}
	loops.Go(func() error { return s.deliver(ctx) })
	loops.Go(func() error { return s.route(ctx) })
	return loops.Wait()
}

// Rules says which roles each method needs. Reads of drops are open.
func Rules() auth.Rules {
	service := []auth.Role{auth.Service}
	readers := []auth.Role{auth.Finance, auth.Producer, auth.SRE, auth.Service}
	return auth.Rules{
		fulfillmentv1.CatalogService_CreateDrop_FullMethodName: {auth.Producer},
		fulfillmentv1.CatalogService_ChangeDrop_FullMethodName: {auth.Producer},
		fulfillmentv1.CatalogService_SettleDrop_FullMethodName: service,

		fulfillmentv1.CatalogService_ReportDelay_FullMethodName:  service,
		fulfillmentv1.StockService_JoinNode_FullMethodName:       service,
		fulfillmentv1.StockService_GrantLease_FullMethodName:     service,
		fulfillmentv1.StockService_ReturnUnits_FullMethodName:    service,
		fulfillmentv1.StockService_Heartbeat_FullMethodName:      service,
		fulfillmentv1.StockService_SettleUnits_FullMethodName:    service,
		fulfillmentv1.StockService_ReleaseUnits_FullMethodName:   service,
		fulfillmentv1.StockService_ListNodeKeys_FullMethodName:   service,
		fulfillmentv1.StockService_CloseLease_FullMethodName:     service,
		fulfillmentv1.StockService_RetireNode_FullMethodName:     service,
		fulfillmentv1.FenceService_FenceNode_FullMethodName:      {auth.SRE},
		fulfillmentv1.StockService_RestoreUnits_FullMethodName:   service,
		fulfillmentv1.StockService_ReportHoldings_FullMethodName: service,

		fulfillmentv1.StockService_ListQuarantinedLeases_FullMethodName: service,
		fulfillmentv1.OrderService_PlaceOrders_FullMethodName:           service,
		fulfillmentv1.OrderService_WatchOrders_FullMethodName:           service,
		fulfillmentv1.OrderService_WorkOrders_FullMethodName:            {auth.Node},
		fulfillmentv1.OrderService_RequeueOrders_FullMethodName:         {auth.SRE},
		fulfillmentv1.OrderService_ListOrders_FullMethodName:            readers,
		fulfillmentv1.OrderService_GetOrder_FullMethodName:              readers,
	}
}

// lockedReader shares one source of randomness between calls.
type lockedReader struct {
	mu sync.Mutex // guards r
	r  io.Reader
}

func (l *lockedReader) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(p)
}
