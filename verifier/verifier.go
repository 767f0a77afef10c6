// Package verifier turns redemptions that nodes accepted into settled purchases, exactly once.
//
//	node --SubmitRedemptions--> ingest --one transaction a batch--> store
//	                                                                  | jobs, claimed by state
//	   settle loop --SettleUnits--> fulfillment                       |
//	   pay, refund --intents------> payment provider   <--------------+
//	   order loop  --PlaceOrders--> fulfillment                       |
//	   release loop -ReleaseUnits-> fulfillment                       |
//	   delivery loop <-WatchOrders- fulfillment  ---------------------+
//	                                                                  | events, in commit order
//	node <--outcomes-- streams, WatchPurchase, WatchEvents, webhooks <-'
//
// Invariants: a purchase changes only by a transition of package saga, compare-and-set on its state, in the same
// transaction as everything that the transition promises (jobs, postings, voucher, signed outcome, event). A loop does
// its outside effect first and commits after it, and every outside effect is idempotent; so a crash between any two
// steps repeats a step and never skips one.
//
// It owns no stock. It does not decide who may buy; the nodes did, and their signed receipts are the evidence.
//
// After a restore from a backup it takes entries in and does nothing else before every node's journal was read again:
// recovery.go.
package verifier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/telemetry"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/store"
)

// Deps is what the verifier needs of others. All but WebhookTransport and Metrics are required.
type Deps struct {
	// DB is the verifier's own migrated store. One process at a time.
	DB *sqldb.DB
	// Stock, Orders and Catalog are fulfillment.
	Stock   fulfillmentv1.StockServiceClient
	Orders  fulfillmentv1.OrderServiceClient
	Catalog fulfillmentv1.CatalogServiceClient
	// Payment takes the money. Where it is a payment.Bookkeeper the audit reads its books; where it is a
	// payment.TestCustomer the test page is served, and the production profile refuses it.
	Payment payment.Provider
	// Now stamps what crosses a process or a restart.
	Now func() time.Time
	// Random makes the signing key and ids. Need not be safe for concurrent use.
	Random io.Reader
	// Log gets what an operator must know. Never a token, reference, detail or licence key.
	Log *slog.Logger
	// WebhookTransport posts events to webhooks; nil: over the network.
	WebhookTransport http.RoundTripper
	// Metrics registers the verifier's metrics; nil: they are kept but not served.
	Metrics prometheus.Registerer
	// Traces makes spans of what is done for purchases whose redemptions were traced; nil: of none.
	Traces *telemetry.Tracer
}

func (d Deps) validate() error {
	var errs []error
	for name, missing := range map[string]bool{
		"DB": d.DB == nil, "Stock": d.Stock == nil, "Orders": d.Orders == nil, "Catalog": d.Catalog == nil,
		"Payment": d.Payment == nil, "Now": d.Now == nil, "Random": d.Random == nil, "Log": d.Log == nil,
	} {
		if missing {
			errs = append(errs, fmt.Errorf("Deps.%s is missing", name))
		}
	}
	return errors.Join(errs...)
}

// Rules are the roles that the verifier's methods need. The audit and the test page are open: the first is served on the
// operator port only, the second stands for a page that anybody may load.
func Rules() auth.Rules {
	service, finance := []auth.Role{auth.Service}, []auth.Role{auth.Finance}
	return auth.Rules{
		verifierv1.VerifierService_SubmitRedemptions_FullMethodName:  service,
		verifierv1.VerifierService_PresentReceipt_FullMethodName:     service,
		verifierv1.VerifierService_CancelRedemption_FullMethodName:   service,
		verifierv1.VerifierService_GetPurchase_FullMethodName:        service,
		verifierv1.VerifierService_WatchPurchase_FullMethodName:      service,
		verifierv1.VerifierService_ChooseMakeGood_FullMethodName:     service,
		verifierv1.VerifierService_WatchEvents_FullMethodName:        service,
		verifierv1.SupportService_RefundPurchase_FullMethodName:      finance,
		verifierv1.SupportService_ListRefunds_FullMethodName:         finance,
		verifierv1.SupportService_ListVouchers_FullMethodName:        finance,
		verifierv1.SupportService_GetDropReport_FullMethodName:       {auth.Finance, auth.Producer, auth.CommunityManager},
		verifierv1.SupportService_FindPurchases_FullMethodName:       {auth.Finance, auth.CommunityManager},
		verifierv1.SupportService_WatchPurchaseEvents_FullMethodName: {auth.Finance, auth.Service},
		verifierv1.SupportService_CreateWebhook_FullMethodName:       finance,
		verifierv1.SupportService_ListWebhooks_FullMethodName:        finance,
		verifierv1.SupportService_DeleteWebhook_FullMethodName:       finance,
		verifierv1.SupportService_ReplayWebhook_FullMethodName:       finance,
		verifierv1.SupportService_RotateWebhookSecret_FullMethodName: finance,
	}
}

// aloneLookAgain is for wake-ups that should not be missed, since every commit is this process's own: long enough to cost
// nothing, and as short as a watch stream's proof of life.
const aloneLookAgain = 15 * time.Second

