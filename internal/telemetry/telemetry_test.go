package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"

	"github.com/rimlight/rimlight/internal/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
	sampled   = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
)

// traced is a service whose traces a test reads.
type traced struct {
	*telemetry.Tracer
	exporter *tracetest.InMemoryExporter
	metrics  *prometheus.Registry
}

func newTraced(t testing.TB, ratio float64) *traced {
	t.Helper()
	w := &traced{exporter: tracetest.NewInMemoryExporter(), metrics: prometheus.NewRegistry()}
	var err error
	cfg := telemetry.Config{Sink: sdktrace.NewSimpleSpanProcessor(w.exporter), Ratio: ratio}
	if w.Tracer, err = telemetry.New(cfg, "test", "one", "v1", w.metrics); err != nil {
		t.Fatal(err)
	}
	return w
}

// kept are the names of the spans that were kept.
func (w *traced) kept() []string {
	var names []string
	for _, s := range w.exporter.GetSpans() {
		names = append(names, s.Name)
	}
	return names
}

// call serves one call with a span inside.
func (w *traced) call(traceparent string, public bool, inside func(context.Context, telemetry.Span)) {
	ctx, span := w.Serve(context.Background(), "call", traceparent, public)
	ctx, inner := telemetry.Start(ctx, "inner")
	inside(ctx, inner)
	inner.End()
	span.End()
}

// What is kept, at a ratio of nothing unless it says otherwise.
func TestWhichTracesAreKept(t *testing.T) {
	both := []string{"inner", "call"}
	for _, c := range []struct {
		name   string
		ratio  float64
		parent string
		public bool
		takes  time.Duration
		failed string
		want   []string
	}{
		{"a call like any other is let go", 0, "", true, 0, "", nil},
		{"a slow call is kept whole", 0, "", true, 200 * time.Millisecond, "", both},
		{"a call just within the limit is let go", 0, "", true, 199 * time.Millisecond, "", nil},
		{"a failed call is kept whole", 0, "", true, 0, "REASON_INTERNAL", both},
		{"a sampled call is kept", 1, "", true, 0, "", both},
		{"a stranger does not decide that a call is sampled", 0, sampled, true, 0, "", nil},
		{"nor that it is not", 1, unsampled, true, 0, "", both},
		{"behind a public port the caller decides", 0, sampled, false, 0, "", both},
		{"and decides that it is not", 1, unsampled, false, 0, "", nil},
		{"but a slow call is kept there too", 0, unsampled, false, time.Second, "", both},
		{"behind a public port nobody begins a trace", 1, "", false, time.Second, "", nil},
		{"what is no traceparent is none", 1, "00-00000000000000000000000000000000-b7ad6b7169203331-01", false, 0, "", nil},
		{"nor is rubbish", 1, strings.Repeat("x", 5000), false, 0, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTraced(t, c.ratio)
				w.call(c.parent, c.public, func(_ context.Context, s telemetry.Span) {
					time.Sleep(c.takes)
					if c.failed != "" {
						s.Fail(c.failed)
					}
				})
				if got := w.kept(); !slices.Equal(got, c.want) {
					t.Errorf("kept %v, want %v", got, c.want)
				}
			})
		})
	}
}

// Strangers choose the ids of their traces, and with them nothing: of ids that a sampler which reads them would always keep,
// the ratio is kept. The calls of one trace share their fate.
func TestAStrangersIDDoesNotDecide(t *testing.T) {
	w := newTraced(t, 0.5)
	kept := 0
	for i := range 1000 {
		parent := fmt.Sprintf("00-%016x%016x-b7ad6b7169203331-01", i+1, 0)
		w.exporter.Reset()
		w.call(parent, true, func(context.Context, telemetry.Span) {})
		first := len(w.kept())
		w.call(parent, true, func(context.Context, telemetry.Span) {})
		if len(w.kept()) != 2*first {
			t.Fatalf("of one trace %d spans are kept of the first call, and %d of both", first, len(w.kept()))
		}
		kept += first / 2
	}
	if kept < 350 || kept > 650 { // nine and a half standard deviations
		t.Errorf("%d of 1000 traces are kept, at a ratio of a half", kept)
	}
}

// A work step that takes long is no slow call.
func TestWorkMayTakeItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTraced(t, 0)
		durable := durableOf(t, w)
		_, span := w.Resume(t.Context(), durable, "work")
		time.Sleep(time.Hour)
		span.End()
		if got := w.kept(); len(got) > 0 {
			t.Errorf("kept %v", got)
		}
		_, span = w.Resume(t.Context(), durable, "work")
		span.FailOn(context.DeadlineExceeded)
		span.End()
		if got := w.kept(); !slices.Equal(got, []string{"work"}) {
			t.Errorf("kept %v", got)
		}
	})
}

