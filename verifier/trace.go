package verifier

import (
	"context"

	offerv1 "github.com/rimlight/rimlight/gen/go/rimlight/offer/v1"
	"github.com/rimlight/rimlight/internal/telemetry"
	"github.com/rimlight/rimlight/internal/token"
	"github.com/rimlight/rimlight/verifier/store"
)

// candidates is what traceOf reads: the store, or a transaction of it.
type candidates interface {
	Candidates(ctx context.Context, tokenID store.ID) ([]store.Candidate, error)
}

// traceOf is the trace of a purchase: its winning redemption's, as the receipt has it. Empty: nobody traced it.
func (s *Service) traceOf(ctx context.Context, from candidates, tokenID store.ID) []byte {
	if s.deps.Traces == nil {
		return nil
	}
	if trace, known := s.traces.Get(tokenID); known {
		return trace
	}
	var trace []byte
	all, err := from.Candidates(ctx, tokenID)
	if err != nil {
		return nil // a trace is not worth a failure: the step itself meets it, if it matters
	}
	for _, c := range all {
		var receipt offerv1.Receipt
		if c.State == store.Winner && token.DecodeTrusted(c.Receipt, &receipt) == nil {
			trace = receipt.GetTraceContext()
		}
	}
	s.traces.Put(tokenID, trace)
	return trace
}

// jobSpans begins a span in the trace of each job's purchase. The context that it returns, and with it what is asked of
// others for all of them, goes on with one of these traces: with a sampled one, if there is any.
func (s *Service) jobSpans(ctx context.Context, kind store.Kind, jobs []store.Job) (context.Context, func(error)) {
	if s.deps.Traces == nil {
		return ctx, func(error) {}
	}
	var spans []telemetry.Span
	lead, sampled := ctx, false
	for _, j := range jobs {
		trace := s.traceOf(ctx, s.store.Read(), j.TokenID)
		within, span := s.deps.Traces.Resume(ctx, trace, "verifier."+string(kind))
		if !span.On() {
			continue
		}
		if len(spans) == 0 || !sampled && telemetry.Sampled(trace) {
			lead, sampled = within, telemetry.Sampled(trace)
		}
		span.SetInt("rimlight.attempt", int64(j.Attempts))
		spans = append(spans, span)
	}
	return lead, func(err error) {
		for _, span := range spans {
			span.FailOn(err)
			span.End()
		}
	}
}

// ingestSpans begins a span for each redemption, as its own trace goes on here, and remembers the traces for what follows.
func (s *Service) ingestSpans(ctx context.Context, taken []redemption) (end func()) {
	if s.deps.Traces == nil {
		return func() {}
	}
	var spans []telemetry.Span
	for _, r := range taken {
		_, span := s.deps.Traces.Resume(ctx, r.trace, "verifier.ingest")
		if !span.On() {
			continue
		}
		spans = append(spans, span)
		if _, known := s.traces.Get(r.purchase.TokenID); !known {
			s.traces.Put(r.purchase.TokenID, r.trace)
		}
	}
	return func() {
		for _, span := range spans {
			span.End()
		}
	}
}
