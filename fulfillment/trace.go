package fulfillment

import (
	"context"

	"github.com/rimlight/rimlight/fulfillment/store"
	"github.com/rimlight/rimlight/internal/telemetry"
)

// orderSpan begins a span in the trace of an order. What was placed in another life of the process has none.
func (s *Service) orderSpan(ctx context.Context, id store.ID, name string) (context.Context, telemetry.Span) {
	if s.tracer == nil {
		return ctx, telemetry.Span{}
	}
	trace, _ := s.traces.Get(id)
	return s.tracer.Resume(ctx, trace, name)
}

// deliverySpans begins a span for each order of a round of the digital worker.
func (s *Service) deliverySpans(ctx context.Context, round []store.ID) (end func()) {
	var spans []telemetry.Span
	for _, id := range round {
		if _, span := s.orderSpan(ctx, id, "fulfillment.deliver"); span.On() {
			spans = append(spans, span)
		}
	}
	return func() {
		for _, span := range spans {
			span.End()
		}
	}
}
