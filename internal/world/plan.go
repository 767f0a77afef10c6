package world

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/rimlight/rimlight/internal/dropclock"
	"github.com/rimlight/rimlight/internal/wan"
	"github.com/rimlight/rimlight/verifier/payment/testpsp"
)

// tokenTTL is how long an offer stands: the catalogue's default arm.
const tokenTTL = time.Minute

// plan is everything that is drawn before the world begins. It follows from the Config alone.
type plan struct {
	viewers []viewerPlan
	faults  []Fault                  // drawn and given, by time
	skews   map[string]time.Duration // by region
	calm    time.Duration            // faults are over
	over    time.Duration            // and every drop is CLOSED
}

// viewerPlan is one viewer's intention.
type viewerPlan struct {
	Number    int
	Drop      int // of Config.Drops
	Home      string
	Regions   []string // nearest first
	Arrives   time.Duration
	Think     time.Duration
	Abandons  bool
	Habit     Habit
	Payment   Payment
	Session   [16]byte
	RequestID string
	Details   string // empty: none, and no consent for delivery
	overtime  bool   // it comes when the drop was planned to be closed

	aftermath
	voucher string // that it spends; empty: none
}

// Secrets of viewers begin with canary wherever it may be: nothing that is logged or answered as an error may hold it.
const canary = "canary"

// reference is the payment reference with a canary as its suffix.
func (v *viewerPlan) reference() string {
	return fmt.Sprintf("%s:%s-pay-%x", v.Payment.Reference, canary, v.Number)
}

// metros are where viewers live: some beside a region, some far from all.
var metros = []string{
	"asia-east1", "asia-northeast1", "asia-southeast1", "australia-southeast1", "europe-west1", "europe-west3",
	"southamerica-east1", "us-central1", "us-east1", "us-west1",
}

// draws makes a source of randomness of its own for everything that has a name, so that one more draw for one viewer
// changes nothing for another.
func (c Config) draws(name string, number int) *rand.Rand {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%d", name, number)
	return rand.New(rand.NewPCG(c.Seed, h.Sum64()))
}

func newPlan(cfg Config) plan {
	cfg = cfg.withDefaults()
	p := plan{skews: map[string]time.Duration{}}
	first := time.Duration(math.MaxInt64)
	for i, d := range cfg.Drops {
		first = min(first, d.Opens)
		closes := d.Opens + d.Lasts
		if cfg.slips() {
			closes += mostBack(d.Lasts)
		}
		p.calm, p.over = max(p.calm, closes), max(p.over, closes+tokenTTL+dropclock.Grace+cfg.Skew)
		for range d.Viewers {
			p.viewers = append(p.viewers, cfg.newViewer(len(p.viewers), i))
		}
	}
	slices.SortStableFunc(p.viewers, func(a, b viewerPlan) int { return cmp.Compare(a.Arrives, b.Arrives) })
	for i, name := range cfg.Regions {
		if cfg.Skew > 0 {
			p.skews[name] = time.Duration(cfg.draws("skew", i).Int64N(int64(2*cfg.Skew))) - cfg.Skew
		}
	}
	p.faults = append(slices.Clone(cfg.Schedule), cfg.drawMix(first-dropclock.Lead, p.calm)...)
	slices.SortStableFunc(p.faults, func(a, b Fault) int { return cmp.Compare(a.At, b.At) })
	for _, f := range p.faults {
		p.calm = max(p.calm, f.At+f.For)
	}
	return p
}

func (c Config) newViewer(number, drop int) viewerPlan {
	r, d := c.draws("viewer", number), c.Drops[drop]
	v := viewerPlan{
		Number: number, Drop: drop, Home: metros[r.IntN(len(metros))],
		// More come at the beginning, and some until the very end.
		Arrives:  d.Opens + time.Duration(float64(d.Lasts)*math.Pow(r.Float64(), 1.5)),
		Think:    time.Second + time.Duration(r.Int64N(int64(9*time.Second))),
		Abandons: r.Float64() < c.Abandon,
		Habit:    pick(r, c.Habits), Payment: pick(r, c.Payments),
		RequestID: fmt.Sprintf("request-%d", number),
	}
	session := r
	if v.Habit == Shares {
		session = c.draws("shared session", drop)
	}
	copy(v.Session[:], canary+"-s")
	for i := len(canary) + 2; i < len(v.Session); i++ {
		v.Session[i] = byte(session.Uint32())
	}
	if d.Physical {
		v.address()
	}
	v.aftermath = c.newAftermath(number)
	if v.Habit == Fails {
		v.Payment = Payment{Reference: testpsp.RefDecline}
	}
	c.comeLate(&v)
	if v.Habit == TapsLate {
		v.Think = tokenTTL + dropclock.Grace + 2*c.Skew + time.Second + v.Think
	}
	nodes := slices.Clone(c.Regions)
	if number%2 == 1 { // which of two nodes of a region is the nearest is the viewer's luck
		slices.Reverse(nodes)
	}
	v.Regions = slices.SortedStableFunc(slices.Values(nodes), func(a, b string) int {
		return cmp.Compare(rtt(v.Home, site(a)), rtt(v.Home, site(b)))
	})
	return v
}

// address says where goods go.
func (v *viewerPlan) address() {
	v.Details = fmt.Sprintf("%s-details-%s", canary, hex.EncodeToString(v.Session[12:]))
}

// willing tells viewers who buy if they can.
func (v *viewerPlan) willing() bool {
	return !v.Abandons && !v.overtime && !slices.Contains([]Habit{TapsLate, Steals, Vanishes, Shares, Fails}, v.Habit)
}

func pick[T any](r *rand.Rand, from []Weighted[T]) T {
	total := 0
	for _, w := range from {
		total += w.Weight
	}
	n := r.IntN(total)
	for _, w := range from {
		if n -= w.Weight; n < 0 {
			return w.Value
		}
	}
	panic("world: weights changed while drawing")
}

// rtt is the round trip between two places of the matrix; Validate checked the names.
func rtt(a, b string) time.Duration {
	d, _ := wan.Default().RTT(a, b)
	return d
}
