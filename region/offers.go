package region

import (
	"slices"
	"strings"
	"sync"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
)

// mostOffers is how many drops' counts a heartbeat carries; the rest waits for the next one.
const mostOffers = 1000

// offersMade counts the offers of this process life by drop, and remembers what of it fulfillment knows.
type offersMade struct {
	mu    sync.Mutex // guards drops
	drops map[string]offerCount
}

type offerCount struct{ made, told int64 }

func newOffersMade() *offersMade { return &offersMade{drops: map[string]offerCount{}} }

func (o *offersMade) count(drop string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := o.drops[drop]
	c.made++
	o.drops[drop] = c
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
