package main

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
)

// What came of each attempt is one sentence, whatever that was.
func TestExplainSaysWhatHappened(t *testing.T) {
	const ms = time.Millisecond
	d := &routerv1.Decision{
		Method: "/rimlight.offer.v1.OfferService/RequestOffer", Router: "europe-west1", Total: durationpb.New(1200 * ms), Budget: durationpb.New(2 * time.Second),
		Time: timestamppb.New(time.Date(2026, 11, 22, 12, 0, 0, 0, time.Local)),
	}
	for i, a := range []*routerv1.Attempt{
		{Region: "moon", Duration: durationpb.New(400 * ms), StatusCode: int32(codes.Unavailable), Reason: errorsv1.Reason_REASON_UPSTREAM_UNREACHABLE, GivenUp: true},
		{Region: "moon", Duration: durationpb.New(200 * ms), StatusCode: int32(codes.Canceled), Reason: errorsv1.Reason_REASON_CANCELLED, GivenUp: true},
		{Region: "moon", Duration: durationpb.New(3 * ms), StatusCode: int32(codes.Unavailable), Reason: errorsv1.Reason_REASON_UPSTREAM_UNREACHABLE},
		{Region: "moon", Duration: durationpb.New(80 * ms), Residence: durationpb.New(70 * ms), StatusCode: int32(codes.ResourceExhausted), Reason: errorsv1.Reason_REASON_NO_UNIT_HERE},
		{Region: "moon", Duration: durationpb.New(80 * ms), Residence: durationpb.New(70 * ms)},
		{Region: "moon", Duration: durationpb.New(80 * ms)},
	} {
		a.StartOffset = durationpb.New(time.Duration(i) * 100 * ms)
		d.Attempts = append(d.Attempts, a)
		d.Choices = append(d.Choices, &routerv1.Choice{
			Region: "moon", Regime: routerv1.Regime_REGIME_NORMAL, Explanation: "moon is the only one.",
			Candidates: []*routerv1.Candidate{{Region: "moon", Parallelism: 8, SuccessRate: 1}},
		})
	}
	var out bytes.Buffer
	if err := explain(&out, d); err != nil {
		t.Fatal(err)
	}
	golden(t, "explain", out.String())
}
