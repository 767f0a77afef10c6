// Package viewers plays an audience: open-loop arrivals that watch the drops, ask for offers, abandon half of them, tap,
// and follow what they bought, each over the same client code as `rimlight buy`.
//
//	arrivals (per minute, and bursts) ──> viewer ──> buyer.Buy over one way in of its origin
//	                                         └─────> Stats: what every call ended with, how long every tap took
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
	// Origins are where viewers come from; each viewer comes from one at random. At least one.
	Origins []Origin
	// Channel, if set, is the only one that is watched.
	Channel string
	// PerMinute is how many viewers arrive; 0: only bursts. More than MaxPerMinute arrive as if it were that.
	PerMinute int
	// Duration is for how long they arrive; 0: until the context ends.
	Duration time.Duration
	// AbandonRate is the share of offers that nobody redeems, 0 to 1.
	AbandonRate float64
	// Payments are references, one chosen at random by each viewer. Empty: "tp_ok".
	Payments []string
	// DeclineRate is the share of purchases whose payment is declined for good, 0 to 1, whatever Payments say.
	DeclineRate float64
	// Tries is how often a viewer makes one call at most. 0: buyer.DefaultTries.
	Tries int
	// Delivery is where all of them want physical goods sent, to which they consent. Empty: they buy digital goods only.
	Delivery []byte
	// Think is the longest that a viewer looks at an offer before the tap.
	Think time.Duration
	// Patience bounds one viewer's whole visit; 0: 3 min.
	Patience time.Duration
	// Keep remembers every receipt, for tests; a platform that runs for days must not.
	Keep bool
	// Log hears about purchases that end in an error at debug, without saying whose.
	Log *slog.Logger
}

// Origin is a place that viewers come from.
type Origin struct {
	// Name is for reports.
	Name string
	// Offers are the ways in from there, with that place's last mile; each viewer takes one at random. At least one.
	Offers []offerv1.OfferServiceClient
}

// Stats is what the audience saw. Counters only grow.
type Stats struct {
	Arrived, Abandoned, Offered, Accepted int
	// Failed visits: they ended with an error that is no refusal, after all that the client does about errors.
	Failed int
	// Outcomes by purchase state.
	Outcomes map[offerv1.PurchaseState]int
	// Calls by method and ending: "OK", or "CODE/REASON".
	Calls map[string]map[string]int
	// Unverified receipts or outcomes. Must stay 0.
	Unverified int
	// Receipts by purchase id. Only with Config.Keep.
	Receipts map[string]string
	// Taps by origin and method: from the tap to the verified receipt, repeats included.
	Taps map[TapKey]*Latency
}

// TapKey tells taps apart: two round trips with an offer on the screen, or one that decides and redeems.
type TapKey struct {
	Origin, Method string
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
		Taps: map[TapKey]*Latency{},
	}}
}

// Stats copies the counters.
func (a *Audience) Stats() Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.stats
	s.Outcomes, s.Receipts, s.Taps = maps.Clone(s.Outcomes), maps.Clone(s.Receipts), map[TapKey]*Latency{}
	for key, taps := range a.stats.Taps {
		s.Taps[key] = taps.clone()
	}
	s.Calls = map[string]map[string]int{}
	for method, endings := range a.stats.Calls {
		s.Calls[method] = maps.Clone(endings)
	}
	return s
}

// Run watches the drops and lets viewers arrive until ctx ends or Config.Duration is over, then waits for those inside.
func (a *Audience) Run(ctx context.Context) error {
	watching, stopWatching := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { a.watchDrops(watching) })
	defer watcher.Wait()
	defer stopWatching()
	defer a.visits.Wait()
	var over <-chan time.Time // never, without a duration
	if a.cfg.Duration > 0 {
		over = time.After(a.cfg.Duration)
	}
	var arrival <-chan time.Time
	gap := time.Minute
	if a.cfg.PerMinute > 0 {
		gap /= time.Duration(min(a.cfg.PerMinute, MaxPerMinute))
	}
	for {
		if a.cfg.PerMinute > 0 {
			arrival = time.After(gap/2 + rand.N(gap))
		}
		select {
		case <-arrival:
			if d := a.openDrop(); d != nil {
				a.visit(ctx, d)
			}
		case <-over:
			return nil
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
	origin := a.cfg.Origins[rand.IntN(len(a.cfg.Origins))]
	b := &buyer.Buyer{Offers: origin.Offers[rand.IntN(len(origin.Offers))], Tries: a.cfg.Tries, OnCall: func(method string, _ time.Duration, err error) {
		if ctx.Err() == nil { // a visit cut short by the end of the show says nothing about the platform
			a.count(method, err)
		}
	}}
	payment := a.cfg.Payments[rand.IntN(len(a.cfg.Payments))]
	if rand.Float64() < a.cfg.DeclineRate {
		payment = "tp_decline"
	}
	if err := b.Prepare(ctx); err != nil {
		a.cfg.Log.Debug("a viewer goes on without the public keys", "error", err) // the purchase fetches them again
	}
	req := buyer.Request{
		Drop: drop, PaymentReference: payment,
		Think: rand.N(a.cfg.Think + 1), Abandon: rand.Float64() < a.cfg.AbandonRate,
	}
	if len(a.cfg.Delivery) > 0 {
		req.DeliveryDetails, req.Consent = a.cfg.Delivery, &offerv1.Consent{GrantedPurposes: []offerv1.Purpose{offerv1.Purpose_PURPOSE_DELIVERY}}
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
		}
		a.stats.tapped(origin.Name, res.Steps)
	}
	if errors.Is(err, buyer.ErrUnverified) {
		a.stats.Unverified++
	}
	if err == nil {
		a.stats.Outcomes[res.Purchase.GetState()]++
	} else if ctx.Err() == nil {
		if !errors.Is(err, buyer.ErrRefused) {
			a.stats.Failed++
		}
		a.cfg.Log.Debug("a viewer's purchase ended early", "error", err)
	}
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
	stream, err := a.cfg.Origins[0].Offers[0].WatchDrops(ctx, &offerv1.WatchDropsRequest{Hints: &offerv1.RoutingHints{}, ChannelId: a.cfg.Channel})
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

// Drops are those that it has seen, in no order.
func (a *Audience) Drops() []*offerv1.Drop {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Values(a.drops))
}

// openDrop picks one that can be bought, at random.
func (a *Audience) openDrop() *offerv1.Drop {
	a.mu.Lock()
	defer a.mu.Unlock()
	var open []*offerv1.Drop
	for _, d := range a.drops {
		if d.GetPhysical() && (len(a.cfg.Delivery) == 0 || len(d.GetDeliveryKeys()) == 0) {
			continue // nowhere to send it, or nobody who could
		}
		if d.GetState() == offerv1.DropState_DROP_STATE_OPEN && d.GetAvailability() != offerv1.Availability_AVAILABILITY_SOLD_OUT {
			open = append(open, d)
		}
	}
	if len(open) == 0 {
		return nil
	}
	return open[rand.IntN(len(open))]
}
