package forward

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/router/measure"
)

// weight orders statuses by how much they tell the caller: of two failed attempts, the heavier status is answered.
type weight uint8

const (
	silent  weight = iota // no answer came
	late                  // the deadline ended first
	refused               // the node said that it cannot now
	noUnit                // the node said that it holds no unit; others may
	final                 // the node's definite word
)

// result is how an attempt of a platform service's method ended. Every error in it carries a reason of ours.
type result struct {
	err     error
	weight  weight
	retry   bool // asking another node makes sense
	verdict measure.Verdict
	took    time.Duration // until the answer, or a stream's first message

	header, trailer metadata.MD // as the node sent them
}

// judge reads the end of an attempt. The caller's context tells whether the caller is to blame; the attempt took
// elapsed, of which patience would have been enough for a healthy node.
func judge(ctx context.Context, err error, region string, elapsed, patience time.Duration) result {
	if err == nil {
		return result{weight: final, verdict: measure.Good}
	}
	if reason := rpcerr.Reason(err); reason != errorsv1.Reason_REASON_UNSPECIFIED {
		return judgeReason(err, reason)
	}
	st := status.Convert(err)
	switch {
	case errors.Is(context.Cause(ctx), errOutrun):
		return result{err: ended(ctx), weight: silent, verdict: measure.Outrun}
	case errors.Is(context.Cause(ctx), errNotNeeded):
		return result{err: ended(ctx), weight: silent, verdict: measure.Ignored}
	case ctx.Err() == context.Canceled:
		return result{err: ended(ctx), weight: late, verdict: measure.Ignored}
	case ctx.Err() == context.DeadlineExceeded:
		r := result{err: ended(ctx), weight: late, verdict: measure.Ignored}
		if elapsed > patience {
			r.verdict = measure.Broken
		}
		return r
	}
	switch st.Code() {
	case codes.DeadlineExceeded: // the caller's deadline, seen first by the node
		return result{err: deadlineExceeded(), weight: late, verdict: measure.Ignored}
	case codes.ResourceExhausted: // of our statuses all carry a reason: this is grpc's own limit
		return result{err: tooLarge(), weight: final, verdict: measure.Ignored}
	case codes.Unimplemented:
		return result{weight: final, verdict: measure.Good, err: rpcerr.New(codes.Unimplemented,
			errorsv1.Reason_REASON_UNKNOWN_METHOD, "The region does not serve the method.")}
	case codes.Internal:
		// grpc-go answers this text itself, before any handler or interceptor, when the bytes are no message. Whoever
		// sends garbage must not make a region look broken.
		if strings.Contains(st.Message(), "unmarshal") {
			return result{weight: final, verdict: measure.Ignored, err: rpcerr.New(codes.InvalidArgument,
				errorsv1.Reason_REASON_MALFORMED, "The request's bytes are no message of the method's type.")}
		}
	case codes.Unavailable, codes.Canceled, codes.Unknown: // the connection's end in its various words
	default: // somebody's own status: as it is
		return result{err: st.Err(), weight: final, verdict: measure.Good}
	}
	return result{err: unreachable(region), weight: silent, retry: true, verdict: measure.Broken}
}

// judgeReason reads a status that a platform service made.
func judgeReason(err error, reason errorsv1.Reason) result {
	r := result{err: status.Convert(err).Err(), weight: final, verdict: measure.Good}
	switch reason {
	case errorsv1.Reason_REASON_NO_UNIT_HERE:
		r.weight, r.retry = noUnit, true
	case errorsv1.Reason_REASON_KEY_UNKNOWN, errorsv1.Reason_REASON_DRAINING:
		r.weight, r.retry = refused, true
	case errorsv1.Reason_REASON_STORE_UNAVAILABLE:
		r.weight, r.retry, r.verdict = refused, true, measure.Failed
	case errorsv1.Reason_REASON_OVERLOADED:
		r.weight, r.retry, r.verdict = refused, true, measure.Shed
	case errorsv1.Reason_REASON_INTERNAL:
		r.verdict = measure.Failed
	case errorsv1.Reason_REASON_DEADLINE_EXCEEDED, errorsv1.Reason_REASON_DEADLINE_BELOW_FLOOR,
		errorsv1.Reason_REASON_CANCELLED:
		r.weight, r.verdict = late, measure.Ignored
	case errorsv1.Reason_REASON_INVALID_REQUEST, errorsv1.Reason_REASON_MALFORMED:
		r.verdict = measure.Ignored
	}
	return r
}

// foreignVerdict judges a backend whose statuses are its own affair.
func foreignVerdict(ctx context.Context, err error) measure.Verdict {
	if err == nil {
		return measure.Good
	}
	if ctx.Err() != nil {
		return measure.Ignored
	}
	switch status.Code(err) {
	case codes.Unavailable:
		return measure.Broken
	case codes.ResourceExhausted:
		return measure.Shed
	case codes.Internal, codes.Unknown, codes.DataLoss:
		return measure.Failed
	case codes.InvalidArgument, codes.Canceled, codes.DeadlineExceeded:
		return measure.Ignored
	default:
		return measure.Good
	}
}

// ended is the status for a caller whose context ended; its cause may already be one.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); rpcerr.Reason(cause) != errorsv1.Reason_REASON_UNSPECIFIED {
		return cause
	}
	switch {
	case ctx.Err() == context.DeadlineExceeded:
		return deadlineExceeded()
	case errors.Is(context.Cause(ctx), errOutrun), errors.Is(context.Cause(ctx), errNotNeeded):
		return rpcerr.New(codes.Canceled, errorsv1.Reason_REASON_CANCELLED, "Another region answered first.")
	}
	return rpcerr.New(codes.Canceled, errorsv1.Reason_REASON_CANCELLED, "The caller went away.")
}

func deadlineExceeded() error {
	return rpcerr.New(codes.DeadlineExceeded, errorsv1.Reason_REASON_DEADLINE_EXCEEDED, "The deadline ended before an answer.")
}

func unreachable(region string) error {
	return rpcerr.New(codes.Unavailable, errorsv1.Reason_REASON_UPSTREAM_UNREACHABLE,
		"The region could not be reached, or the connection broke before an answer.", rpcerr.Meta("region", region))
}

func draining() error {
	return rpcerr.New(codes.Unavailable, errorsv1.Reason_REASON_DRAINING, "The router is shutting down.")
}

func tooLarge() error {
	return rpcerr.New(codes.ResourceExhausted, errorsv1.Reason_REASON_MESSAGE_TOO_LARGE, "The message is larger than the limit.")
}

// received is the status for a request that could not be read off the caller's stream.
func received(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ended(ctx)
	case rpcerr.Reason(err) != errorsv1.Reason_REASON_UNSPECIFIED:
		return err
	case status.Code(err) == codes.ResourceExhausted:
		return tooLarge()
	default:
		return rpcerr.New(codes.InvalidArgument, errorsv1.Reason_REASON_MALFORMED, "The request could not be read.")
	}
}
