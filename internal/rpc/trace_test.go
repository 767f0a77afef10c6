package rpc_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/rpc"
	"github.com/rimlight/rimlight/internal/telemetry"
)

const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func traced(t testing.TB, sink sdktrace.SpanProcessor, ratio float64) *telemetry.Tracer {
	t.Helper()
	tracer, err := telemetry.New(telemetry.Config{Sink: sink, Ratio: ratio, Slow: time.Hour}, "test", "", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	return tracer
}

// A call has one span on either listener, whatever its protocol, in its caller's trace; a stream's ends with its first message.
func TestCallsAreTraced(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	w := start(t, func(c *rpc.ServerConfig) { c.Traces = traced(t, sdktrace.NewSimpleSpanProcessor(exporter), 1) }, nil)
	// A span ends before its answer leaves, but on the edge the answer may be here before the test looks.
	span := func(what string) tracetest.SpanStub {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; {
			if spans := exporter.GetSpans(); len(spans) > 0 || time.Now().After(deadline) {
				exporter.Reset()
				if len(spans) != 1 || spans[0].Parent.TraceID().String() != traceparent[3:35] || spans[0].SpanContext.TraceID() != spans[0].Parent.TraceID() {
					t.Fatalf("%s made the spans %+v", what, spans)
				}
				return spans[0]
			}
		}
	}
	for name, target := range map[string]string{"native": w.native, "edge": w.edge} {
		client := offerv1.NewOfferServiceClient(dial(t, target, rpc.DialConfig{}))
		ctx := metadata.AppendToOutgoingContext(t.Context(), telemetry.Header, traceparent)
		if _, err := client.RequestOffer(ctx, offerRequest("")); err != nil {
			t.Fatal(err)
		}
		if s := span(name); s.Name != requestOffer[1:] || s.SpanKind != trace.SpanKindServer || s.Status.Description != "" || len(s.Attributes) > 0 {
			t.Errorf("%s: the span of a good call: %+v", name, s)
		}
		_, _ = client.RequestOffer(ctx, offerRequest("untyped")) // its error is not the point
		if s := span(name); s.Status.Description != "REASON_INTERNAL" && s.Status.Description != "INTERNAL" || strings.Contains(fmt.Sprint(s), "canary") {
			t.Errorf("%s: the span of a failed call: %+v", name, s)
		}
		_, _ = client.RequestOffer(ctx, offerRequest("typed"))
		if s := span(name); s.Status.Description != "" || len(s.Attributes) != 2 {
			t.Errorf("%s: the span of a refusal: %+v", name, s)
		}
		watching, stop := context.WithCancel(ctx)
		stream, err := client.WatchDrops(watching, &offerv1.WatchDropsRequest{ChannelId: "wait"})
		if err == nil {
			_, err = stream.Recv()
		}
		if s := span(name); err != nil || s.Name != "rimlight.offer.v1.OfferService/WatchDrops" || len(s.Attributes) > 0 {
			t.Errorf("%s: the span of a stream that goes on: %+v, %v", name, s, err)
		}
		stop()
	}
	res, _ := do(t, httpRequest(t, http.MethodPost, "http://"+w.edge+listKeys, "{}", "Content-Type", "application/json", "Traceparent", traceparent))
	if s := span("connect"); res.StatusCode != http.StatusNotImplemented || s.Name != listKeys[1:] {
		t.Errorf("connect: %d, %+v", res.StatusCode, s)
	}
}

// A call that is made within a trace has a span of its own, and carries the trace on; others carry nothing.
func TestATraceGoesThroughACall(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	tracer := traced(t, sdktrace.NewSimpleSpanProcessor(exporter), 1)
	w := start(t, func(c *rpc.ServerConfig) { c.Public, c.Traces = false, tracer }, nil)
	client := offerv1.NewOfferServiceClient(dial(t, w.native, rpc.DialConfig{}))
	if _, err := client.RequestOffer(t.Context(), offerRequest("")); err != nil {
		t.Fatal(err)
	}
	if spans := exporter.GetSpans(); len(spans) > 0 {
		t.Errorf("a call outside of any trace has spans: %+v", spans)
	}
	ctx, outer := tracer.Serve(t.Context(), "outer", traceparent, false)
	if _, err := client.RequestOffer(ctx, offerRequest("")); err != nil {
		t.Fatal(err)
	}
	outer.End()
	spans := exporter.GetSpans()
	if len(spans) != 3 || spans[0].SpanKind != trace.SpanKindServer || spans[1].SpanKind != trace.SpanKindClient ||
		spans[0].Parent.SpanID() != spans[1].SpanContext.SpanID() || spans[1].Parent.SpanID() != spans[2].SpanContext.SpanID() {
		t.Errorf("the call made the spans %+v", spans)
	}
}

// BenchmarkTracing is what a call costs at either listener without traces, and with those that are let go and kept: the
// ratio of the lines is the cost.
func BenchmarkTracing(b *testing.B) {
	for _, c := range []struct {
		name  string
		ratio float64
		sink  sdktrace.SpanProcessor
	}{{"off", 0, nil}, {"let go", 0, nowhere{}}, {"kept", 1, nowhere{}}} {
		w := start(b, func(cfg *rpc.ServerConfig) { cfg.Traces = traced(b, c.sink, c.ratio) }, nil)
		for name, target := range map[string]string{"native": w.native, "edge": w.edge} {
			b.Run(name+"/"+c.name, func(b *testing.B) {
				client := offerv1.NewOfferServiceClient(dial(b, target, rpc.DialConfig{}))
				req := offerRequest("")
				b.ReportAllocs()
				for b.Loop() {
					if _, err := client.RequestOffer(context.Background(), req); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// nowhere is a sink that costs nothing.
type nowhere struct{}

func (nowhere) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (nowhere) OnEnd(sdktrace.ReadOnlySpan)                     {}
func (nowhere) ForceFlush(context.Context) error                { return nil }
func (nowhere) Shutdown(context.Context) error                  { return nil }
