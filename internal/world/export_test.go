package world

import (
	"log/slog"
	"time"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/region/journal"
	"github.com/rimlight/rimlight/verifier/payment"
	"github.com/rimlight/rimlight/verifier/payment/testpsp"
)

var (
	// Play runs a scenario and leaves the judgement to the test.
	Play        = play
	NewPlan     = newPlan
	CanaryForms = canaryForms
)

// WithPayment breaks the payment provider.
func (c Config) WithPayment(f func(*testpsp.Provider) payment.Provider) Config {
	c.broken.payment = f
	return c
}

// WithStock breaks what the verifier has of fulfillment.
func (c Config) WithStock(f func(fulfillmentv1.StockServiceClient) fulfillmentv1.StockServiceClient) Config {
	c.broken.stock = f
	return c
}

// WithJournal breaks every node's disk.
func (c Config) WithJournal(f func(*journal.Memory) BrokenJournal) Config {
	c.broken.journal = f
	return c
}

// BrokenJournal is a journal that breaks a rule.
type BrokenJournal = brokenJournal

// Network and Server are what carries a world's calls.
type (
	Network = network
	Server  = server
)

// NewGRPCNetwork makes the network that is over grpc-go, without a world.
func NewGRPCNetwork(cfg Config) Network {
	w := &world{cfg: cfg.withDefaults(), start: time.Now(), ears: newEars(), calm: make(chan struct{})}
	w.log = slog.New(slog.NewJSONHandler(w.ears, nil))
	return newGRPCNetwork(w)
}
