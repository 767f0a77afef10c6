package process_test

import (
	"context"
	"crypto/rand"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	verifierv1 "github.com/rimlight/rimlight/gen/go/rimlight/verifier/v1"
	"github.com/rimlight/rimlight/internal/buyer"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/process"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/router/forward"
)

// mute is a path whose answers can be held back: what goes in arrives.
type mute struct {
	mu   sync.Mutex
	held chan struct{} // closed when answers pass again; nil: they pass
}

func (m *mute) hold() (release func()) {
	held := make(chan struct{})
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = held
	return sync.OnceFunc(func() { close(held) })
}

func (m *mute) dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return mutedConn{conn, m}, nil
}

type mutedConn struct {
	net.Conn
	path *mute
}

// Read implements net.Conn.
func (c mutedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.path.mu.Lock()
	held := c.path.held
	c.path.mu.Unlock()
	if held != nil {
		<-held
	}
	return n, err
}

// A redemption whose answer is late goes to a second region with the same token. Both accept: the purchase settles once, and
// the other one's unit comes back.
func TestAHedgedRedemptionIsOnePurchase(t *testing.T) {
	tokens := auth.NewTokens()
	fulfillment, err := process.StartFulfillment(t.Context(), process.Fulfillment{Common: common(t, "fulfillment", tokens)})
	if err != nil {
		t.Fatal(err)
	}
	runs(t, fulfillment.Run)
	verifier, err := process.StartVerifier(t.Context(), process.Verifier{Common: common(t, "verifier", tokens), Fulfillment: fulfillment.Addr(), Profile: "dev"})
	if err != nil {
		t.Fatal(err)
	}
	runs(t, verifier.Run)
	const units = 100
	drop := planDrop(t, dialTo(t, fulfillment.Addr(), tokens[auth.Producer]), units)

	addrs := map[string]string{}
	for _, name := range []string{"near", "far"} { // far joins later, and so knows near's key
		region, err := process.StartRegion(t.Context(), process.Region{
			Common: common(t, name, tokens), Name: name, Fulfillment: fulfillment.Addr(), Verifier: verifier.Addr(),
		})
		if err != nil {
			t.Fatal(err)
		}
		runs(t, region.Run)
		addrs[name] = region.Addr()
		node := regionv1.NewRegionServiceClient(dialTo(t, region.Addr(), ""))
		until(t, name+" holds units", func() bool {
			probe, err := node.Probe(t.Context(), &regionv1.ProbeRequest{Router: "test"})
			return err == nil && len(probe.GetStock()) > 0 && probe.GetStock()[0].GetUntouched() > 0
		})
	}
	path := &mute{}
	settings := common(t, "router", tokens)
	router, err := process.StartRouter(t.Context(), process.Router{
		Common: settings, Name: "r1", AdminListen: "127.0.0.1:0", Regions: addrs,
		DialTo: func(region string) process.Dialer {
			if region == "near" {
				return path.dial
			}
			return process.Delayed(40*time.Millisecond, nil)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	runs(t, router.Run)
	<-router.Ready()
	until(t, "the router reaches both", func() bool { return router.Reaches("near", "far") })

	offers := offerv1.NewOfferServiceClient(dialTo(t, router.Addr(), ""))
	// On a busy machine near can be suspect before the call comes, or the call is retried: then it is another viewer's turn.
	purchases, won := uint32(0), 0.0
	for ; won == 0; purchases++ {
		if purchases == units/2 {
			t.Fatalf("none of %d late redemptions won by a hedge", purchases)
		}
		redeemLate(t, offers, drop, path)
		won = hedgesWon(t, settings.Metrics)
	}
	support := verifierv1.NewSupportServiceClient(dialTo(t, verifier.Addr(), tokens[auth.Finance]))
	catalog := fulfillmentv1.NewCatalogServiceClient(dialTo(t, fulfillment.Addr(), tokens[auth.Producer]))
	var books *verifierv1.GetAuditResponse
	var stock *fulfillmentv1.StockLevel
	until(t, "the books tell of both acceptances, and of one purchase and one unit for each viewer", func() bool {
		if books, err = support.GetAudit(t.Context(), &verifierv1.GetAuditRequest{DropId: drop}); err != nil {
			return false
		}
		drops, err := catalog.ListDrops(t.Context(), &fulfillmentv1.ListDropsRequest{})
		if err != nil || len(drops.GetDrops()) != 1 || len(books.GetDrops()) != 1 {
			return false
		}
		stock = drops.GetDrops()[0].GetStock()
		d := books.GetDrops()[0]
		return d.GetDuplicates() >= 1 && d.GetReceived() == purchases && d.GetUnitsHeld() == purchases && d.GetDelivered() == purchases &&
			stock.GetSold() == purchases && stock.GetFree()+stock.GetLeased() == units-purchases && books.GetDoubleCaptures() == 0
	}, func() any { return []any{books, stock} })
}

// redeemLate buys with near's offer while near's answers are held back, and follows the purchase to its end.
func redeemLate(t *testing.T, offers offerv1.OfferServiceClient, drop string, near *mute) {
	t.Helper()
	session := buyer.NewSession()
	var hints *offerv1.RoutingHints
	var offer *offerv1.RequestOfferResponse
	until(t, "near offers", func() bool {
		hints = &offerv1.RoutingHints{DropId: drop, RequestId: ids.NewV7(time.Now(), rand.Reader)}
		var at metadata.MD
		var err error
		offer, err = offers.RequestOffer(t.Context(), &offerv1.RequestOfferRequest{Hints: hints, ViewerSessionId: session}, grpc.Header(&at))
		return err == nil && offer.GetGranted() != nil && at.Get(forward.HeaderRegion)[0] == "near"
	})
	release := near.hold()
	t.Cleanup(release) // before the router stops
	receipt, err := offers.RedeemOffer(t.Context(), &offerv1.RedeemOfferRequest{
		Hints: hints, OfferToken: offer.GetGranted().GetOfferToken(), ViewerSessionId: session, PaymentReference: "tp_ok",
	})
	release()
	if err != nil || receipt.GetRegion() != "far" {
		t.Fatalf("got %v and %v, want far's receipt", receipt, err)
	}
	until(t, "the purchase is final", func() bool {
		got, err := offers.GetPurchase(t.Context(), &offerv1.GetPurchaseRequest{
			Hints: hints, Credential: &offerv1.GetPurchaseRequest_Receipt{Receipt: receipt.GetReceipt()},
		})
		return err == nil && got.GetPurchase().GetPurchaseId() == receipt.GetPurchaseId() && buyer.Final(got.GetPurchase().GetState())
	})
}

func hedgesWon(t *testing.T, metrics *prometheus.Registry) (won float64) {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "rimlight_router_hedges_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetValue() == "won" {
					won += m.GetCounter().GetValue()
				}
			}
		}
	}
	return won
}

func dialTo(t *testing.T, addr, token string) *grpc.ClientConn {
	t.Helper()
	conn, err := rpc.Dial(addr, rpc.DialConfig{Token: token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

func planDrop(t *testing.T, producer *grpc.ClientConn, units uint32) string {
	t.Helper()
	created, err := fulfillmentv1.NewCatalogServiceClient(producer).CreateDrop(t.Context(), &fulfillmentv1.CreateDropRequest{
		RequestId: ids.NewV7(time.Now(), rand.Reader), ChannelId: "test", Title: "Test drop", Units: units,
		Price: &offerv1.Money{CurrencyCode: "EUR", MinorUnits: 1900}, OpenTime: timestamppb.Now(), Duration: durationpb.New(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	return created.GetDrop().GetDrop().GetDropId()
}

// until waits for what other processes do, which no channel tells; told explains what is there instead.
func until(t *testing.T, what string, ok func() bool, told ...func() any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			for _, tell := range told {
				t.Log(tell())
			}
			t.Fatalf("not within a minute: %s", what)
		}
	}
}
