package region_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	regionv1 "github.com/rimlight/rimlight/gen/go/rimlight/region/v1"
	"github.com/rimlight/rimlight/region"
)

// transport remembers the trailer of one call.
type transport struct {
	grpc.ServerTransportStream
	trailer metadata.MD
}

func (t *transport) SetTrailer(md metadata.MD) error {
	t.trailer = md
	return nil
}

func (t *transport) report(tb testing.TB) *regionv1.LoadReport {
	tb.Helper()
	m := &regionv1.LoadReport{}
	values := t.trailer.Get("rimlight-load-bin")
	if len(values) != 1 {
		tb.Fatalf("got %d load reports in the trailer, want 1", len(values))
	}
	if err := proto.Unmarshal([]byte(values[0]), m); err != nil {
		tb.Fatal(err)
	}
	return m
}

func TestLoadIsInEveryTrailer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1)
		w.start()
		defer func() {
			if err := w.end(); err != nil {
				t.Error(err)
			}
		}()
		intercept := w.node.UnaryInterceptor()
		call := func(method string, err error) *transport {
			stream := &transport{}
			ctx := grpc.NewContextWithServerTransportStream(t.Context(), stream)
			_, got := intercept(ctx, nil, &grpc.UnaryServerInfo{FullMethod: method}, func(context.Context, any) (any, error) {
				time.Sleep(10 * time.Millisecond)
				return nil, err
			})
			if !errors.Is(got, err) {
				t.Errorf("got %v, want %v", got, err)
			}
			return stream
		}
		for range 100 {
			m := call(offerv1.OfferService_RequestOffer_FullMethodName, nil).report(t)
			if m.GetResidence().AsDuration() != 10*time.Millisecond || m.GetServiceTime().AsDuration() != 10*time.Millisecond || m.GetInFlight() != 0 {
				t.Fatalf("got %v, want 10 ms of each and nothing left inside", m)
			}
		}
		call(offerv1.OfferService_RedeemOffer_FullMethodName, errors.New("no")).report(t) // refusals too
		m := call(offerv1.OfferService_RequestOffer_FullMethodName, nil).report(t)
		if rate := m.GetArrivalsPerSecond(); rate < 30 || rate > 100 { // 100 a second for one second, smoothed over two
			t.Errorf("got %.0f arrivals a second", rate)
		}
		if stream := call(regionv1.RegionService_Probe_FullMethodName, nil); stream.trailer != nil {
			t.Error("a probe carries a trailer")
		}
	})
}

func TestConfig(t *testing.T) {
	for name, c := range map[string]struct {
		config region.Config
		right  bool
	}{
		"a region is enough":      {region.Config{Region: "europe-west3"}, true},
		"a region is required":    {region.Config{}, false},
		"capitals are no name":    {region.Config{Region: "Europe"}, false},
		"zones are names too":     {region.Config{Region: "a", Zones: []string{""}}, false},
		"nothing runs at minus 1": {region.Config{Region: "a", Parallelism: -1}, false},
	} {
		if err := c.config.Validate(); (err == nil) != c.right {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := region.New(region.Config{Region: "a"}, region.Deps{}); err == nil {
		t.Error("a node without a journal was made")
	}
}
