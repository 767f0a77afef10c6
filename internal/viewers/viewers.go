// Package viewers plays an audience: open-loop arrivals that watch the drops, ask for offers, abandon half of them, tap,
// and follow what they bought, each over the same client code as `rimlight buy`.
//
//	arrivals (per minute, and bursts) ──> viewer ──> buyer.Buy over one of the routers
//	                                         └─────> Stats: what every call ended with
//
// Open loop means that a slow platform does not slow the arrivals down. It is a load and a witness, not a model of
// people: arrivals are spread evenly with jitter, and every viewer makes up its mind once.
package viewers

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/buyer"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// MaxPerMinute is 1,000 a second: more than one machine can play beside the platform that it judges.
const MaxPerMinute = 60_000

// Config is the audience.
type Config struct {
	// Offers are the ways in; each viewer takes one at random.
	Offers []offerv1.OfferServiceClient
	// PerMinute is how many viewers arrive; 0: only bursts. More than MaxPerMinute arrive as if it were that.
	PerMinute int
	// AbandonRate is the share of offers that nobody redeems, 0 to 1.
	AbandonRate float64
	// Payments are references, one chosen at random by each viewer. Empty: "tp_ok".
	Payments []string
	// Think is the longest that a viewer looks at an offer before the tap.
	Think time.Duration
	// Patience bounds one viewer's whole visit; 0: 3 min.
	Patience time.Duration
	// Keep remembers every receipt and every tap's time, for tests and reports; a platform that runs for days must not.
	Keep bool
	// Log hears about purchases that end in an error at debug, without saying whose.
	Log *slog.Logger
}

// Stats is what the audience saw. Counters only grow.
type Stats struct {
	Arrived, Abandoned, Offered, Accepted int
	// Outcomes by purchase state.
	Outcomes map[offerv1.PurchaseState]int
	// Calls by method and ending: "OK", or "CODE/REASON".
	Calls map[string]map[string]int
	// Unverified receipts or outcomes. Must stay 0.
	Unverified int
	// Receipts by purchase id, and the time from each tap to its receipt. Only with Config.Keep.
	Receipts     map[string]string
	TapToReceipt []time.Duration
}

// Audience is a running audience.
type Audience struct {
	cfg Config

	mu    sync.Mutex
	stats Stats
	drops map[string]*offerv1.Drop

	visits sync.WaitGroup
}

// New makes an audience; Run lets it in.
func New(cfg Config) *Audience {
	if len(cfg.Payments) == 0 {
		cfg.Payments = []string{"tp_ok"}
	}
	if cfg.Patience == 0 {
		cfg.Patience = 3 * time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Audience{cfg: cfg, drops: map[string]*offerv1.Drop{}, stats: Stats{
		Outcomes: map[offerv1.PurchaseState]int{}, Calls: map[string]map[string]int{}, Receipts: map[string]string{},
	}}
}

// Stats copies the counters.
func (a *Audience) Stats() Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.stats
	s.Outcomes, s.Receipts, s.TapToReceipt = maps.Clone(s.Outcomes), maps.Clone(s.Receipts), slices.Clone(s.TapToReceipt)
	s.Calls = map[string]map[string]int{}
	for method, endings := range a.stats.Calls {
		s.Calls[method] = maps.Clone(endings)
	}
	return s
}

