package region

import (
	"errors"
	"time"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
)

// Errors that end a node's Run. Each needs an operator: a restart alone does not help, but for the journal's ErrBroken.
var (
	// ErrDiskChanged: the node has joined from another disk since it last did from this one. What this journal sold is
	// forwarded at every start; it sells nothing more.
	ErrDiskChanged = errors.New("region: the node has joined from another disk since")
	// ErrSuperseded: another process on a copy of the data directory took the place of this one, and may sell the same
	// serials. The journal remembers it. What it sold is forwarded at every start; to go on as the same node, begin with
	// an empty directory and the node's id.
	ErrSuperseded = errors.New("region: a process on a copy of the data directory took the place of this one")
	// ErrJournalBehind: the verifier has redemptions that the journal lacks, so serials could be sold twice. The data
	// directory is an old copy, or its newest records were lost.
	ErrJournalBehind = errors.New("region: the verifier has redemptions that this journal lacks")
	// ErrSealed: the node retired, and promised that its journal has no further sales. New answers it unless
	// Config.Retire asks to go on with the retirement.
	ErrSealed = errors.New("region: the journal is sealed: its node has retired")
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
