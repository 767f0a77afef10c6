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
// Whether a trace is slow or failed is judged in each process by itself, when the last of its spans there has ended.
// Streams have no span: they last as long as a page does, and what they carry is traced where it happens.
//
// docs/decisions/0016 says why calls are not traced by otelgrpc. Without a sink nothing is traced and the calls cost a look at the context. The package starts no goroutine; sinks may.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
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
type Tracer struct{ tracer trace.Tracer }

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
	tail, err := newTail(cfg.Slow, cfg.Sink, metrics)
	if err != nil {
		return nil, err
	}
	self := []attribute.KeyValue{attribute.String("service.name", "rimlight-"+service), attribute.String("service.version", version)}
	if instance != "" {
		self = append(self, attribute.String("service.instance.id", instance))
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSampler(head{sdktrace.TraceIDRatioBased(cfg.Ratio)}),
		sdktrace.WithSpanProcessor(tail),
		sdktrace.WithResource(resource.NewSchemaless(self...)),
	)
	return &Tracer{provider.Tracer(scope)}, nil
}

// Serve begins the span of a call that arrived with the value of Header, or without one. A public port begins a trace for
// every call; others only go on with one. The name must not be the caller's words.
func (t *Tracer) Serve(ctx context.Context, name, traceparent string, public bool) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	parent := parse(traceparent)
	switch {
	case public:
		ctx = context.WithValue(ctx, strangerKey{}, true)
	case !parent.IsValid():
		return ctx, Span{}
	}
	if parent.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, parent)
	}
	ctx, span := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer))
	return ctx, Span{span}
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
	ctx, span := t.tracer.Start(trace.ContextWithRemoteSpanContext(ctx, parent), name)
	return ctx, Span{span}
}

// Start begins a span within the one that ctx carries; no span without.
func Start(ctx context.Context, name string) (context.Context, Span) {
	return start(ctx, name, trace.SpanKindInternal)
}

// StartCall is Start for a call to another process.
func StartCall(ctx context.Context, name string) (context.Context, Span) {
	return start(ctx, name, trace.SpanKindClient)
}

func start(ctx context.Context, name string, kind trace.SpanKind) (context.Context, Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, Span{}
	}
	if made, ok := parent.(sdktrace.ReadOnlySpan); ok && kind == trace.SpanKindClient && made.SpanKind() == kind {
		return ctx, Span{} // this very call has a span, with more to say
	}
	ctx, span := parent.TracerProvider().Tracer(scope).Start(ctx, name, trace.WithSpanKind(kind))
	return ctx, Span{span}
}

// Span is something that takes time. The zero value is none: its methods do nothing.
type Span struct{ span trace.Span }

// On tells whether there is one, for who would have work to describe it.
func (s Span) On() bool { return s.span != nil }

// End ends it.
func (s Span) End() {
	if s.span != nil {
		s.span.End()
	}
}

// Set says something of it, in the platform's own words.
func (s Span) Set(key, value string) {
	if s.span != nil {
		s.span.SetAttributes(attribute.String(key, value))
	}
}

// SetInt says a number of it.
func (s Span) SetInt(key string, value int64) {
	if s.span != nil {
		s.span.SetAttributes(attribute.Int64(key, value))
	}
}

// Fail marks it as failed, so that its trace is kept. reason is one of the platform's own words.
func (s Span) Fail(reason string) {
	if s.span != nil {
		s.span.SetStatus(codes.Error, reason)
	}
}

// FailOn marks it as failed if there is an error, of which it says nothing: texts may hold anything.
func (s Span) FailOn(err error) {
	if err != nil {
		s.Fail("error")
	}
}

// Traceparent is the value of Header for a call that ctx makes; empty if nothing is traced.
func Traceparent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier[Header]
}

// parse reads the value of Header. What is none is none; vendors' additions stay behind.
func parse(value string) trace.SpanContext {
	if value == "" {
		return trace.SpanContext{}
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{Header: value})
	return trace.SpanContextFromContext(ctx)
}
