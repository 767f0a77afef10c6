package telemetry

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// Span is something that takes time. The zero value is none: its methods do nothing. One goroutine at a time describes it.
type Span struct{ r *record }

// record is a span whose fate may be open. It is the context of what happens inside it, too, which saves making another.
type record struct {
	context.Context
	of         *local
	id, parent trace.SpanID
	name       string
	start      time.Time
	took       time.Duration // once it is over
	kind       kind
	remote     bool // the parent is another process's
	over       bool // set under of.mu
	failed     bool
	reason     string
	attributes []attribute.KeyValue
	later      func(Span) // says more of it, if it is kept
	next       *record    // in a queue
}

// kind is a trace.SpanKind in less room.
type kind uint8

const (
	internal = kind(trace.SpanKindInternal)
	server   = kind(trace.SpanKindServer)
	client   = kind(trace.SpanKindClient)
)

// queue is a list of spans in the order of their ends, which costs no allocation.
type queue struct {
	first, last *record
	length      int
}

func (q *queue) push(r *record) {
	if q.last == nil {
		q.first = r
	} else {
		q.last.next = r
	}
	q.last = r
	q.length++
}

// local is what one call, or one piece of work, does for a trace in this process.
type local struct {
	tracer  *Tracer
	id      trace.TraceID
	sampled bool
	lost    bool // too many were open when it began
	root    record
	inner   record // the first child: most calls have one

	mu      sync.Mutex // guards the rest
	running int
	used    bool // inner is somebody's
	keep    bool
	ended   queue // of an unsampled trace
}

type spanKey struct{}

// Value implements context.Context.
func (r *record) Value(key any) any {
	if key == (spanKey{}) {
		return r
	}
	return r.Context.Value(key)
}

// from is the span that ctx carries, or nil.
func from(ctx context.Context) *record {
	r, _ := ctx.Value(spanKey{}).(*record)
	return r
}

// begin makes the first span of a trace in this process.
func (t *Tracer) begin(ctx context.Context, parent trace.SpanContext, sampled bool, name string, k kind) (context.Context, Span) {
	l := &local{tracer: t, id: parent.TraceID(), sampled: sampled, running: 1}
	if !sampled && t.open.Add(1) > maxTraces {
		l.lost = true
	}
	r := &l.root
	*r = record{Context: ctx, of: l, id: newSpanID(), parent: parent.SpanID(), remote: true, kind: k, name: name, start: time.Now()}
	return r, Span{r}
}

// child makes a span within another, unless that one is over.
func (r *record) child(ctx context.Context, name string, k kind) (context.Context, Span) {
	if r == nil {
		return ctx, Span{}
	}
	l := r.of
	l.mu.Lock()
	over, c := r.over, (*record)(nil)
	if !over {
		l.running++
		if !l.used {
			l.used, c = true, &l.inner
		}
	}
	l.mu.Unlock()
	if over {
		return ctx, Span{}
	}
	if c == nil {
		c = new(record)
	}
	*c = record{Context: ctx, of: l, id: newSpanID(), parent: r.id, kind: k, name: name, start: time.Now()}
	return c, Span{c}
}

// On tells whether there is one, for who would have work to describe it.
func (s Span) On() bool { return s.r != nil }

// End ends it.
func (s Span) End() {
	if s.r != nil {
		s.r.of.end(s.r, time.Since(s.r.start))
	}
}

// Set says something of it, in the platform's own words.
func (s Span) Set(key, value string) { s.say(attribute.String(key, value)) }

// SetInt says a number of it.
func (s Span) SetInt(key string, value int64) { s.say(attribute.Int64(key, value)) }

func (s Span) say(what attribute.KeyValue) {
	if s.r == nil {
		return
	}
	s.r.attributes = append(s.r.attributes, what)
}

// Later has more said of it if it is kept, by words that do not change any more: most spans are not. It must not fail it.
func (s Span) Later(say func(Span)) {
	if s.r != nil {
		s.r.later = say
	}
}

// Fail marks it as failed, so that its trace is kept. reason is one of the platform's own words.
func (s Span) Fail(reason string) {
	if s.r != nil {
		s.r.failed, s.r.reason = true, reason
	}
}

// FailOn marks it as failed if there is an error, of which it says nothing: texts may hold anything.
func (s Span) FailOn(err error) {
	if err != nil {
		s.Fail("error")
	}
}

// Ids need be unlike each other, not secret.

func newTraceID() (id trace.TraceID) {
	binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(id[8:], rand.Uint64()|1) // never all zeros, which is no id
	return id
}

func newSpanID() (id trace.SpanID) {
	binary.NativeEndian.PutUint64(id[:], rand.Uint64()|1)
	return id
}
