package world

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	micro "github.com/rimlight/rimlight/fulfillment/node"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	"github.com/rimlight/rimlight/internal/sqldb"
)

// sku is what physical drops sell.
const sku = "poster"

// Depots are the microfulfillment nodes of a world with a physical drop, by the names of their hosts: two, so that an order
// can be another's.
var Depots = []string{"depot-1@us-central1", "depot-2@europe-west3"}

// depot is a microfulfillment node with its inbox, which survives its processes.
type depot struct {
	*host
	inbox *sqldb.DB
}

// depots are the hosts' names; none where nothing is sent.
func (c Config) depots() []string {
	for _, d := range c.Drops {
		if d.Physical {
			return Depots
		}
	}
	return nil
}

// openDepots starts them.
func (w *world) openDepots(ctx context.Context) error {
	for _, name := range w.cfg.depots() {
		t, err := emptyInbox()
		if err != nil {
			return err
		}
		inbox, err := t.Open(ctx)
		if err != nil {
			return err
		}
		d := &depot{host: w.newHost(name), inbox: inbox}
		d.begin = func(life int) (service, error) { return w.newDepot(d, life) }
		w.depots = append(w.depots, d)
		if err := d.start(); err != nil {
			return err
		}
	}
	return nil
}

var emptyInbox = sync.OnceValues(func() (*sqldb.Template, error) { return migrated(micro.Migrate) })

func (w *world) newDepot(d *depot, life int) (service, error) {
	n, err := micro.New(micro.Config{SKUs: []string{sku}, Parallel: 4}, micro.Deps{
		DB: d.store(d.inbox, life), Orders: fulfillmentv1.NewOrderServiceClient(w.net.Conn(d.name, "fulfillment")),
		Packer: &packer{w: w, depot: d.name}, Now: d.clock.now, Random: w.random(d.name, life), Log: w.log.With("host", d.name),
	})
	if err != nil {
		return service{}, err
	}
	return service{run: n.Run}, nil
}

// closeDepots ends those that still run, and their inboxes.
func (w *world) closeDepots() error {
	var errs []error
	for _, d := range w.depots {
		errs = append(errs, d.down(true), d.inbox.Close())
	}
	return errors.Join(errs...)
}

// Parcel is one label that the carrier got, with how often.
type Parcel struct {
	Order, Label string
	Times        int
}

// carrier takes parcels: a label that comes twice is the same parcel.
type carrier struct {
	mu      sync.Mutex // guards what is below
	labels  int
	parcels []Parcel
}

func (c *carrier) newLabel(depot string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.labels++
	return fmt.Sprintf("%.7s-%d", depot, c.labels)
}

func (c *carrier) take(order, label string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.parcels {
		if p := &c.parcels[i]; p.Order == order && p.Label == label {
			p.Times++
			return
		}
	}
	c.parcels = append(c.parcels, Parcel{order, label, 1})
}

// packer is the work at a depot: an order takes seconds, one in five is damaged, and now and then somebody goes home before
// it is packed.
type packer struct {
	w     *world
	depot string
}

// Pack implements micro.Packer.
func (p *packer) Pack(ctx context.Context, parcel micro.Parcel) (string, error) {
	if !strings.HasPrefix(string(parcel.Details), canary+"-details-") {
		p.w.watch.surprise("a depot packs an order without an address")
	}
	draws := p.w.cfg.draws("pack "+p.depot+parcel.OrderID, 0)
	takes, fate := time.Duration(draws.Int64N(int64(6*time.Second))), draws.IntN(20)
	if fate == 0 {
		takes = 2 * packWithin
	}
	if !sleep(ctx, takes) {
		return "", ctx.Err()
	}
	if fate >= 16 {
		return "", &micro.RefusedError{Reason: fulfillmentv1.RejectReason_REJECT_REASON_DAMAGED}
	}
	return p.w.carrier.newLabel(p.depot), nil
}

// Send implements micro.Packer.
func (p *packer) Send(_ context.Context, parcel micro.Parcel) error {
	p.w.carrier.take(parcel.OrderID, parcel.Tracking)
	return nil
}
