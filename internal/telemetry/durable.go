package telemetry

import (
	"context"
	"slices"

	"go.opentelemetry.io/otel/trace"
)

// durableBytes is a trace id, a span id and the flags, in the order of the header.
const durableBytes = 16 + 8 + 1

// Durable is the trace of ctx, for a row or a message from which Resume goes on; nil if nothing is traced.
func Durable(ctx context.Context) []byte {
	r := from(ctx)
	if r == nil {
		return nil
	}
	var flags trace.TraceFlags
	return append(slices.Concat(r.of.id[:], r.id[:]), byte(flags.WithSampled(r.of.sampled)))
}

// Sampled tells whether a trace that Durable wrote is kept whatever happens.
func Sampled(durable []byte) bool { return decode(durable).IsSampled() }

func decode(durable []byte) trace.SpanContext {
	if len(durable) != durableBytes {
		return trace.SpanContext{}
	}
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID(durable[:16]), SpanID: trace.SpanID(durable[16:24]),
		TraceFlags: trace.TraceFlags(durable[24]) & trace.FlagsSampled, Remote: true,
	})
}
