package node_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/rimlight/rimlight/fulfillment"
	"github.com/rimlight/rimlight/fulfillment/node"
	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/sealed"
	"github.com/rimlight/rimlight/internal/simnet"
	"github.com/rimlight/rimlight/internal/sqldb"
	"github.com/rimlight/rimlight/internal/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	centre  = "fulfillment"
	address = "CANARY Rue de la Paix 1"
)

var errPower = errors.New("the power is out")

// carrier counts parcels: a label that comes twice is the same parcel.
type carrier struct {
	mu      sync.Mutex // guards parcels
	parcels map[string]map[string]bool
}

func (c *carrier) labels(order string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.parcels[order])
}

// packer takes its time, and gives up one parcel in so many.
type packer struct {
	*carrier
	name   string
	takes  time.Duration
	breaks int
	count  atomic.Int64
}

func (p *packer) Pack(ctx context.Context, parcel node.Parcel) (string, error) {
	if string(parcel.Details) != address {
		return "", fmt.Errorf("to %q", parcel.Details)
	}
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(p.takes):
	}
	n := p.count.Add(1)
	if p.breaks > 0 && n%int64(p.breaks) == 0 {
		return "", &node.RefusedError{Reason: fulfillmentv1.RejectReason_REJECT_REASON_DAMAGED}
	}
	return fmt.Sprintf("%s-%d", p.name, n), nil
}

func (p *packer) Send(_ context.Context, parcel node.Parcel) error {
	if parcel.Details != nil {
		return errors.New("the carrier is told more than the label says")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.parcels[parcel.OrderID] == nil {
		p.parcels[parcel.OrderID] = map[string]bool{}
	}
	p.parcels[parcel.OrderID][parcel.Tracking] = true
	return nil
}

// process is something with a disk that dies and lives again.
type process struct {
	disk *sqldb.DB
	host *simnet.Host
	run  func(context.Context, *sqldb.DB) error

	kill func()
}

func (p *process) start() {
	var dead atomic.Bool
	db := p.disk.Reopen()
	db.Fault = func(bool) error {
		if dead.Load() {
			return errPower
		}
		return nil
	}
	p.host.Up()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = p.run(ctx, db) // what a dying process says is no news
	}()
	p.kill = func() {
		dead.Store(true)
		p.host.Down()
		cancel()
		<-ended
		p.kill = nil
	}
}

// town is fulfillment and its nodes over a bad network.
type town struct {
	tb      testing.TB
	net     *simnet.Network
	carrier *carrier
	centre  *process
	nodes   []*process
	drop    string
	seller  string
	lease   *fulfillmentv1.Lease
	sold    int
}

