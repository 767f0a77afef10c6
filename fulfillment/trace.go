package fulfillment

import (
	"context"

	"github.com/rimlight/rimlight/fulfillment/store"
	"github.com/rimlight/rimlight/internal/telemetry"
)

// deliverySpans begins a span, in its own trace, for each order of a round of the digital worker.
func (s *Service) deliverySpans(ctx context.Context, round []store.Order) (end func()) {
	var spans []telemetry.Span
	for _, o := range round {
		if _, span := s.tracer.Resume(ctx, o.Trace, "fulfillment.deliver"); span.On() {
			spans = append(spans, span)
		}
	}
	return func() {
		for _, span := range spans {
			span.End()
		}
	}
}
