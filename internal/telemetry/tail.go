package telemetry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// strangerKey marks a context whose remote parent is a stranger's.
type strangerKey struct{}

// head decides when a span begins. Nothing is dropped yet: what is not sampled is recorded until the tail knows more.
type head struct{ ratio sdktrace.Sampler }

// Description implements sdktrace.Sampler.
func (h head) Description() string { return "rimlight(" + h.ratio.Description() + ")" }

// ShouldSample implements sdktrace.Sampler.
func (h head) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	parent := trace.SpanContextFromContext(p.ParentContext)
	sampled := parent.IsSampled()
	if !parent.IsValid() || parent.IsRemote() && p.ParentContext.Value(strangerKey{}) != nil {
		sampled = h.ratio.ShouldSample(p).Decision == sdktrace.RecordAndSample
	}
	if sampled {
		return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample}
	}
	return sdktrace.SamplingResult{Decision: sdktrace.RecordOnly}
}

const (
	// maxTraces is how many unsampled traces may be open: a second of calls at the rate that a node is built for. At half,
	// slow calls go missing when many are slow; each costs a few kilobytes.
	maxTraces = 4096
	// maxSpans is how many spans a trace may have here: a call with three attempts has seven.
	maxSpans = 64
)

// tail keeps the spans of an unsampled trace until none is open, and then passes all of them on if one failed or was a slow
// call.
type tail struct {
	slow time.Duration
	sink sdktrace.SpanProcessor

	kept, letGo, dropped prometheus.Counter

	mu   sync.Mutex // guards open, and what is in it
	open map[trace.TraceID]*pending
}

// pending is a trace that waits for its fate.
type pending struct {
	running int
	keep    bool
	ended   []sdktrace.ReadOnlySpan
}

var _ sdktrace.SpanProcessor = (*tail)(nil)

func newTail(slow time.Duration, sink sdktrace.SpanProcessor, metrics prometheus.Registerer) (*tail, error) {
	if metrics == nil {
		metrics = prometheus.NewRegistry()
	}
	fates := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rimlight_trace_spans_total",
		Help: "Spans by what became of them: kept, let_go (neither sampled, slow nor failed), dropped (too many at once).",
	}, []string{"fate"})
	if err := metrics.Register(fates); err != nil {
		if already := (prometheus.AlreadyRegisteredError{}); !errors.As(err, &already) {
			return nil, fmt.Errorf("telemetry: registering the metrics: %w", err)
		} else if shared, ok := already.ExistingCollector.(*prometheus.CounterVec); ok {
			fates = shared
		}
	}
	return &tail{
		slow: slow, sink: sink, open: map[trace.TraceID]*pending{},
		kept: fates.WithLabelValues("kept"), letGo: fates.WithLabelValues("let_go"), dropped: fates.WithLabelValues("dropped"),
	}, nil
}

// OnStart implements sdktrace.SpanProcessor.
func (t *tail) OnStart(_ context.Context, s sdktrace.ReadWriteSpan) {
	sc := s.SpanContext()
	if sc.IsSampled() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.open[sc.TraceID()]
	if p == nil {
		if len(t.open) == maxTraces {
			return
		}
		p = &pending{}
		t.open[sc.TraceID()] = p
	}
	p.running++
}

// OnEnd implements sdktrace.SpanProcessor.
func (t *tail) OnEnd(s sdktrace.ReadOnlySpan) {
	if s.SpanContext().IsSampled() {
		t.pass(s)
		return
	}
	for _, s := range t.take(s) {
		t.pass(s)
	}
}

func (t *tail) pass(s sdktrace.ReadOnlySpan) {
	t.kept.Inc()
	t.sink.OnEnd(keptSpan{s})
}

// take notes the end of a span, and gives up what is to be kept when it was the trace's last.
func (t *tail) take(s sdktrace.ReadOnlySpan) []sdktrace.ReadOnlySpan {
	id := s.SpanContext().TraceID()
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.open[id]
	if p == nil { // it began when too many were open
		t.dropped.Inc()
		return nil
	}
	p.running--
	p.keep = p.keep || t.worthIt(s)
	if len(p.ended) < maxSpans {
		p.ended = append(p.ended, s)
	} else {
		t.dropped.Inc()
	}
	switch {
	case p.running > 0:
		return nil
	case p.keep:
		delete(t.open, id)
		return p.ended
	}
	delete(t.open, id)
	t.letGo.Add(float64(len(p.ended)))
	return nil
}

// worthIt tells whether a span's whole trace is kept.
func (t *tail) worthIt(s sdktrace.ReadOnlySpan) bool {
	return s.Status().Code == codes.Error || s.SpanKind() == trace.SpanKindServer && s.EndTime().Sub(s.StartTime()) >= t.slow
}

// ForceFlush implements sdktrace.SpanProcessor.
func (t *tail) ForceFlush(ctx context.Context) error { return t.sink.ForceFlush(ctx) }

// Shutdown implements sdktrace.SpanProcessor. The sink belongs to whoever made it: several services may share one.
func (t *tail) Shutdown(context.Context) error { return nil }

// keptSpan says that it was sampled, as it was in the end: exporters pass others over.
type keptSpan struct{ sdktrace.ReadOnlySpan }

// SpanContext implements sdktrace.ReadOnlySpan.
func (s keptSpan) SpanContext() trace.SpanContext {
	sc := s.ReadOnlySpan.SpanContext()
	return sc.WithTraceFlags(sc.TraceFlags().WithSampled(true))
}