func durableOf(t *testing.T, w *traced) (durable []byte) {
	t.Helper()
	w.call(unsampled, false, func(ctx context.Context, _ telemetry.Span) { durable = telemetry.Durable(ctx) })
	if len(durable) != 25 {
		t.Fatalf("a trace takes %d bytes", len(durable))
	}
	return durable
}

// A trace goes on behind a header, and behind a row that another process reads much later.
func TestATraceGoesOn(t *testing.T) {
	for _, flag := range []string{unsampled, sampled} {
		first, second, third := newTraced(t, 0), newTraced(t, 0), newTraced(t, 0)
		var durable []byte
		first.call(flag, false, func(ctx context.Context, s telemetry.Span) {
			s.Fail("so that it is kept")
			ctx, call := telemetry.StartCall(ctx, "attempt")
			if _, again := telemetry.StartCall(ctx, "attempt"); again.On() {
				t.Error("one call has two spans")
			}
			second.call(telemetry.Traceparent(ctx), false, func(ctx context.Context, s telemetry.Span) {
				s.Fail("so that it is kept")
				durable = telemetry.Durable(ctx)
			})
			call.End()
		})
		if telemetry.Sampled(durable) != (flag == sampled) {
			t.Errorf("a row says that %s is sampled: %v", flag, telemetry.Sampled(durable))
		}
		_, span := third.Resume(t.Context(), durable, "later")
		span.Fail("so that it is kept")
		span.End()
		attempt := first.exporter.GetSpans()[0]
		served := second.exporter.GetSpans()[1]
		inner, later := second.exporter.GetSpans()[0], third.exporter.GetSpans()[0]
		if served.Parent.SpanID() != attempt.SpanContext.SpanID() || later.Parent.SpanID() != inner.SpanContext.SpanID() {
			t.Error("a span has another parent than the one that called")
		}
		for _, s := range slices.Concat(first.exporter.GetSpans(), second.exporter.GetSpans(), third.exporter.GetSpans()) {
			if id := s.SpanContext.TraceID().String(); id != flag[3:35] {
				t.Errorf("%s is in trace %s", s.Name, id)
			}
		}
	}
}

// What begins after a span's end has none: a stream goes on after the first message.
func TestWhatIsOverHasNoChildren(t *testing.T) {
	w := newTraced(t, 0)
	ctx, span := w.Serve(t.Context(), "call", "", true)
	span.Fail("so that it is kept")
	span.End()
	span.End()
	if _, late := telemetry.Start(ctx, "late"); late.On() {
		t.Error("a span begins in one that is over")
	}
	if got := w.kept(); !slices.Equal(got, []string{"call"}) {
		t.Errorf("kept %v", got)
	}
}

// Rows that hold no trace, or rubbish, resume nothing.
func TestNothingIsResumedFromNothing(t *testing.T) {
	w := newTraced(t, 1)
	for _, durable := range [][]byte{nil, {}, []byte("short"), make([]byte, 25), bytes.Repeat([]byte{1}, 26)} {
		if ctx, span := w.Resume(t.Context(), durable, "x"); span.On() || telemetry.Durable(ctx) != nil || telemetry.Traceparent(ctx) != "" {
			t.Errorf("%x was resumed", durable)
		}
	}
}

