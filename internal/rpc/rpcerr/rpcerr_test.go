package rpcerr_test

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

func TestNewCarriesEveryDetail(t *testing.T) {
	err := rpcerr.New(codes.ResourceExhausted, errorsv1.Reason_REASON_NO_UNIT_HERE, "No unit here now.",
		rpcerr.Meta("drop_id", "d"), rpcerr.RetryAfter(300*time.Millisecond), rpcerr.Violation("hints.drop_id", "is odd"))
	st := status.Convert(err)
	if st.Code() != codes.ResourceExhausted || st.Message() != "No unit here now." {
		t.Errorf("got %v %q", st.Code(), st.Message())
	}
	if got := rpcerr.Reason(err); got != errorsv1.Reason_REASON_NO_UNIT_HERE {
		t.Errorf("got reason %v", got)
	}
	if got := rpcerr.Info(err).GetMetadata()["drop_id"]; got != "d" {
		t.Errorf("got drop_id %q", got)
	}
	var retry *errdetails.RetryInfo
	var bad *errdetails.BadRequest
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.RetryInfo:
			retry = d
		case *errdetails.BadRequest:
			bad = d
		}
	}
	if retry.GetRetryDelay().AsDuration() != 300*time.Millisecond || bad.GetFieldViolations()[0].GetField() != "hints.drop_id" {
		t.Errorf("got %v and %v", retry, bad)
	}
}

func TestReasonOfForeignErrorsIsUnspecified(t *testing.T) {
	foreign, err := status.New(codes.NotFound, "x").WithDetails(&errdetails.ErrorInfo{Reason: "SOLD_OUT", Domain: "elsewhere.example"})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []error{nil, errors.New("plain"), foreign.Err()} {
		if got := rpcerr.Reason(e); got != errorsv1.Reason_REASON_UNSPECIFIED {
			t.Errorf("%v has reason %v", e, got)
		}
	}
}

func TestRetry(t *testing.T) {
	for _, c := range []struct {
		rule string
		err  error
		wait time.Duration
		ok   bool
	}{
		{"success needs none", nil, 0, false},
		{"an error that is no status is nobody's word", errors.New("plain"), 0, false},
		{"a final refusal", rpcerr.New(codes.FailedPrecondition, errorsv1.Reason_REASON_SOLD_OUT, "Sold out."), 0, false},
		{"the server says when", rpcerr.New(codes.ResourceExhausted, errorsv1.Reason_REASON_NO_UNIT_HERE, "Not now.",
			rpcerr.RetryAfter(time.Second)), time.Second, true},
		{"nothing answered", status.Error(codes.Unavailable, "gone"), 0, true},
	} {
		if wait, ok := rpcerr.Retry(c.err); wait != c.wait || ok != c.ok {
			t.Errorf("%s: got %v, %v, want %v, %v", c.rule, wait, ok, c.wait, c.ok)
		}
	}
}
