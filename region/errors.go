package region

import (
	"errors"
	"time"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
)

// Errors that end a node's Run. Each needs an operator: a restart alone does not help, but for the journal's ErrBroken.
var (
	// ErrDiskChanged: fulfillment knows this node with another disk. Begin with an empty data directory, as a new node.
	ErrDiskChanged = errors.New("region: fulfillment knows this node with another disk")
	// ErrJournalBehind: the verifier has redemptions that the journal lacks, so serials could be sold twice. The data
	// directory is an old copy, or its newest records were lost.
	ErrJournalBehind = errors.New("region: the verifier has redemptions that this journal lacks")
)

// refusal is a no with its reason, for toStatus. The message is for people and holds no secrets.
type refusal struct {
	reason     errorsv1.Reason
	message    string
	meta       []string // key, value, key, value...
	field      string   // of the request, where one is to blame
	retryAfter time.Duration
}

// Error implements error.
func (r *refusal) Error() string { return r.message }

func refuse(reason errorsv1.Reason, message string, meta ...string) *refusal {
	return &refusal{reason: reason, message: message, meta: meta}
}

func (r *refusal) retry(after time.Duration) *refusal {
	r.retryAfter = after
	return r
}

func invalid(field, message string) *refusal {
	return &refusal{reason: errorsv1.Reason_REASON_INVALID_REQUEST, message: message, field: field}
}
