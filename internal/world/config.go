package world

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rimlight/rimlight/internal/wan"
	"github.com/rimlight/rimlight/verifier/payment/testpsp"
)

// Config is a scenario. The zero value of every field but Seed and Drops is its default.
type Config struct {
	// Seed decides everything that is drawn.
	Seed uint64
	// Regions have one node each; names of internal/wan's matrix. One that is named again with a number behind it, as in
	// "europe-west3+2", has another node beside its first. Default: `rimlight dev`'s four.
	Regions []string
	// Centre is where the verifier and fulfillment are. Default: us-central1.
	Centre string
	// Drops are sold.
	Drops []Drop
	// Abandon is the share of offers that nobody redeems, 0 to 1; default 0.5, below 0: none.
	Abandon float64
	// Payments and Habits are what viewers bring, by weight. Default: every reference of testpsp, every habit.
	Payments []Weighted[Payment]
	Habits   []Weighted[Habit]

	// Refunds is the share of viewers whose purchases finance gives money back for, 0 to 1.
	Refunds float64
	// Provider is testpsp without Now and Random; default: answers after 300 ms.
	Provider testpsp.Config

	// Loss and Duplication are shares of messages, 0 to 1; half of the losses are torn connections.
	Loss, Duplication float64
	// Jitter is added to every delay, evenly drawn up to this.
	Jitter time.Duration
	// Skew is the most that a node's clock is off, either way. Less than a second: two clocks must agree within 2 s.
	Skew time.Duration
	// SyncTime is what a node's fsync takes.
	SyncTime time.Duration
	// Mix says how many faults are drawn from the seed; Schedule's are given.
	Mix      Mix
	Schedule []Fault
	// HealWithin is T of I13: how long after the last drop is over, and the network healed, everything must be final.
	// Default 3 min: the customer's 90 s, the verifier's job lease of 30 s and a few pauses of 5 s. With physical drops 6 min:
	// an order that dies of nobody packing it, and the viewer's time to choose.
	HealWithin time.Duration

	// OverGRPC carries the calls over internal/rpc and grpc-go on simulated TCP, in place of simnet. What becomes of each
	// message then depends on the scheduler, too; Duplication has no meaning.
	OverGRPC bool

	// broken, for tests of the laws, replaces parts by ones that break them.
	broken sabotage
}

// Drop is one sale.
type Drop struct {
	Title string
	// Units there are, and Viewers who ask for an offer.
	Units, Viewers int
	// Opens after the beginning of the world; at least 12 s, so that nodes can fetch stock.
	Opens time.Duration
	// Lasts is the window; default 90 s.
	Lasts time.Duration
	// Price in minor units of Currency. Default: 1000 and the drop's place, in another currency than the drop before.
	Price    int64
	Currency string
	// PerCard is how many purchases one card may pay; 0: any number.
	PerCard int
	// Physical goods are sent by depots, to viewers who all say where to.
	Physical bool
}

// Weighted is an alternative with its share relative to the others'.
type Weighted[T any] struct {
	Weight int
	Value  T
}

// Payment is how a viewer pays.
type Payment struct {
	// Reference of testpsp.
	Reference string
	// Confirms: the viewer answers when the payment waits for the customer, and whether with a no.
	Confirms, Declines bool
}

// Habit is what a viewer does besides buying.
type Habit string

// The habits.
const (
	Plain        Habit = "plain"
	Replays      Habit = "replays the redemption"
	DoubleTaps   Habit = "redeems at two regions at once"
	Claims       Habit = "claims in one round trip"
	ClaimsTwice  Habit = "claims again in another region"
	Presents     Habit = "shows its receipt in another region"
	BuysTwice    Habit = "buys beyond its share in another region"
	TapsLate     Habit = "taps after the offer's time"
	ChangesOrder Habit = "redeems again with another payment"
	Steals       Habit = "redeems somebody else's token"
	Forgets      Habit = "looks at its receipt minutes later"
	Vanishes     Habit = "goes away before the answer comes"
	PresentsLate Habit = "shows its receipt elsewhere after the drop"
	Shares       Habit = "shares its session with all who do"
	Fails        Habit = "fails to pay on purpose, over and over"
)

// MixedDrops are three drops with about 1,100 purchases: one plentiful, one in balance, one for which thrice as many
// viewers are willing to buy as there are units.
func MixedDrops() []Drop {
	return []Drop{
		{Title: "plentiful", Units: 900, Viewers: 1400, Opens: 15 * time.Second},
		{Title: "balanced", Units: 320, Viewers: 700, Opens: 35 * time.Second},
		{Title: "scarce", Units: 100, Viewers: 700, Opens: 50 * time.Second},
	}
}

