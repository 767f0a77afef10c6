package forward

import (
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
	Residence time.Duration // inside the node, by its own word; 0 if it did not say
	Service   time.Duration // the part of it that was work, by its own word
}
