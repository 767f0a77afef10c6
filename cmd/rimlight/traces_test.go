package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	tracesv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	fulfillmentv1 "github.com/rimlight/rimlight/gen/go/rimlight/fulfillment/v1"
	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/ids"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/sealed"
	"github.com/rimlight/rimlight/internal/telemetry"
	"github.com/rimlight/rimlight/internal/token"
)

// collector is what traces are sent to.
type collector struct {
	tracesv1.UnimplementedTraceServiceServer

	mu       sync.Mutex // guards received
	received []*tracesv1.ExportTraceServiceRequest
}

// Export implements TraceServiceServer.
func (c *collector) Export(_ context.Context, r *tracesv1.ExportTraceServiceRequest) (*tracesv1.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.received = append(c.received, proto.CloneOf(r))
	return &tracesv1.ExportTraceServiceResponse{}, nil
}

// startCollector listens; the spans of short waits arrive soon.
func startCollector(t *testing.T) (c *collector, flags []string) {
	t.Helper()
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "100") // milliseconds; the processes inherit it
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c = &collector{}
	server := grpc.NewServer()
	tracesv1.RegisterTraceServiceServer(server, c)
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return c, []string{"--otlp-endpoint", "http://" + lis.Addr().String(), "--trace-ratio", "1"}
}

// spans are the names of a trace's spans by service, and everything that was sent of it.
func (c *collector) spans(traceID string) (names map[string]map[string]bool, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	names = map[string]map[string]bool{}
	for _, r := range c.received {
		for _, of := range r.GetResourceSpans() {
			service := ""
			for _, a := range of.GetResource().GetAttributes() {
				if a.GetKey() == "service.name" {
					service = a.GetValue().GetStringValue()
				}
			}
			for _, scope := range of.GetScopeSpans() {
				for _, s := range scope.GetSpans() {
					if hex.EncodeToString(s.GetTraceId()) == traceID {
						if names[service] == nil {
							names[service] = map[string]bool{}
						}
						names[service][s.GetName()] = true
						text += prototext.Format(s)
					}
				}
			}
		}
	}
	return names, text
}

// What a purchase of a parcel leaves behind in each role.
var wantSpans = map[string][]string{
	"rimlight-router":      {"rimlight.offer.v1.OfferService/RequestOffer", "rimlight.offer.v1.OfferService/RedeemOffer", "router.attempt"},
	"rimlight-region":      {"rimlight.offer.v1.OfferService/RedeemOffer", "region.decide", "journal.commit", "region.forward"},
	"rimlight-verifier":    {"verifier.ingest", "verifier.settle", "verifier.pay", "payment.capture", "ledger.commit", "verifier.order", "verifier.outcome"},
	"rimlight-fulfillment": {"rimlight.fulfillment.v1.StockService/SettleUnits", "rimlight.fulfillment.v1.OrderService/PlaceOrders", "fulfillment.assign"},
	"rimlight-node":        {"node.pack", "node.send"},
}