// Memory is bounded: what is too much is dropped, and counted.
func TestTooManySpansAreDropped(t *testing.T) {
	w := newTraced(t, 0)
	var open []telemetry.Span
	for range 5000 { // 4,096 traces may be open
		_, span := w.Serve(t.Context(), "call", "", true)
		open = append(open, span)
	}
	for _, span := range open {
		span.Fail("so that it is kept")
		span.End()
	}
	if got := len(w.kept()); got != 4096 {
		t.Errorf("kept %d spans", got)
	}
	w.exporter.Reset()
	w.call("", true, func(ctx context.Context, s telemetry.Span) {
		for range 100 { // of which a trace keeps 64
			_, span := telemetry.Start(ctx, "many")
			span.Fail("so that it is kept")
			span.End()
		}
	})
	if got := len(w.kept()); got != 64 {
		t.Errorf("kept %d spans of one trace", got)
	}
	want := `# HELP rimlight_trace_spans_total Spans by what became of them: kept, let_go (neither sampled, slow nor failed), dropped (too many at once).
# TYPE rimlight_trace_spans_total counter
rimlight_trace_spans_total{fate="dropped"} 942
rimlight_trace_spans_total{fate="kept"} 4160
rimlight_trace_spans_total{fate="let_go"} 0
`
	if err := testutil.GatherAndCompare(w.metrics, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	w.exporter.Reset()
	if w.call("", true, func(_ context.Context, s telemetry.Span) { s.Fail("again") }); len(w.kept()) != 2 {
		t.Error("after a flood nothing is traced any more")
	}
}

// Without a sink there is no tracer, and everything works on none.
func TestWithoutASinkNothingIsTraced(t *testing.T) {
	tracer, err := telemetry.New(telemetry.Config{Ratio: 1}, "test", "", "", nil)
	if tracer != nil || err != nil {
		t.Fatal(tracer, err)
	}
	ctx, span := tracer.Serve(t.Context(), "call", sampled, true)
	ctx, inner := telemetry.Start(ctx, "inner")
	span.Set("a", "b")
	span.SetInt("c", 1)
	inner.FailOn(context.Canceled)
	inner.End()
	span.End()
	if span.On() || inner.On() || telemetry.Durable(ctx) != nil || telemetry.Traceparent(ctx) != "" {
		t.Error("something was traced")
	}
	if _, span := tracer.Resume(ctx, bytes.Repeat([]byte{1}, 25), "x"); span.On() {
		t.Error("something was resumed")
	}
}

func TestBadConfigurationsAreRefusedTogether(t *testing.T) {
	_, err := telemetry.New(telemetry.Config{Ratio: 2, Slow: -1}, "test", "", "", nil)
	if err == nil || !strings.Contains(err.Error(), "Ratio") || !strings.Contains(err.Error(), "Slow") {
		t.Errorf("got %v", err)
	}
}

// The file has a line per span, with what it says.
func TestTheFileIsReadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var file bytes.Buffer
		tracer, err := telemetry.New(telemetry.Config{Sink: telemetry.NewFile(&file), Ratio: 1}, "region", "europe-west3", "v1", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, span := tracer.Serve(t.Context(), "call", sampled, false)
		span.Set("rimlight.verdict", "granted")
		span.SetInt("rimlight.attempt", 2)
		span.Fail("REASON_INTERNAL")
		time.Sleep(1500 * time.Microsecond)
		span.End()
		var got map[string]any
		if err := json.Unmarshal(file.Bytes(), &got); err != nil {
			t.Fatalf("%v: %s", err, file.Bytes())
		}
		want := fmt.Sprint(map[string]any{
			"trace": sampled[3:35], "span": got["span"], "parent": sampled[36:52], "service": "region", "instance": "europe-west3", "name": "call",
			"start": "2000-01-01T00:00:00Z", "duration_ms": 1.5, "failed": "REASON_INTERNAL",
			"attributes": map[string]any{"rimlight.verdict": "granted", "rimlight.attempt": 2},
		})
		if fmt.Sprint(got) != want {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	})
}

// What waits is remembered until it is over, and no more than so much.
func TestWaitingIsBounded(t *testing.T) {
	var w telemetry.Waiting[int]
	w.Put(1, []byte("a"))
	w.Put(2, nil)
	if got, known := w.Get(1); string(got) != "a" || !known {
		t.Error(got, known)
	}
	if got, known := w.Get(2); got != nil || !known {
		t.Error(got, known)
	}
	w.Forget(1)
	if _, known := w.Get(1); known {
		t.Error("what is over is remembered")
	}
	for i := range 10_001 {
		w.Put(i, nil)
	}
	if _, known := w.Get(5); known {
		t.Error("it remembers without bound")
	}
}

// BenchmarkCall is what tracing adds to a call with two spans inside: off, on and let go, on and kept.
func BenchmarkCall(b *testing.B) {
	for _, c := range []struct {
		name  string
		ratio float64
		sink  sdktrace.SpanProcessor
	}{{"off", 0, nil}, {"let go", 0, nowhere{}}, {"kept", 1, nowhere{}}} {
		b.Run(c.name, func(b *testing.B) {
			tracer, err := telemetry.New(telemetry.Config{Ratio: c.ratio, Sink: c.sink}, "test", "", "", nil)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				ctx, span := tracer.Serve(context.Background(), "call", "", true)
				ctx, attempt := telemetry.StartCall(ctx, "attempt")
				attempt.Set("rimlight.region", "europe-west3")
				_ = telemetry.Traceparent(ctx)
				attempt.End()
				span.End()
			}
		})
	}
}

// nowhere is a sink that costs nothing.
type nowhere struct{}

func (nowhere) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (nowhere) OnEnd(sdktrace.ReadOnlySpan)                     {}
func (nowhere) ForceFlush(context.Context) error                { return nil }
func (nowhere) Shutdown(context.Context) error                  { return nil }
