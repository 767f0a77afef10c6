package world

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/rimlight/rimlight/fulfillment"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/simnet"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/region"
	"github.com/rimlight/rimlight/region/journal"
	"github.com/rimlight/rimlight/verifier"
	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/payment/testpsp"
)

// sabotage replaces parts of the platform by ones that break a rule: each law has a test that it notices. nil: intact.
type sabotage struct {
	payment func(*testpsp.Provider) payment.Provider
	stock   func(fulfillmentv1.StockServiceClient) fulfillmentv1.StockServiceClient // the verifier's
	journal func(*journal.Memory) brokenJournal                                     // every node's
}

type brokenJournal interface {
	journal.Journal
	Crash() // the power cut, instead of Memory's
}

// host is a process that can die and start again, on the same disk.
type host struct {
	w    *world
	name string
	sim  server
	// begin makes the next life's service. run is its loops, cut is the power cut of its disk, close ends it in order.
	begin func(life int) (service, error)
	clock *clock
	// loseDisk, of nodes, puts an empty disk into the host. It is down.
	loseDisk func() error

	now   service
	stop  context.CancelFunc
	ended chan struct{}
	err   error // of run, once ended is closed

	mu      sync.Mutex // guards what is below
	life    int        // from 1
	dead    bool       // the power is off
	failing bool       // its disk failed: it ends itself
	fenced  bool       // another disk has its place: it ended itself
	trap    *trap
}

type service struct {
	run   func(context.Context) error
	cut   func()
	close func() error
}