// Run watches the drops and lets viewers arrive until ctx ends, then waits for those inside.
func (a *Audience) Run(ctx context.Context) error {
	var watching sync.WaitGroup
	watching.Go(func() { a.watchDrops(ctx) })
	defer a.visits.Wait()
	defer watching.Wait()
	if a.cfg.PerMinute <= 0 {
		<-ctx.Done()
		return nil
	}
	gap := time.Minute / time.Duration(min(a.cfg.PerMinute, MaxPerMinute))
	for {
		select {
		case <-time.After(gap/2 + rand.N(gap)):
			if d := a.openDrop(); d != nil {
				a.visit(ctx, d)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// Burst lets n viewers come to one drop, spread over a time. It returns when they have arrived.
func (a *Audience) Burst(ctx context.Context, drop *offerv1.Drop, n int, over time.Duration) {
	for range n {
		a.visit(ctx, drop)
		select {
		case <-time.After(over / time.Duration(n)):
		case <-ctx.Done():
			return
		}
	}
}

func (a *Audience) visit(ctx context.Context, drop *offerv1.Drop) {
	a.visits.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, a.cfg.Patience)
		defer cancel()
		a.shop(ctx, drop)
	})
}

func (a *Audience) shop(ctx context.Context, drop *offerv1.Drop) {
	b := &buyer.Buyer{Offers: a.cfg.Offers[rand.IntN(len(a.cfg.Offers))], OnCall: func(method string, _ time.Duration, err error) {
		if ctx.Err() == nil { // a visit cut short by the end of the show says nothing about the platform
			a.count(method, err)
		}
	}}
	req := buyer.Request{
		Drop: drop, PaymentReference: a.cfg.Payments[rand.IntN(len(a.cfg.Payments))],
		Think: rand.N(a.cfg.Think + 1), Abandon: rand.Float64() < a.cfg.AbandonRate,
	}
	req.Claim = !req.Abandon && rand.IntN(4) == 0
	res, err := b.Buy(ctx, req)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stats.Arrived++
	if res.Offer != nil {
		a.stats.Offered++
	}
	if errors.Is(err, buyer.ErrAbandoned) {
		a.stats.Abandoned++
		return
	}
	if res.Receipt != "" {
		a.stats.Accepted++
		if a.cfg.Keep {
			a.stats.Receipts[res.PurchaseID] = res.Receipt
			a.stats.TapToReceipt = append(a.stats.TapToReceipt, tapToReceipt(res.Steps))
		}
	}
	if errors.Is(err, buyer.ErrUnverified) {
		a.stats.Unverified++
	}
	if err == nil {
		a.stats.Outcomes[res.Purchase.GetState()]++
	} else if ctx.Err() == nil {
		a.cfg.Log.Debug("a viewer's purchase ended early", "error", err)
	}
}

func tapToReceipt(steps []buyer.Step) time.Duration {
	for _, s := range steps {
		if s.Name == "RedeemOffer" || s.Name == "ClaimOffer" {
			return s.Duration
		}
	}
	return 0
}

func (a *Audience) count(method string, err error) {
	ending := "OK"
	if err != nil && !errors.Is(err, buyer.ErrRefused) {
		ending = status.Code(err).String() + "/" + rpcerr.Reason(err).String()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stats.Calls[method] == nil {
		a.stats.Calls[method] = map[string]int{}
	}
	a.stats.Calls[method][ending]++
}

func (a *Audience) watchDrops(ctx context.Context) {
	for ctx.Err() == nil {
		err := a.watchOnce(ctx)
		if ctx.Err() == nil {
			a.cfg.Log.Debug("watching the drops again", "error", err)
		}
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (a *Audience) watchOnce(ctx context.Context) error {
	stream, err := a.cfg.Offers[0].WatchDrops(ctx, &offerv1.WatchDropsRequest{Hints: &offerv1.RoutingHints{}})
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		a.mu.Lock()
		if m.GetSnapshot() != nil {
			clear(a.drops)
		}
		for _, d := range m.GetSnapshot().GetDrops() {
			a.drops[d.GetDropId()] = d
		}
		if d := m.GetChanged(); d != nil {
			a.drops[d.GetDropId()] = d
		}
		a.mu.Unlock()
	}
}

// openDrop picks one that can be bought, at random.
func (a *Audience) openDrop() *offerv1.Drop {
	a.mu.Lock()
	defer a.mu.Unlock()
	var open []*offerv1.Drop
	for _, d := range a.drops {
		if d.GetState() == offerv1.DropState_DROP_STATE_OPEN && d.GetAvailability() != offerv1.Availability_AVAILABILITY_SOLD_OUT {
			open = append(open, d)
		}
	}
	if len(open) == 0 {
		return nil
	}
	return open[rand.IntN(len(open))]
}
