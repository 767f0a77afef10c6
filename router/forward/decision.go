package forward

import (
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/router/arbiter"
	"github.com/rimlight/rimlight/router/measure"
)

// Decision is one arbitrated call: enough to replay every choice and to tell what came of it.
type Decision struct {
	ID       string // "router/UUIDv7"
	Time     time.Time
	Method   string // full name
	Flow     string // an OfferService method's short name, or a forwarded service's full one
	Drop     string
	Budget   time.Duration // left of the caller's deadline at arrival; 0 without one
	Zones    []string
	Attempts []Attempt     // in their order; the last may have found nobody to ask
	Total    time.Duration // arrival to answer, or to a stream's first message
	// Ours is the part of Total that the platform is judged by: all of it, but of a forwarded service's stream only what
	// passed since its caller had sent everything.
	Ours   time.Duration
	Code   codes.Code // what the caller was answered, as far as it is known with the first message
	Reason errorsv1.Reason
}

// Failed tells whether the platform failed the call: no answer, or one that says that it could not do its work. Refusals,
// and calls that their callers gave up, did not fail.
func (d *Decision) Failed() bool {
	switch d.Reason {
	case errorsv1.Reason_REASON_NO_REGION, errorsv1.Reason_REASON_UPSTREAM_UNREACHABLE, errorsv1.Reason_REASON_DRAINING,
		errorsv1.Reason_REASON_OVERLOADED, errorsv1.Reason_REASON_INTERNAL, errorsv1.Reason_REASON_STORE_UNAVAILABLE,
		errorsv1.Reason_REASON_KEY_UNKNOWN, errorsv1.Reason_REASON_JOURNAL_FULL:
		return true
	case errorsv1.Reason_REASON_UNSPECIFIED: // a forwarded service's own status
		return slices.Contains([]codes.Code{codes.Unavailable, codes.Internal, codes.Unknown, codes.DataLoss}, d.Code)
	}
	return false
}

// Refused tells whether the caller was answered anything but OK.
func (d *Decision) Refused() bool { return d.Code != codes.OK }

// Asked tells whether an attempt went to a region.
func (d *Decision) Asked(region string) bool {
	return slices.ContainsFunc(d.Attempts, func(a Attempt) bool { return a.Choice.Region != nil && a.Choice.Region.Name == region })
}

// Attempt is one choice and what came of it. Its Choice.Region is nil when nobody was asked.
type Attempt struct {
	Snapshot    *arbiter.Snapshot
	SnapshotAge time.Duration
	Request     arbiter.Request
	Draw        float64
	Choice      arbiter.Choice

	Start     time.Duration // since the call's arrival
	Duration  time.Duration // until the answer, or a stream's first message
	Code      codes.Code
	Reason    errorsv1.Reason
	Verdict   measure.Verdict
	GivenUp   bool          // the router stopped waiting: it took too long, or the other attempt was first
	Residence time.Duration // inside the node, by its own word; 0 if it did not say
	Service   time.Duration // the part of it that was work, by its own word
}
