// Package node is a microfulfillment node: it takes orders of physical goods, packs them, and sends them, each once.
//
//	fulfillment ── WorkOrders ──> inbox (own SQLite, by order id) ──> Packer: label ──> may it leave? ──> Packer: carrier
//
// Invariants:
//
//   - An order is in the inbox before fulfillment hears that it was taken.
//   - A parcel leaves only after fulfillment's yes to (node, attempt): docs/decisions/0013-physical-orders.md.
//   - One label is made for an order that left; who dies after the yes goes on with that label.
//   - What fulfillment did not answer is said again on the next stream.
//
// Without a line the node packs what it accepted; what is packed waits on the shelf. Delivery details come sealed to a key
// that the node made and nobody else has, are opened for the packer alone, and are forgotten when the parcel left. It knows
// no money, and nothing of the buyer but the details.
package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/sealed"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/telemetry"
)

// Config is what a node can.
type Config struct {
	// Zones are the regions that it delivers for: names, or first parts of names. None: all.
	Zones []string
	// SKUs are the goods that it has. At least one.
	SKUs []string
	// Parallel is how many orders it has at the same time, from 1 to 10,000. 0: 10. At half, orders wait at other nodes; at
	// double, more of them die with this one.
	Parallel int
	// PerHour is how many orders it takes in an hour. 0: any number.
	PerHour int
	// Hours are when it takes orders. None: always.
	Hours []*fulfillmentv1.OpeningHours
}

// Validate reports all that is wrong with it.
func (c Config) Validate() error {
	var problems []error
	if len(c.SKUs) == 0 {
		problems = append(problems, errors.New("a node needs a SKU"))
	}
	if c.Parallel < 0 || c.Parallel > 10_000 {
		problems = append(problems, fmt.Errorf("Parallel is %d, need 1 to 10,000, or 0 for the default", c.Parallel))
	}
	if c.PerHour < 0 || c.PerHour > 1_000_000 {
		problems = append(problems, fmt.Errorf("PerHour is %d, need 0 to 1,000,000", c.PerHour))
	}
	return errors.Join(problems...)
}

// Parcel is one order at work.
type Parcel struct {
	OrderID string
	SKU     string
	Serial  uint32
	// Details say where it goes: personal data. Sealed wherever the parcel is kept, open for Packer.Pack, and empty for
	// Packer.Send, since the label says it. Never log them.
	Details []byte
	// Tracking is what the carrier knows it by, once it is packed.
	Tracking string
}

// Packer is the work itself. Both methods may be called again for the same parcel when the node died in between.
type Packer interface {
	// Pack puts the goods into a box and makes the label: up to 64 letters, digits, dots, hyphens and underscores. A
	// RefusedError gives the order up.
	Pack(ctx context.Context, p Parcel) (tracking string, err error)
	// Send gives the box to the carrier. The same label twice is the same parcel.
	Send(ctx context.Context, p Parcel) error
}

// RefusedError gives an order up.
type RefusedError struct{ Reason fulfillmentv1.RejectReason }

func (e *RefusedError) Error() string { return fmt.Sprintf("node: gave the order up: %v", e.Reason) }

// Deps is what the node is given. It closes none of it.
type Deps struct {
	// DB is the migrated inbox: see Migrate. Required.
	DB *sqldb.DB
	// Orders is fulfillment. Required.
	Orders fulfillmentv1.OrderServiceClient
	// Packer does the work. Required.
	Packer Packer
	// Now stamps what outlives the process. Nil means time.Now.
	Now func() time.Time
	// Random makes the node's id and keys. Nil means crypto/rand.
	Random io.Reader
	// Log takes what an operator should see. Nil discards.
	Log *slog.Logger
	// Traces makes spans of orders that are part of a trace; nil: of none.
	Traces *telemetry.Tracer
}

// Node is one node. Make one with New.
type Node struct {
	cfg   Config
	deps  Deps
	inbox inbox
	keys  []*sealed.Key // from Run's start on

	pokeSay, pokeDo chan struct{} // of one
}

// New checks the config and wires the node. It opens nothing and starts nothing.
func New(cfg Config, deps Deps) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("the node's config: %w", err)
	}
	if deps.DB == nil || deps.Orders == nil || deps.Packer == nil {
		return nil, errors.New("a node needs Deps.DB, Deps.Orders and Deps.Packer")
	}
	if cfg.Parallel == 0 {
		cfg.Parallel = 10
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	if deps.Random == nil {
		deps.Random = rand.Reader
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	return &Node{cfg: cfg, deps: deps, inbox: inbox{deps.DB}, pokeSay: make(chan struct{}, 1), pokeDo: make(chan struct{}, 1)}, nil
}

// Run works until ctx ends. It returns nil then, and an error when the inbox is broken and the process must stop.
func (n *Node) Run(ctx context.Context) error {
	id, err := n.inbox.identity(ctx, n.deps.Now(), n.deps.Random)
	if err == nil {
		n.keys, err = n.inbox.keys(ctx, n.deps.Now(), n.deps.Random)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // stopped before it began
		}
		return err
	}
	loops, ctx := errgroup.WithContext(ctx)
	loops.Go(func() error { return n.follow(ctx, id) })
	loops.Go(func() error { return n.work(ctx) })
	return loops.Wait()
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pause waits, and tells whether ctx still goes on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
