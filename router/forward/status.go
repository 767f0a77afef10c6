package forward

import (
	"context"
	"errors"
	"fmt"
	"strconv"
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
	givenUp bool          // nobody waited for it any more

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
		return result{err: ended(ctx), weight: silent, verdict: measure.Outrun, givenUp: true}
	case errors.Is(context.Cause(ctx), errNotNeeded):
		return result{err: ended(ctx), weight: silent, verdict: measure.Ignored, givenUp: true}
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
	case codes.ResourceExhausted: // of our statuses all carry a reason
		if limit, ok := sizeLimit(err); ok {
			return result{err: tooLarge(limit), weight: final, verdict: measure.Ignored}
		}
		return result{err: overloaded(), weight: refused, retry: true, verdict: measure.Shed}
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
	case errorsv1.Reason_REASON_KEY_UNKNOWN, errorsv1.Reason_REASON_DROP_NOT_HEARD_OF, errorsv1.Reason_REASON_DRAINING, errorsv1.Reason_REASON_JOURNAL_FULL,
		errorsv1.Reason_REASON_NO_DEPOT:
		r.weight, r.retry = refused, true
	case errorsv1.Reason_REASON_STORE_UNAVAILABLE:
		r.weight, r.retry, r.verdict = refused, true, measure.Failed
	case errorsv1.Reason_REASON_OVERLOADED:
		r.weight, r.retry, r.verdict = refused, true, measure.Shed
		if _, ok := rpcerr.Retry(err); !ok {
			r.err = overloaded()
		}
	case errorsv1.Reason_REASON_INTERNAL:
		r.verdict = measure.Failed
	case errorsv1.Reason_REASON_DEADLINE_EXCEEDED, errorsv1.Reason_REASON_DEADLINE_BELOW_FLOOR,
		errorsv1.Reason_REASON_CANCELLED:
		r.weight, r.verdict = late, measure.Ignored
	case errorsv1.Reason_REASON_INVALID_REQUEST, errorsv1.Reason_REASON_MALFORMED, errorsv1.Reason_REASON_MESSAGE_TOO_LARGE:
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
	if _, ok := sizeLimit(err); ok {
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

func tooLarge(limit int) error {
	return rpcerr.New(codes.ResourceExhausted, errorsv1.Reason_REASON_MESSAGE_TOO_LARGE,
		fmt.Sprintf("The message is larger than %d bytes.", limit), rpcerr.Meta("limit_bytes", strconv.Itoa(limit)))
}

// overloadedRetry is when a caller may come back where a full node did not say: several round trips, in which queues of
// 100 ms empty.
const overloadedRetry = 500 * time.Millisecond

func overloaded() error {
	return rpcerr.New(codes.ResourceExhausted, errorsv1.Reason_REASON_OVERLOADED, "More calls than the regions take at once.",
		rpcerr.RetryAfter(overloadedRetry))
}

// sizeLimit reads the limit in bytes from what grpc-go says of a message that is too large, here or at the far end:
// "grpc: received message larger than max (19 vs. 10)" and "trying to send message larger than max (19 vs. 10)".
func sizeLimit(err error) (limit int, ok bool) {
	if status.Code(err) != codes.ResourceExhausted {
		return 0, false
	}
	_, figures, found := strings.Cut(status.Convert(err).Message(), "message larger than max (")
	if !found {
		return 0, false
	}
	_, most, _ := strings.Cut(figures, " vs. ")
	most, _, _ = strings.Cut(most, ")")
	limit, convErr := strconv.Atoi(most)
	return limit, convErr == nil
}

// received is the status for a request that could not be read off the caller's stream.
func received(ctx context.Context, err error) error {
	limit, large := sizeLimit(err)
	switch {
	case ctx.Err() != nil:
		return ended(ctx)
	case rpcerr.Reason(err) != errorsv1.Reason_REASON_UNSPECIFIED:
		return err
	case large:
		return tooLarge(limit)
	default:
		return rpcerr.New(codes.InvalidArgument, errorsv1.Reason_REASON_MALFORMED, "The request could not be read.")
	}
}