func (h *host) start() error {
	h.mu.Lock()
	h.life++
	wasFenced := h.fenced
	h.dead, h.failing, h.fenced, h.trap = false, false, false, nil
	life := h.life
	h.mu.Unlock()
	s, err := h.begin(life)
	if wasFenced && errors.Is(err, region.ErrSealed) { // it retired, and then heard that it has been replaced
		h.mu.Lock()
		h.fenced = true
		h.mu.Unlock()
		return nil
	}
	if err != nil {
		return fmt.Errorf("starting %s: %w", h.name, err)
	}
	if err := h.sim.Up(); err != nil {
		return fmt.Errorf("starting %s: %w", h.name, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	h.now, h.stop, h.ended = s, stop, make(chan struct{})
	go func() {
		defer close(h.ended)
		h.err = s.run(ctx)
		if gaveWay(h.err) { // it has been replaced, and nobody starts it again
			h.mu.Lock()
			h.fenced = true
			h.mu.Unlock()
			h.sim.Down()
		} else if h.err != nil && ctx.Err() == nil && !h.isDead() {
			h.w.watch.surprise("%s stopped by itself: %v", h.name, h.err)
		}
	}()
	return nil
}

// down stops the host: by a power cut, which nobody outlives, or in order.
func (h *host) down(crash bool) error {
	if h.stop == nil {
		return nil
	}
	defer func() { h.stop = nil }()
	if crash {
		h.mu.Lock()
		h.dead = true
		h.mu.Unlock()
		h.sim.Down()
		if h.now.cut != nil {
			h.now.cut()
		}
		h.stop()
		<-h.ended
		return nil // a service that lost its disk may say so
	}
	h.sim.Drain()
	h.stop()
	<-h.ended
	h.sim.Down()
	if h.err != nil && !h.isDead() && !h.isFenced() {
		h.w.watch.surprise("%s did not stop in order: %v", h.name, h.err)
	}
	if h.now.close != nil {
		return h.now.close()
	}
	return nil
}

// centre is the verifier, fulfillment and the payment provider with their databases, which survive their processes.
type centre struct {
	verifier, fulfillment          *host
	verifierDB, stockDB, paymentDB *sqldb.DB
	lostDBs                        []*sqldb.DB // that were restored away
}

// hosts are all that can die, by name.
func (w *world) hosts() map[string]*host {
	all := map[string]*host{"verifier": w.centre.verifier, "fulfillment": w.centre.fulfillment}
	for _, d := range w.depots {
		all[d.name] = d.host
	}
	for _, n := range w.allNodes() {
		all[n.name] = n.host
	}
	return all
}

func (w *world) newHost(name string) *host {
	h := &host{w: w, name: name, sim: w.net.Host(name), clock: &clock{base: w.plan.skews[name]}}
	h.sim.Configure(w.ears.options(h))
	return h
}

// open starts everything.
func (w *world) open(ctx context.Context) error {
	c := &centre{verifier: w.newHost("verifier"), fulfillment: w.newHost("fulfillment")}
	w.centre = c
	for _, store := range []struct {
		db    **sqldb.DB
		empty func() (*sqldb.Template, error)
	}{{&c.verifierDB, emptyVerifier}, {&c.stockDB, emptyFulfillment}, {&c.paymentDB, emptyProvider}} {
		t, err := store.empty()
		if err != nil {
			return err
		}
		if *store.db, err = t.Open(ctx); err != nil {
			return err
		}
	}
	c.fulfillment.begin = w.newFulfillment
	c.verifier.begin = w.newVerifier
	if err := errors.Join(c.fulfillment.start(), c.verifier.start()); err != nil {
		return err
	}
	for _, name := range w.cfg.Regions {
		if err := w.addNode(name, name, ""); err != nil {
			return err
		}
	}
	return w.openDepots(ctx)
}

// Databases without a row, shared between worlds: migrating three of them takes as long as half a small world.
var (
	emptyVerifier    = sync.OnceValues(func() (*sqldb.Template, error) { return migrated(verifier.Migrate) })
	emptyFulfillment = sync.OnceValues(func() (*sqldb.Template, error) { return migrated(fulfillment.Migrate) })
	emptyProvider    = sync.OnceValues(func() (*sqldb.Template, error) { return migrated(testpsp.Migrate) })
)

func migrated(migrate func(context.Context, *sqldb.DB) error) (*sqldb.Template, error) {
	return sqldb.NewTemplate(context.Background(), migrate)
}

// store is a database as one life of a host sees it.
func (h *host) store(db *sqldb.DB, life int) *sqldb.DB {
	db = db.Reopen()
	db.Fault = func(committed bool) error { return h.commit(life, committed) }
	return db
}

func (w *world) newFulfillment(life int) (service, error) {
	h := w.centre.fulfillment
	s, err := fulfillment.New(fulfillment.Config{
		Claims: claims, AcceptWithin: 3 * time.Second, PackWithin: packWithin, NodeWithin: 40 * time.Second,
	}, fulfillment.Deps{
		DB: h.store(w.centre.stockDB, life), Now: h.clock.now, Random: w.random("fulfillment", life), Log: w.log.With("host", "fulfillment"),
		Metrics: w.ears.registry(),
	})
	if err != nil {
		return service{}, err
	}
	s.Register(h.sim)
	return service{run: s.Run}, nil
}

func (w *world) newVerifier(life int) (service, error) {
	h := w.centre.verifier
	provider := w.cfg.Provider
	provider.Now, provider.Random = time.Now, w.random("testpsp", life)
	psp, err := testpsp.New(h.store(w.centre.paymentDB, life), provider)
	if err != nil {
		return service{}, err
	}
	toFulfillment := w.net.Conn("verifier", "fulfillment")
	deps := verifier.Deps{
		DB: h.store(w.centre.verifierDB, life), Payment: &moody{Provider: psp, w: w}, Now: h.clock.now, Random: w.random("verifier", life),
		Log: w.log.With("host", "verifier"), Metrics: w.ears.registry(),
		Stock:   fulfillmentv1.NewStockServiceClient(toFulfillment),
		Orders:  fulfillmentv1.NewOrderServiceClient(toFulfillment),
		Catalog: fulfillmentv1.NewCatalogServiceClient(toFulfillment),
	}
	if w.cfg.broken.payment != nil {
		deps.Payment = w.cfg.broken.payment(psp)
	}
	if w.cfg.broken.stock != nil {
		deps.Stock = w.cfg.broken.stock(deps.Stock)
	}
	s, err := verifier.New(verifier.Config{ChoiceWindow: time.Minute, RefundPoll: 5 * time.Second, RetentionPoll: 20 * time.Second, PriceLocks: priceLocks}, deps)
	if err != nil {
		return service{}, err
	}
	s.Register(h.sim)
	return service{run: s.Run}, nil
}

// snapshotRecords is about what a node journals in ten seconds, so that every kind of fault meets snapshots.
const snapshotRecords = 16

func (w *world) newNode(n *node, life int) (service, error) {
	memory := n.disk.OpenMemory(journal.MemoryOptions{SyncTime: w.cfg.SyncTime, Fault: n.atStage(life)})
	var disk brokenJournal = memory
	if w.cfg.broken.journal != nil {
		disk = w.cfg.broken.journal(memory)
	}
	toFulfillment, toVerifier := w.net.Conn(n.name, "fulfillment"), w.net.Conn(n.name, "verifier")
	s, err := region.New(region.Config{Region: site(n.region), Retire: n.retiring, SnapshotRecords: snapshotRecords}, region.Deps{
		Journal: disk, Identity: n.identity,
		Stock:    notedStock{fulfillmentv1.NewStockServiceClient(toFulfillment), n.host, &w.returns},
		Catalog:  fulfillmentv1.NewCatalogServiceClient(toFulfillment),
		Verifier: notedVerifier{verifierv1.NewVerifierServiceClient(toVerifier), &w.operators},
		Now:      n.clock.now,
		Random:   w.random(n.name, life), Log: w.log.With("host", n.name), Metrics: w.ears.registry(),
	})
	if err != nil {
		return service{}, errors.Join(err, disk.Close())
	}
	options := w.ears.options(n.host)
	options.Unary = append(options.Unary, s.UnaryInterceptor())
	options.Stream = append(options.Stream, s.StreamInterceptor())
	n.sim.Configure(options)
	s.Register(n.sim)
	return service{run: s.Run, cut: disk.Crash, close: disk.Close}, nil
}

// stop ends whatever still runs, then the network and the stores.
func (w *world) stop() error {
	var errs []error
	for _, n := range w.allNodes() {
		errs = append(errs, n.down(true))
	}
	if c := w.centre; c != nil {
		errs = append(errs, c.verifier.down(true), c.fulfillment.down(true))
	}
	errs = append(errs, w.closeDepots())
	w.net.Close()
	if c := w.centre; c != nil {
		for _, db := range append(c.lostDBs, c.verifierDB, c.stockDB, c.paymentDB) {
			if db != nil {
				errs = append(errs, db.Close())
			}
		}
	}
	return errors.Join(errs...)
}

func (w *world) createDrops(ctx context.Context) error {
	catalogue := fulfillmentv1.NewCatalogServiceClient(w.net.Conn("operator", "fulfillment"))
	for i, d := range w.cfg.Drops {
		request := &fulfillmentv1.CreateDropRequest{
			RequestId: fmt.Sprintf("drop-%d", i), ChannelId: "demo", Title: d.Title, Units: uint32(d.Units), Price: d.price(d.Price),
			OpenTime: timestamppb.New(w.start.Add(d.Opens)), Duration: durationpb.New(d.Lasts),
			PerInstrumentCap: uint32(d.PerCard),
		}
		if d.Physical {
			request.GoodsKind, request.Sku = fulfillmentv1.GoodsKind_GOODS_KIND_PHYSICAL, sku
		}
		answer, err := catalogue.CreateDrop(ctx, request)
		if err != nil {
			return fmt.Errorf("creating drop %q: %w", d.Title, err)
		}
		w.drops = append(w.drops, answer.GetDrop().GetDrop().GetDropId())
	}
	return nil
}

// packWithin is how long a depot may take, and priceLocks how many a session gets: so little that worlds see both end.
const (
	packWithin = 15 * time.Second
	priceLocks = 2
)

// currencies of the drops, in turn, so that sums per currency are sums per currency.
var currencies = []string{"EUR", "USD", "JPY"}

// lastMile is what a viewer's own connection adds each way.
const lastMile = 15 * time.Millisecond

// link is the quality of a one-way path: half the matrix's round trip, and the scenario's faults until the network heals.
func (w *world) link(from, to string) simnet.Link {
	l := simnet.Link{Delay: rtt(w.place(from), w.place(to)) / 2}
	if isViewer(from) || isViewer(to) {
		l.Delay += lastMile
	}
	if from == "operator" || to == "operator" {
		return l
	}
	l.Jitter = w.cfg.Jitter
	select {
	case <-w.calm:
	default:
		l.Delay += w.weather.delay(from) + w.weather.delay(to)
		storm := w.weather.stormy()
		l.Loss, l.Torn, l.Duplicate = min(w.cfg.Loss+storm, 1), 0.5, min(w.cfg.Duplication+storm, 1)
	}
	return l
}

// viewerHost gives each viewer a host of its own, so that what happens to its messages depends on nobody else's.
func viewerHost(v *viewerPlan) string { return fmt.Sprintf("viewer-%d@%s", v.Number, v.Home) }

func isViewer(host string) bool { return strings.HasPrefix(host, "viewer-") }

func (w *world) place(host string) string {
	switch host {
	case "verifier", "fulfillment", "operator", "observer", "finance":
		return w.cfg.Centre
	}
	if _, home, ok := strings.Cut(host, "@"); ok {
		return home
	}
	region, _, _ := strings.Cut(host, "~")
	return site(region)
}

// nodesIn counts the nodes in the region of one.
func (c Config) nodesIn(node string) (n int) {
	for _, other := range c.Regions {
		if site(other) == site(node) {
			n++
		}
	}
	return n
}

// site is the place of a node that Config.Regions names.
func site(node string) string {
	region, _, _ := strings.Cut(node, "+")
	return region
}

// random is one process life's randomness, drawn from the seed and safe for concurrent use.
func (w *world) random(name string, life int) io.Reader {
	var seed [32]byte
	h := fnv.New128a()
	fmt.Fprintf(h, "%d\x00%s\x00%d", w.cfg.Seed, name, life)
	h.Sum(seed[:0])
	return &lockedRandom{r: rand.NewChaCha8(seed)}
}

type lockedRandom struct {
	mu sync.Mutex // guards r
	r  *rand.ChaCha8
}

// Read implements io.Reader.
func (l *lockedRandom) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(p)
}
