package region

import (
	"slices"
	"strings"
	"sync"
	"time"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
)

// mostOffers is how many drops' counts a heartbeat carries; the rest waits for the next one.
const mostOffers = 1000

// offerSmoothing is how far back the rate of offers looks: operators read it, nothing is decided by it.
const offerSmoothing = 5 * time.Second

// offersMade counts the offers of this process life by drop, and remembers what of it fulfillment knows.
type offersMade struct {
	mu    sync.Mutex // guards what follows
	drops map[string]offerCount
	rate  meter
}

type offerCount struct{ made, told int64 }

func newOffersMade() *offersMade {
	return &offersMade{drops: map[string]offerCount{}, rate: meter{smoothing: offerSmoothing}}
}

func (o *offersMade) count(drop string, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rate.add(now)
	c := o.drops[drop]
	c.made++
	o.drops[drop] = c
}

// perSecond is how many offers are made, smoothed.
func (o *offersMade) perSecond(now time.Time) float64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.rate.value(now)
}

// news lists the counts that fulfillment does not know yet.
func (o *offersMade) news() []*fulfillmentv1.OffersMade {
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []*fulfillmentv1.OffersMade
	for drop, c := range o.drops {
		if c.made > c.told && len(list) < mostOffers {
			list = append(list, &fulfillmentv1.OffersMade{DropId: drop, Offers: c.made})
		}
	}
	slices.SortFunc(list, func(a, b *fulfillmentv1.OffersMade) int { return strings.Compare(a.GetDropId(), b.GetDropId()) })
	return list
}

// told remembers what a heartbeat brought over.
func (o *offersMade) told(list []*fulfillmentv1.OffersMade) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, m := range list {
		c := o.drops[m.GetDropId()]
		c.told = m.GetOffers()
		o.drops[m.GetDropId()] = c
	}
}