func memory(tb testing.TB, migrate func(context.Context, *sqldb.DB) error) *sqldb.DB {
	db, err := sqldb.OpenMemory(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	if err := migrate(tb.Context(), db); err != nil {
		tb.Fatal(err)
	}
	return db
}

// newTown starts everything.
//
//rimlight:bubble it waits in virtual time
func newTown(tb testing.TB, link simnet.Link, cfg fulfillment.Config, packers ...*packer) *town {
	t := &town{tb: tb, carrier: &carrier{parcels: map[string]map[string]bool{}}}
	t.net = simnet.New(simnet.Config{Seed: 1, Link: func(from, to string) simnet.Link {
		if from == "shop" || to == "shop" {
			return simnet.Link{}
		}
		return link
	}})
	host := t.net.Host(centre)
	t.centre = &process{disk: memory(tb, fulfillment.Migrate), host: host, run: func(ctx context.Context, db *sqldb.DB) error {
		svc, err := fulfillment.New(cfg, fulfillment.Deps{DB: db})
		if err != nil {
			return err
		}
		svc.Register(host)
		return svc.Run(ctx)
	}}
	for _, p := range packers {
		p.carrier = t.carrier
		t.nodes = append(t.nodes, &process{disk: memory(tb, node.Migrate), host: t.net.Host(p.name), run: func(ctx context.Context, db *sqldb.DB) error {
			n, err := node.New(node.Config{SKUs: []string{"poster"}, Parallel: 5}, node.Deps{
				DB: db, Packer: p, Orders: fulfillmentv1.NewOrderServiceClient(t.net.Conn(p.name, centre)),
			})
			if err != nil {
				return err
			}
			return n.Run(ctx)
		}})
	}
	for _, p := range t.all() {
		p.start()
	}
	synctest.Wait()
	t.open()
	return t
}

func (t *town) all() []*process { return append([]*process{t.centre}, t.nodes...) }

func (t *town) close() {
	for _, p := range t.all() {
		if p.kill != nil {
			p.kill()
		}
	}
	t.net.Close()
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func newID() string { return ids.NewV7(time.Now(), rand.Reader) }

// open plans a drop and lends its units to a seller.
//
//rimlight:bubble it waits in virtual time
func (t *town) open() {
	conn, ctx := t.net.Conn("shop", centre), t.tb.Context()
	stock := fulfillmentv1.NewStockServiceClient(conn)
	t.drop = must(fulfillmentv1.NewCatalogServiceClient(conn).CreateDrop(ctx, &fulfillmentv1.CreateDropRequest{
		RequestId: newID(), ChannelId: "demo", Title: "Poster", Units: 100, Price: &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 1500},
		GoodsKind: fulfillmentv1.GoodsKind_GOODS_KIND_PHYSICAL, Sku: "poster",
	}))(t.tb).GetDrop().GetDrop().GetDropId()
	t.seller = newID()
	public := sha256.Sum256([]byte(t.seller))
	keyID := sha256.Sum256(public[:])
	must(stock.JoinNode(ctx, &fulfillmentv1.JoinNodeRequest{NodeId: t.seller, DiskId: "disk", Region: "us-east1", SigningKey: &offerv1.SigningKey{
		KeyId: keyID[:8], PublicKey: public[:], Owner: offerv1.KeyOwner_KEY_OWNER_NODE, NodeId: t.seller, Region: "us-east1",
	}}))(t.tb)
	for len(t.keys()) < len(t.nodes) { // all nodes have greeted
		time.Sleep(100 * time.Millisecond)
	}
}

// keys are what details are sealed to, by fulfillment's word.
func (t *town) keys() (keys [][]byte) {
	d := must(fulfillmentv1.NewCatalogServiceClient(t.net.Conn("shop", centre)).GetDrop(t.tb.Context(), &fulfillmentv1.GetDropRequest{DropId: t.drop}))(t.tb)
	for _, depot := range d.GetDrop().GetDrop().GetDepots() {
		keys = append(keys, depot.GetPublicKey())
	}
	return keys
}

// sell places one order, sealed to all nodes.
func (t *town) sell() (order string) {
	return t.sellSealed(func(p sealed.Purchase) []byte { return must(sealed.Seal([]byte(address), t.keys(), p))(t.tb) })
}

// sellSealed places one order with an envelope of the test's.
func (t *town) sellSealed(envelope func(sealed.Purchase) []byte) (order string) {
	conn, ctx := t.net.Conn("shop", centre), t.tb.Context()
	stock := fulfillmentv1.NewStockServiceClient(conn)
	if t.sold >= len(t.lease.GetSerials()) {
		t.lease = must(stock.GrantLease(ctx, &fulfillmentv1.GrantLeaseRequest{RequestId: newID(), NodeId: t.seller, Epoch: 1, DropId: t.drop, WantedUnits: 20}))(t.tb).GetLease()
		t.sold = 0
	}
	k := make([]byte, 16)
	rand.Read(k)
	serial := t.lease.GetSerials()[t.sold]
	t.sold++
	must(stock.SettleUnits(ctx, &fulfillmentv1.SettleUnitsRequest{Claims: []*fulfillmentv1.UnitClaim{{TokenId: k, DropId: t.drop, Serial: serial, LeaseId: t.lease.GetLeaseId()}}}))(t.tb)
	order = newID()
	details := envelope(sealed.Purchase{DropID: t.drop, ID: token.PurchaseID(k)})
	must(fulfillmentv1.NewOrderServiceClient(conn).PlaceOrders(ctx, &fulfillmentv1.PlaceOrdersRequest{
		Orders:     []*fulfillmentv1.Order{{OrderId: order, PurchaseId: token.PurchaseID(k), DropId: t.drop, Serial: serial}},
		Deliveries: []*fulfillmentv1.Delivery{{OrderId: order, Region: "us-east1", Details: details}},
	}))(t.tb)
	return order
}

func (t *town) order(id string) *fulfillmentv1.Order {
	t.tb.Helper()
	return must(fulfillmentv1.NewOrderServiceClient(t.net.Conn("shop", centre)).GetOrder(t.tb.Context(), &fulfillmentv1.GetOrderRequest{OrderId: id}))(t.tb).GetOrder()
}

func TestAnOrderIsPackedAndSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t, simnet.Link{Delay: 50 * time.Millisecond}, fulfillment.Config{}, &packer{name: "a", takes: time.Minute})
		defer w.close()
		id := w.sell()
		time.Sleep(2 * time.Minute)
		if got := w.order(id); got.GetState() != fulfillmentv1.OrderState_ORDER_STATE_SHIPPED || got.GetTrackingReference() != "a-1" || w.carrier.labels(id) != 1 {
			t.Errorf("got %v", got)
		}
	})
}