// One purchase is one trace over the processes of every role, from the id that the browser sent, although everybody behind
// the journal was restarted while they had work to do for it; and nothing in it says who bought.
func TestAPurchaseIsOneTrace(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes; run without -short")
	}
	c, flags := startCollector(t)
	p := startApart(t, nil, flags...)
	p.refusesASecondProcess(t)
	if code, out, stderr := p.verb(t, "drops", "create", "--channel", "test", "--title", "Poster", "--units", "20", "--price", "19", "--sku", "poster",
		"--opens", "1s", "--duration", "30m"); code != exitDone {
		t.Fatalf("exit %d: %s%s", code, out, stderr)
	}
	const traceID = "0af7651916cd43dd8448eb211c80319c"
	ctx := metadata.AppendToOutgoingContext(t.Context(), telemetry.Header, "00-"+traceID+"-b7ad6b7169203331-00")
	offers := p.dial(t, p.members["router"][0].addr, auth.Viewer).offers
	var log, again bytes.Buffer
	early := p.startNode(t, p.dir, "1h", &log, flags...) // to be known: it makes the key that the details are sealed to
	drop, err := nextOpen(t.Context(), offers, "test", "", goods{parcels: true}, func(*offerv1.Drop) {})
	if err != nil {
		t.Fatal(err)
	}
	_ = early.Process.Kill()
	_ = early.Wait() // it was killed
	session := []byte("CANARY session 1")
	hints := &offerv1.RoutingHints{DropId: drop.GetDropId(), RequestId: ids.NewV7(time.Now(), rand.Reader)}
	var offer *offerv1.RequestOfferResponse
	p.until(t, "an offer", func() bool {
		offer, err = offers.RequestOffer(ctx, &offerv1.RequestOfferRequest{Hints: hints, ViewerSessionId: session})
		return err == nil
	})
	dropID, err := ids.Bytes(drop.GetDropId())
	if err != nil {
		t.Fatal(err)
	}
	k := token.PurchaseID(token.DeriveTokenID(session, dropID, hints.GetRequestId()))
	details, err := sealed.Seal([]byte(address), offer.GetGranted().GetOffer().GetDeliveryKeys(), sealed.Purchase{DropID: drop.GetDropId(), ID: k})
	if err != nil {
		t.Fatal(err)
	}
	var sold *offerv1.RedeemOfferResponse
	p.until(t, "a receipt", func() bool {
		sold, err = offers.RedeemOffer(ctx, &offerv1.RedeemOfferRequest{
			Hints: hints, ViewerSessionId: session, OfferToken: offer.GetGranted().GetOfferToken(), PaymentReference: "tp_ok", DeliveryDetails: details,
			Consent: &offerv1.Consent{GrantedPurposes: []offerv1.Purpose{offerv1.Purpose_PURPOSE_DELIVERY}},
		})
		return err == nil
	})
	has := func(service, name string) func() bool {
		return func() bool { names, _ := c.spans(traceID); return names[service][name] }
	}
	p.until(t, "the order is placed", has("rimlight-verifier", "verifier.order"))
	for _, role := range []string{"fulfillment", "verifier"} {
		p.members[role][0].stop(t)
		p.members[role][0].start(t)
	}
	node := p.startNode(t, p.dir, "1h", &log, flags...)
	p.orderIn(t, fulfillmentv1.OrderState_ORDER_STATE_ACKED)
	if err := node.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = node.Wait() // it was killed
	p.startNode(t, p.dir, "0s", &again, flags...)
	var text string
	p.until(t, "every role's spans are there", func() bool {
		var names map[string]map[string]bool
		names, text = c.spans(traceID)
		for service, want := range wantSpans {
			for _, name := range want {
				if !names[service][name] {
					return false
				}
			}
		}
		return true
	})
	names, _ := c.spans(traceID)
	t.Logf("services: %v", slices.Sorted(maps.Keys(names)))
	for what, secret := range map[string]string{
		"the session": string(session), "the session in hex": hex.EncodeToString(session), "the payment reference": "tp_ok", "the address": "CANARY",
		"the offer token": offer.GetGranted().GetOfferToken(), "the receipt": sold.GetReceipt(), "a licence key or label": "TEST-", "somebody's network address": "127.0.0.1",
	} {
		if strings.Contains(text, secret) {
			t.Errorf("the trace tells %s", what)
		}
	}
	for key := range attributeKeys(text) {
		if !slices.Contains(wantKeys, key) {
			t.Errorf("a span says %q: nobody has looked whether that is private", key)
		}
	}
}

// wantKeys are all that spans may say.
var wantKeys = []string{
	"rpc.grpc.status_code", "rimlight.reason", "rimlight.decision", "rimlight.region", "rimlight.regime", "rimlight.verdict", "rimlight.attempt",
	"rimlight.expected_ms", "rimlight.hedge", "rimlight.order_state",
}

func attributeKeys(text string) map[string]bool {
	keys := map[string]bool{}
	for line := range strings.Lines(text) {
		if _, value, ok := strings.Cut(line, "key:"); ok {
			keys[strings.Trim(strings.TrimSpace(value), `"`)] = true
		}
	}
	return keys
}

func TestTraceFlagsThatAreWrongAreRefused(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	for _, c := range []struct {
		flags traceFlags
		want  string // empty: no mistake
		on    bool
	}{
		{traceFlags{}, "", false},
		{traceFlags{Traces: t.TempDir() + "/spans"}, "", true},
		{traceFlags{Traces: t.TempDir()}, "--traces", false},
		{traceFlags{OTLPEndpoint: "127.0.0.1:4317"}, "--otlp-endpoint", false},
		{traceFlags{OTLPEndpoint: "http://127.0.0.1:4317", TraceRatio: 1.5}, "--trace-ratio", false},
	} {
		cfg, err := c.flags.config(t.Context(), slog.New(slog.DiscardHandler))
		if err == nil && c.want != "" || err != nil && (c.want == "" || !strings.Contains(err.Error(), c.want)) || err == nil && (cfg.Sink != nil) != c.on {
			t.Errorf("%+v: on %v, %v; want %v, %q", c.flags, cfg.Sink != nil, err, c.on, c.want)
		}
	}
}