// Stormy is the scenario of the default suite: everything at once.
func Stormy(seed uint64) Config {
	return Config{
		Seed: seed, Drops: MixedDrops(), Loss: 0.01, Duplication: 0.02, Jitter: 10 * time.Millisecond,
		Skew: 300 * time.Millisecond, SyncTime: 2 * time.Millisecond,
		Mix: Mix{Cuts: 10, NodeRestarts: 6, VerifierRestarts: 3, FulfillmentRestarts: 3},
	}
}

// Calm has the same drops and audience, and no faults.
func Calm(seed uint64) Config {
	return Config{Seed: seed, Drops: MixedDrops(), Jitter: 10 * time.Millisecond, SyncTime: 2 * time.Millisecond}
}

// Scaled divides units and viewers of every drop.
func (c Config) Scaled(by int) Config {
	c.Drops = slices.Clone(c.Drops)
	for i := range c.Drops {
		c.Drops[i].Units = max(1, c.Drops[i].Units/by)
		c.Drops[i].Viewers = max(1, c.Drops[i].Viewers/by)
	}
	return c
}

func (c Config) withDefaults() Config {
	if c.Regions == nil {
		c.Regions = []string{"asia-southeast1", "europe-west3", "southamerica-east1", "us-central1"}
	}
	if c.Centre == "" {
		c.Centre = "us-central1"
	}
	if c.Abandon == 0 {
		c.Abandon = 0.5
	}
	if c.Payments == nil {
		c.Payments = []Weighted[Payment]{
			{68, Payment{Reference: testpsp.RefOK}},
			{5, Payment{Reference: testpsp.RefDecline}},
			{3, Payment{Reference: testpsp.RefDeclineOnce}},
			{6, Payment{Reference: testpsp.RefActionRequired, Confirms: true}},
			{2, Payment{Reference: testpsp.RefActionRequired, Confirms: true, Declines: true}},
			{3, Payment{Reference: testpsp.RefActionRequired}},
			{4, Payment{Reference: testpsp.RefTimeoutBefore}},
			{4, Payment{Reference: testpsp.RefTimeoutAfter}},
			{4, Payment{Reference: testpsp.Ref500Once}},
			{1, Payment{Reference: "tp_unheard_of"}},
		}
	}
	if c.Habits == nil {
		c.Habits = []Weighted[Habit]{
			{50, Plain}, {8, Replays}, {8, DoubleTaps}, {8, Claims}, {5, ClaimsTwice}, {6, Presents}, {5, BuysTwice},
			{3, TapsLate}, {4, ChangesOrder}, {3, Steals}, {3, Vanishes}, {3, Forgets}, {3, PresentsLate}, {4, Shares},
		}
	}
	c.Drops = slices.Clone(c.Drops)
	patience := 3 * time.Minute
	for i := range c.Drops {
		if c.Drops[i].Physical {
			patience = 6 * time.Minute
		}
		c.Drops[i].Price = cmp.Or(c.Drops[i].Price, int64(1000+i))
		c.Drops[i].Currency = cmp.Or(c.Drops[i].Currency, currencies[i%len(currencies)])
		if c.Drops[i].Lasts == 0 {
			c.Drops[i].Lasts = 90 * time.Second
		}
	}
	c.HealWithin = cmp.Or(c.HealWithin, patience)
	c.Provider.Latency = cmp.Or(c.Provider.Latency, 300*time.Millisecond)
	return c
}

// Validate reports all problems at once.
func (c Config) Validate() error {
	c = c.withDefaults()
	var problems []error
	for _, name := range append(slices.Clone(c.Regions), c.Centre) {
		if _, ok := wan.Default().RTT(site(name), site(name)); !ok {
			problems = append(problems, fmt.Errorf("no region of the matrix is called %q", name))
		}
	}
	if len(c.Regions) == 0 || len(c.Drops) == 0 {
		problems = append(problems, errors.New("a world needs a region and a drop"))
	}
	for _, d := range c.Drops {
		if d.Opens < 12*time.Second || d.Units < 1 || d.Viewers < 0 {
			problems = append(problems, fmt.Errorf("drop %q: opens before 12 s, has no unit, or fewer viewers than none", d.Title))
		}
	}
	for name, share := range map[string]float64{"Loss": c.Loss, "Duplication": c.Duplication, "Refunds": c.Refunds} {
		if share < 0 || share > 1 {
			problems = append(problems, fmt.Errorf("%s %v is no share", name, share))
		}
	}
	if c.Skew < 0 || c.Skew >= time.Second {
		problems = append(problems, fmt.Errorf("Skew %v is not in [0, 1s)", c.Skew))
	}
	for _, f := range c.Schedule {
		problems = append(problems, f.validate(c))
	}
	return errors.Join(problems...)
}