func TestANodeWithoutALinePacksAndWaitsWithTheParcel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &packer{name: "a", takes: time.Minute}
		w := newTown(t, simnet.Link{Delay: 50 * time.Millisecond}, fulfillment.Config{}, p)
		defer w.close()
		id := w.sell()
		time.Sleep(10 * time.Second)
		w.net.CutBoth("a", centre)
		time.Sleep(10 * time.Minute)
		if p.count.Load() != 1 || w.carrier.labels(id) != 0 {
			t.Errorf("%d packed, %d sent", p.count.Load(), w.carrier.labels(id))
		}
		w.net.HealAll()
		time.Sleep(time.Minute)
		if got := w.order(id); got.GetState() != fulfillmentv1.OrderState_ORDER_STATE_SHIPPED || w.carrier.labels(id) != 1 {
			t.Errorf("got %v", got)
		}
	})
}

// schedule is what happens to a town.
type schedule struct {
	takes, breaks [3]int
	loss          float64
	steps         []step
}

type step struct{ what, who, pauseMS int }

// Whatever breaks and whenever: an order is SHIPPED with one parcel, or DEAD with none.
func TestOneParcelUnderAnySchedule(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var s schedule
		for i := range s.takes {
			s.takes[i], s.breaks[i] = rapid.IntRange(0, 8000).Draw(rt, "takes"), rapid.IntRange(0, 4).Draw(rt, "breaks")
		}
		s.loss = rapid.SampledFrom([]float64{0, .01, .1}).Draw(rt, "loss")
		s.steps = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
			return step{rapid.IntRange(0, 5).Draw(t, "what"), rapid.IntRange(0, 3).Draw(t, "who"), rapid.IntRange(0, 5000).Draw(t, "ms")}
		}), 1, 15).Draw(rt, "steps")
		var problem string
		synctest.Test(t, func(t *testing.T) { problem = play(t, s) })
		if problem != "" {
			rt.Fatal(problem)
		}
	})
}

// play runs a schedule, heals everything, and says what is wrong with any order.
//
//rimlight:bubble it plays in virtual time
func play(t *testing.T, s schedule) string {
	var packers []*packer
	for i, name := range []string{"a", "b", "c"} {
		packers = append(packers, &packer{name: name, takes: time.Duration(s.takes[i]) * time.Millisecond, breaks: s.breaks[i]})
	}
	link := simnet.Link{Delay: 20 * time.Millisecond, Jitter: 200 * time.Millisecond, Loss: s.loss}
	w := newTown(t, link, fulfillment.Config{AcceptWithin: 2 * time.Second, PackWithin: 30 * time.Second, NodeWithin: 5 * time.Minute}, packers...)
	defer w.close()
	var placed []string
	for _, step := range s.steps {
		switch p := w.all()[step.who]; {
		case step.what <= 1 && w.centre.kill != nil:
			placed = append(placed, w.sell())
		case step.what == 2 && p.kill != nil:
			p.kill()
		case step.what == 3 && p.kill == nil:
			p.start()
		case step.what == 4 && step.who > 0:
			w.net.CutBoth(packers[step.who-1].name, centre)
		case step.what == 5:
			w.net.HealAll()
		}
		time.Sleep(time.Duration(step.pauseMS) * time.Millisecond)
	}
	for _, p := range packers { // the network is good from here on
		w.net.SetLink(p.name, centre, simnet.Link{})
		w.net.SetLink(centre, p.name, simnet.Link{})
	}
	w.net.HealAll()
	for _, p := range w.all() {
		if p.kill == nil {
			p.start()
		}
	}
	time.Sleep(8 * time.Minute)
	for _, id := range placed {
		got, labels := w.order(id), w.carrier.labels(id)
		want, over := map[fulfillmentv1.OrderState]int{
			fulfillmentv1.OrderState_ORDER_STATE_SHIPPED: 1, fulfillmentv1.OrderState_ORDER_STATE_DEAD: 0,
		}[got.GetState()]
		if !over || labels != want {
			return fmt.Sprintf("%d parcels left for %v", labels, got)
		}
	}
	return ""
}
