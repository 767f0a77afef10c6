// Package telemetry makes traces: which calls have spans, how a trace goes on in another process or after a row was read
// back, and which traces are kept.
//
//	browser ──traceparent──> router ──traceparent──> node ──receipt──> verifier ──traceparent, order──> fulfillment ──> node
//	                            |                      |                   |
//	                            └── spans ── tail: sampled, failed or slow? ── sink: OTLP, a file
//
// Invariants. A trace begins at a public port, or goes on there with the caller's trace id; everything behind goes on with
// what it is handed, so probes and polls have no spans. A caller's wish to be sampled counts for nothing at a public port:
// strangers do not decide what is stored. A span says what happened where, and never to whom: keys and values are the
// platform's own words, and no error's text. What waits for its fate is bounded; what was too much is counted.
//
// Whether a trace is slow or failed is judged in each process by itself, when the last of its spans there has ended. Until then
// a span is a few words in memory; OpenTelemetry's own are made of those that are kept, and of no others.
//
// docs/decisions/0016 says why calls are not traced by otelgrpc. Without a sink nothing is traced and the calls cost a look at
// the context. The package starts no goroutine; sinks may.
package telemetry

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Header is the W3C header, and metadata key, that carries a trace from process to process.
const Header = "traceparent"

// Config is where traces go, and which. The zero value traces nothing.
type Config struct {
	// Sink takes the spans of traces that are kept. Nil: nothing is traced.
	Sink sdktrace.SpanProcessor
	// Ratio of the traces that are kept whatever happens in them, from 0 to 1. At double, twice the bytes.
	Ratio float64
	// Slow is the duration from which on a call's trace is kept in the process that served it. 0: 200 ms, what a viewer
	// takes for at once.
	Slow time.Duration
}

const defaultSlow = 200 * time.Millisecond

// Validate reports every problem of the configuration.
func (c Config) Validate() error {
	var problems []error
	if c.Ratio < 0 || c.Ratio > 1 {
		problems = append(problems, fmt.Errorf("telemetry: Ratio is %v, must be 0 to 1", c.Ratio))
	}
	if c.Slow < 0 {
		problems = append(problems, fmt.Errorf("telemetry: Slow is %v, must not be negative", c.Slow))
	}
	return errors.Join(problems...)
}

// Tracer makes the spans of one service. Nil makes none. Safe for concurrent use.
type Tracer struct {
	kept trace.Tracer // makes OpenTelemetry's spans, with the ids that they have already
	slow time.Duration

	ratio uint64 // of hashes, those below are sampled
	seed  maphash.Seed

	open                   atomic.Int64 // unsampled traces that wait for their fate
	passed, letGo, dropped prometheus.Counter
}

// scope names the instrumentation in every span.
const scope = "github.com/rimlight/rimlight"

// New makes the tracer of a service: its name, which of them it is if that has a name, and the program's version. It is nil without a sink.
// metrics takes the counts of spans.
func New(cfg Config, service, instance, version string, metrics prometheus.Registerer) (*Tracer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Sink == nil {
		return nil, nil
	}
	if cfg.Slow == 0 {
		cfg.Slow = defaultSlow
	}
	fates, err := fateCounter(metrics)
	if err != nil {
		return nil, err
	}
	self := []attribute.KeyValue{attribute.String("service.name", "rimlight-"+service), attribute.String("service.version", version)}
	if instance != "" {
		self = append(self, attribute.String("service.instance.id", instance))
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.AlwaysSample()), // what it is asked to make is kept
		sdktrace.WithIDGenerator(givenIDs{}),
		sdktrace.WithSpanProcessor(cfg.Sink),
		sdktrace.WithResource(resource.NewSchemaless(self...)),
	)
	return &Tracer{
		kept: provider.Tracer(scope), slow: cfg.Slow, ratio: threshold(cfg.Ratio), seed: maphash.MakeSeed(),
		passed: fates.WithLabelValues("kept"), letGo: fates.WithLabelValues("let_go"), dropped: fates.WithLabelValues("dropped"),
	}, nil
}

// threshold is the share of all hashes.
func threshold(ratio float64) uint64 {
	if ratio >= 1 {
		return math.MaxUint64
	}
	return uint64(ratio * math.MaxUint64)
}

// samples decides for a trace that began with a stranger. By a hash of its id, so that the calls of one purchase share their
// fate, and with a secret seed, as a stranger chooses the id.
func (t *Tracer) samples(id trace.TraceID) bool {
	return t.ratio == math.MaxUint64 || maphash.Comparable(t.seed, id) < t.ratio
}

// Serve begins the span of a call that arrived with the value of Header, or without one. A public port begins a trace for
// every call; others only go on with one. The name must not be the caller's words.
func (t *Tracer) Serve(ctx context.Context, name, traceparent string, public bool) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	parent := parse(traceparent)
	if !parent.IsValid() {
		if !public {
			return ctx, Span{}
		}
		parent = trace.NewSpanContext(trace.SpanContextConfig{TraceID: newTraceID()})
	}
	sampled := parent.IsSampled()
	if public {
		sampled = t.samples(parent.TraceID())
	}
	return t.begin(ctx, parent, sampled, name, server)
}

// Resume begins a span of a trace that went through a row or a message, as Durable wrote it; no span without.
func (t *Tracer) Resume(ctx context.Context, durable []byte, name string) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	parent := decode(durable)
	if !parent.IsValid() {
		return ctx, Span{}
	}
	return t.begin(ctx, parent, parent.IsSampled(), name, internal)
}

// Start begins a span within the one that ctx carries; no span without.
func Start(ctx context.Context, name string) (context.Context, Span) {
	return from(ctx).child(ctx, name, internal)
}

// StartCall is Start for a call to another process.
func StartCall(ctx context.Context, name string) (context.Context, Span) {
	parent := from(ctx)
	if parent != nil && parent.kind == client {
		return ctx, Span{} // this very call has a span, with more to say
	}
	return parent.child(ctx, name, client)
}

// On tells whether ctx carries a span, or one that is over.
func On(ctx context.Context) bool { return from(ctx) != nil }

// Traceparent is the value of Header for a call that ctx makes; empty if nothing is traced.
func Traceparent(ctx context.Context) string {
	r := from(ctx)
	if r == nil {
		return ""
	}
	text := [...]byte{0: '0', 1: '0', 2: '-', 35: '-', 52: '-', 53: '0', 54: '0'}
	hex.Encode(text[3:], r.of.id[:])
	hex.Encode(text[36:], r.id[:])
	if r.of.sampled {
		text[54] = '1'
	}
	return string(text[:])
}

// parse reads the value of Header. What is none is none; vendors' additions stay behind.
func parse(value string) trace.SpanContext {
	if value == "" {
		return trace.SpanContext{}
	}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), header(value)))
}

// header is a carrier of one value.
type header string

// Get implements propagation.TextMapCarrier.
func (h header) Get(key string) string {
	if key == Header {
		return string(h)
	}
	return ""
}

// Set implements propagation.TextMapCarrier. Nobody writes into what was received.
func (header) Set(string, string) {}

// Keys implements propagation.TextMapCarrier.
func (header) Keys() []string { return []string{Header} }