// maxCachedTerms bounds the cache of drops' terms; a channel with a drop a minute fills it in a week.
const maxCachedTerms = 10_000

// Service is the verifier.
type Service struct {
	cfg    Config
	deps   Deps
	store  *store.Store
	keys   *token.Keys
	signer *token.Signer
	// instruments is the key under which payment instruments are counted.
	instruments []byte
	hub         *hub
	metrics     *metrics
	random      io.Reader
	rand        *lockedRand
	stopping    chan struct{} // closed when Run's context ended: streams end
	// lookAgain is how long a wake-up is waited for before the store is asked all the same.
	lookAgain time.Duration

	recovering atomic.Bool  // restored, and journals are still to be read
	restoreEnd atomic.Int64 // when the last restore was over, microseconds; 0: never restored, or not over

	refreshMu sync.Mutex  // guards what is below
	refresh   *keyRefresh // nil: nobody is asking
	refreshed time.Time   // when the last answer came

	termsMu sync.Mutex // guards terms
	terms   map[store.ID]store.DropTerms

	traces telemetry.Waiting[store.ID] // of purchases by their token
}

// New opens nothing that it was not given: the DB must be migrated. It reads the keys, and makes the verifier's own at
// the first start.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := errors.Join(cfg.Validate(), deps.validate()); err != nil {
		return nil, fmt.Errorf("verifier: %w", err)
	}
	if _, test := deps.Payment.(payment.TestCustomer); test && cfg.Profile == ProfileProduction {
		return nil, errors.New("verifier: the production profile refuses a test payment provider")
	}
	s := &Service{
		cfg: cfg.withDefaults(), deps: deps, store: store.New(deps.DB), keys: &token.Keys{}, hub: newHub(),
		random: &lockedReader{r: deps.Random}, stopping: make(chan struct{}), terms: map[store.ID]store.DropTerms{},
	}
	if s.lookAgain = s.cfg.Poll; deps.DB.Alone() {
		s.lookAgain = max(s.cfg.Poll, aloneLookAgain)
	}
	var err error
	if s.metrics, err = newMetrics(deps.Metrics); err != nil {
		return nil, fmt.Errorf("verifier: %w", err)
	}
	if s.rand, err = newLockedRand(s.random); err != nil {
		return nil, fmt.Errorf("verifier: %w", err)
	}
	s.store.Committed = func(c store.Changes) {
		s.metrics.countEvents(c.Purchases)
		s.hub.committed(c)
	}
	if err := errors.Join(s.loadKeys(context.Background()), s.loadRestore(context.Background())); err != nil {
		return nil, fmt.Errorf("verifier: %w", err)
	}
	return s, nil
}

// Register adds the RPC services; the test page only with a provider that plays the customer.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	verifierv1.RegisterVerifierServiceServer(r, &verifierServer{s: s})
	verifierv1.RegisterSupportServiceServer(r, &supportServer{s: s})
	if customer, test := s.deps.Payment.(payment.TestCustomer); test {
		verifierv1.RegisterTestPaymentServiceServer(r, &testPaymentServer{s: s, customer: customer})
	}
}

// Run works until ctx ends, and returns when every loop did. It is called once.
func (s *Service) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	loops.Go(func() { s.runKeys(ctx) })
	if s.awaitJournals(ctx) {
		s.startWork(ctx, &loops)
	}
	<-ctx.Done()
	close(s.stopping)
	loops.Wait()
	return nil
}

// startWork starts every loop that does something to purchases.
func (s *Service) startWork(ctx context.Context, loops *sync.WaitGroup) {
	s.freeClaims(ctx)
	loops.Go(func() { s.runBatches(ctx, store.SettleJob, s.settle) })
	loops.Go(func() { s.runBatches(ctx, store.OrderJob, s.placeOrders) })
	loops.Go(func() { s.runBatches(ctx, store.ReleaseJob, s.releaseUnits) })
	loops.Go(func() { s.runEach(ctx, store.PayJob, s.pay) })
	loops.Go(func() { s.runEach(ctx, store.RefundJob, s.refund) })
	loops.Go(func() { s.runBatches(ctx, store.ChoiceJob, s.endChoices) })
	loops.Go(func() { s.runHints(ctx) })
	loops.Go(func() {
		if s.awaitOrders(ctx) {
			s.runDeliveries(ctx)
		}
	})
	loops.Go(func() { s.runDropSettler(ctx) })
	loops.Go(func() { s.runCloser(ctx) })
	loops.Go(func() { s.runRetention(ctx) })
	loops.Go(func() { s.runWebhooks(ctx) })
}

// freeClaims makes what a dead process had claimed due at once; failing that, it is due when its claim ends.
func (s *Service) freeClaims(ctx context.Context) {
	if err := s.store.FreeClaims(ctx, s.deps.Now().UnixMicro()); err != nil && ctx.Err() == nil {
		s.deps.Log.Error("freeing the claims of the last process failed", "error", err)
	}
}

// Migrate brings the verifier's store up to date.
func Migrate(ctx context.Context, db *sqldb.DB) error { return store.Migrate(ctx, db) }
