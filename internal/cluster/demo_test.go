package cluster

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/viewers"
)

// planned is a catalogue that writes down what is planned, and now and then fails.
type planned struct {
	fulfillmentv1.CatalogServiceClient
	drops []*fulfillmentv1.CreateDropRequest
	fail  int // the call that fails, from 1
	calls int
}

func (p *planned) CreateDrop(_ context.Context, req *fulfillmentv1.CreateDropRequest, _ ...grpc.CallOption) (*fulfillmentv1.CreateDropResponse, error) {
	if p.calls++; p.calls == p.fail {
		return nil, errors.New("away")
	}
	p.drops = append(p.drops, req)
	return &fulfillmentv1.CreateDropResponse{Drop: &fulfillmentv1.CatalogDrop{Drop: &offerv1.Drop{DropId: req.GetRequestId()}}}, nil
}

func demoFor(t *testing.T, catalog *planned, crowd *viewers.Audience, long time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	d := &demo{catalog: catalog, crowd: crowd, log: slog.New(slog.DiscardHandler)}
	if err := d.run(ctx); err != nil {
		t.Fatal(err)
	}
}

// Two channels, each with a 90 s drop every two minutes, one minute apart; every third drop is scarce.
func TestTheDemosTimetable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		catalog := &planned{}
		demoFor(t, catalog, nil, 6*time.Minute-time.Second)
		if len(catalog.drops) != 6 {
			t.Fatalf("planned %d drops in six minutes, want 6", len(catalog.drops))
		}
		for i, d := range catalog.drops {
			units := uint32(demoUnits)
			if i == 2 || i == 5 {
				units = demoScarce
			}
			opens := start.Add(demoLead + time.Duration(i)*time.Minute)
			if d.GetUnits() != units || d.GetDuration().AsDuration() != 90*time.Second || !d.GetOpenTime().AsTime().Equal(opens) {
				t.Errorf("drop %d: %d units for %v at %v, want %d for 1m30s at %v", i, d.GetUnits(), d.GetDuration().AsDuration(),
					d.GetOpenTime().AsTime(), units, opens)
			}
			if other := catalog.drops[(i+1)%6]; d.GetChannelId() == other.GetChannelId() {
				t.Errorf("drops %d and %d are both of %s", i, i+1, d.GetChannelId())
			}
		}
	})
}

// Beside every second one a third channel has a drop of parcels, where somebody sends them.
func TestTheDemoSellsParcelsWhereThereIsADepot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute-time.Second)
		defer cancel()
		catalog := &planned{}
		if err := (&demo{catalog: catalog, sku: "print", log: slog.New(slog.DiscardHandler)}).run(ctx); err != nil {
			t.Fatal(err)
		}
		var parcels []time.Time
		for _, d := range catalog.drops {
			if d.GetSku() == "print" && d.GetGoodsKind() == fulfillmentv1.GoodsKind_GOODS_KIND_PHYSICAL && d.GetChannelId() == demoParcelChannel {
				parcels = append(parcels, d.GetOpenTime().AsTime())
			}
		}
		if len(catalog.drops) != 6 || len(parcels) != 2 || parcels[1].Sub(parcels[0]) != 2*time.Minute {
			t.Errorf("%d drops in four minutes, parcels at %v; want 6, and two of parcels, two minutes apart", len(catalog.drops), parcels)
		}
	})
}

func TestTheDemoGoesOnAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		catalog := &planned{fail: 2}
		demoFor(t, catalog, nil, 3*time.Minute-time.Second)
		if len(catalog.drops) != 2 {
			t.Errorf("planned %d drops, want the first and the third", len(catalog.drops))
		}
	})
}

// counting takes the crowd's claims and requests; nobody gets anything.
type counting struct {
	offerv1.OfferServiceClient
	drops chan string
}

var errClosed = errors.New("closed")

func (c *counting) RequestOffer(_ context.Context, req *offerv1.RequestOfferRequest, _ ...grpc.CallOption) (*offerv1.RequestOfferResponse, error) {
	c.drops <- req.GetHints().GetDropId()
	return nil, errClosed
}

func (c *counting) ClaimOffer(_ context.Context, req *offerv1.ClaimOfferRequest, _ ...grpc.CallOption) (*offerv1.ClaimOfferResponse, error) {
	c.drops <- req.GetHints().GetDropId()
	return nil, errClosed
}

func (c *counting) ListKeys(context.Context, *offerv1.ListKeysRequest, ...grpc.CallOption) (*offerv1.ListKeysResponse, error) {
	return nil, errClosed
}

func TestACrowdComesToEveryScarceDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := make(chan string, 2*demoBurst)
		crowd := viewers.New(viewers.Config{Origins: []viewers.Origin{{Offers: []offerv1.OfferServiceClient{&counting{drops: seen}}}}})
		catalog := &planned{}
		demoFor(t, catalog, crowd, 3*time.Minute-time.Second)
		synctest.Wait()
		if len(seen) != demoBurst {
			t.Fatalf("%d viewers came, want %d", len(seen), demoBurst)
		}
		for range demoBurst {
			if got, want := <-seen, catalog.drops[2].GetRequestId(); got != want {
				t.Fatalf("a viewer came to %s, want the scarce drop %s", got, want)
			}
		}
	})
}
