package process

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/rimlight/rimlight/fulfillment"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/verifier"
	"github.com/rimlight/rimlight/verifier/payment/testpsp"
)

// Fulfillment is what fulfillment needs beyond Common.
type Fulfillment struct {
	Common
	// RecoverWithout are nodes that a restored fulfillment does not wait for.
	RecoverWithout []string
	// TimeBack is how much later a drop closes at most because answers were late: see fulfillment.Config.
	TimeBack time.Duration
}

// StartFulfillment opens fulfillment on DataDir/fulfillment.db, or on Database.
func StartFulfillment(ctx context.Context, c Fulfillment) (_ *Process, err error) {
	p := &Process{}
	defer func() {
		if err != nil {
			p.abandon()
		}
	}()
	if err := p.observe(c.Common, "fulfillment", ""); err != nil {
		return nil, err
	}
	db, err := p.openStore(ctx, c.Common, "fulfillment", fulfillment.Migrate)
	if err != nil {
		return nil, err
	}
	svc, err := fulfillment.New(fulfillment.Config{RecoverWithout: c.RecoverWithout, TimeBack: c.TimeBack}, fulfillment.Deps{
		DB: db, Now: time.Now, Random: rand.Reader, Log: c.Log.With("service", "fulfillment"), Metrics: c.Metrics, Traces: p.tracer,
	})
	if err != nil {
		return nil, err
	}
	server, err := p.listen(c.Common, "fulfillment", fulfillment.Rules(), nil)
	if err != nil {
		return nil, err
	}
	svc.Register(server)
	p.stages = []Stage{
		{"fulfillment's RPCs", func(ctx context.Context) error { return server.ServeInternal(ctx, p.listener) }},
		{"fulfillment", svc.Run},
	}
	return p, nil
}

// Verifier is what the verifier needs beyond Common.
type Verifier struct {
	Common
	// Fulfillment is its address; several, of replicas, are separated by commas.
	Fulfillment string
	// Dial opens the connections; nil: TCP.
	Dial Dialer
	// Profile is "dev" or "production".
	Profile string
	// RecoverWithout are nodes that a restored verifier does not wait for.
	RecoverWithout []string
	// Retention is how long after a drop is SETTLED what nobody needs of it is kept; 0: 30 days.
	Retention time.Duration
	// PaymentLatency is how long the test provider takes for an answer.
	PaymentLatency time.Duration
	// PaymentRealistic makes the test provider behave like a real one in time: latencies that vary, hints that come late
	// and twice. PaymentLatency, if given, is the median.
	PaymentRealistic bool
}

// ErrNoProvider means: the only payment provider that is built moves no money, and the production profile refuses it.
var ErrNoProvider = errors.New("the production profile refuses the test payment provider (testpsp), which moves no money, " +
	"and no other provider is built: run with the dev profile, or not at all")

func (c *Verifier) testProvider() testpsp.Config {
	cfg := testpsp.Config{}
	if c.PaymentRealistic {
		cfg = testpsp.Realistic()
	}
	if c.PaymentLatency > 0 {
		cfg.Latency = c.PaymentLatency
	}
	cfg.Now, cfg.Random = time.Now, rand.Reader
	return cfg
}

// StartVerifier opens the verifier on DataDir/verifier.db, with the test payment provider on DataDir/testpsp.db, or both
// on Database.
func StartVerifier(ctx context.Context, c Verifier) (_ *Process, err error) {
	if c.Profile == verifier.ProfileProduction { // before anything is made on disk
		return nil, ErrNoProvider
	}
	p := &Process{}
	defer func() {
		if err != nil {
			p.abandon()
		}
	}()
	if err := p.observe(c.Common, "verifier", ""); err != nil {
		return nil, err
	}
	db, err := p.openStore(ctx, c.Common, "verifier", verifier.Migrate)
	if err != nil {
		return nil, err
	}
	pspDB, err := p.openStore(ctx, c.Common, "testpsp", testpsp.Migrate)
	if err != nil {
		return nil, err
	}
	psp, err := testpsp.New(pspDB, c.testProvider())
	if err != nil {
		return nil, err
	}
	centre, err := p.dial(c.Common, c.Fulfillment, c.Dial)
	if err != nil {
		return nil, err
	}
	svc, err := verifier.New(verifier.Config{Profile: c.Profile, RecoverWithout: c.RecoverWithout, Retention: c.Retention}, verifier.Deps{
		DB: db, Payment: psp, Now: time.Now, Random: rand.Reader, Log: c.Log.With("service", "verifier"), Metrics: c.Metrics, Traces: p.tracer,
		Stock:   fulfillmentv1.NewStockServiceClient(centre),
		Orders:  fulfillmentv1.NewOrderServiceClient(centre),
		Catalog: fulfillmentv1.NewCatalogServiceClient(centre),
	})
	if err != nil {
		return nil, err
	}
	server, err := p.listen(c.Common, "verifier", verifier.Rules(), nil)
	if err != nil {
		return nil, err
	}
	svc.Register(server)
	p.stages = []Stage{
		{"the verifier's RPCs", func(ctx context.Context) error { return server.ServeInternal(ctx, p.listener) }},
		{"the verifier", svc.Run},
	}
	return p, nil
}
