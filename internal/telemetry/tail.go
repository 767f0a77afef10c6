package telemetry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

const (
	// maxTraces is how many unsampled traces may be open: a second of calls at the rate that a node is built for. At half,
	// slow calls go missing when many are slow; each costs a few kilobytes.
	maxTraces = 4096
	// maxSpans is how many spans a trace may have here: a call with three attempts has seven.
	maxSpans = 64
)

// end notes the end of a span. Of a sampled trace it is passed on; of another one it waits, until none is open, for whether
// any of them failed or was a slow call.
func (l *local) end(r *record, took time.Duration) {
	l.mu.Lock()
	if r.over {
		l.mu.Unlock()
		return
	}
	r.over, r.took = true, took
	l.running--
	if l.sampled {
		l.mu.Unlock()
		l.tracer.pass(r)
		return
	}
	l.keep = l.keep || l.tracer.worthIt(r)
	tooMany := l.lost || l.ended.length == maxSpans
	if !tooMany {
		l.ended.push(r)
	}
	last, keep, ended := l.running == 0, l.keep, l.ended
	l.mu.Unlock()

	t := l.tracer
	if tooMany {
		t.dropped.Inc()
	}
	if !last {
		return
	}
	t.open.Add(-1)
	if !keep {
		t.letGo.Add(float64(ended.length))
		return
	}
	for r := ended.first; r != nil; r = r.next {
		t.pass(r)
	}
}

// worthIt tells whether a span's whole trace is kept.
func (t *Tracer) worthIt(r *record) bool {
	return r.failed || r.kind == server && r.took >= t.slow
}

// pass makes a span of OpenTelemetry's and hands it to the sink.
func (t *Tracer) pass(r *record) {
	t.passed.Inc()
	if r.later != nil {
		r.later(Span{r})
	}
	parent := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: r.of.id, SpanID: r.parent, TraceFlags: trace.FlagsSampled, Remote: r.remote,
	})
	ctx := context.WithValue(trace.ContextWithSpanContext(context.Background(), parent), spanKey{}, r)
	_, span := t.kept.Start(ctx, r.name, trace.WithSpanKind(trace.SpanKind(r.kind)), trace.WithTimestamp(r.start), trace.WithAttributes(r.attributes...))
	if r.failed {
		span.SetStatus(codes.Error, r.reason)
	}
	span.End(trace.WithTimestamp(r.start.Add(r.took)))
}

// givenIDs gives a span the ids that it has gone by all the time.
type givenIDs struct{}

var _ sdktrace.IDGenerator = givenIDs{}

// NewIDs implements sdktrace.IDGenerator, for the first span of a trace.
func (givenIDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	r := from(ctx)
	return r.of.id, r.id
}

// NewSpanID implements sdktrace.IDGenerator.
func (givenIDs) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID { return from(ctx).id }

// fateCounter counts spans. Services of one process may share it.
func fateCounter(metrics prometheus.Registerer) (*prometheus.CounterVec, error) {
	fates := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rimlight_trace_spans_total",
		Help: "Spans by what became of them: kept, let_go (neither sampled, slow nor failed), dropped (too many at once).",
	}, []string{"fate"})
	if metrics == nil {
		return fates, nil
	}
	err := metrics.Register(fates)
	if already := (prometheus.AlreadyRegisteredError{}); errors.As(err, &already) {
		if shared, ok := already.ExistingCollector.(*prometheus.CounterVec); ok {
			return shared, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("telemetry: registering the metrics: %w", err)
	}
	return fates, nil
}
