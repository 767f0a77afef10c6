// Package rpcerr builds and reads the platform's statuses: a gRPC code, one sentence, and exactly one ErrorInfo whose
// reason comes from rimlight.errors.v1.Reason.
//
// It is the vocabulary of the edge: services turn their own errors into these in one toStatus function each, and
// nothing below a service's edge imports it.
package rpcerr

import (
	"errors"
	"io"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
)

// Domain is the ErrorInfo domain of every reason.
const Domain = "rimlight.dev"

const prefix = "REASON_"

// Option adds a detail to a status.
type Option func(*details)

type details struct {
	metadata   map[string]string
	retryAfter time.Duration
	violations []*errdetails.BadRequest_FieldViolation
}

// Meta repeats a variable of the message for machines.
func Meta(key, value string) Option {
	return func(d *details) {
		if d.metadata == nil {
			d.metadata = map[string]string{}
		}
		d.metadata[key] = value
	}
}

// RetryAfter says when trying again makes sense.
func RetryAfter(after time.Duration) Option {
	return func(d *details) { d.retryAfter = after }
}

// Violation names a field that breaks a rule, by its proto path.
func Violation(field, description string) Option {
	return func(d *details) {
		d.violations = append(d.violations, &errdetails.BadRequest_FieldViolation{Field: field, Description: description})
	}
}

// New makes a status error. The message is one sentence for people, without secrets.
func New(code codes.Code, reason errorsv1.Reason, message string, options ...Option) error {
	var d details
	for _, o := range options {
		o(&d)
	}
	parts := []protoadapt.MessageV1{&errdetails.ErrorInfo{
		Reason: strings.TrimPrefix(reason.String(), prefix), Domain: Domain, Metadata: d.metadata,
	}}
	if d.retryAfter > 0 {
		parts = append(parts, &errdetails.RetryInfo{RetryDelay: durationpb.New(d.retryAfter)})
	}
	if len(d.violations) > 0 {
		parts = append(parts, &errdetails.BadRequest{FieldViolations: d.violations})
	}
	st, err := status.New(code, message).WithDetails(parts...)
	if err != nil { // only for code OK, which is a programming error
		panic("rpcerr: " + err.Error())
	}
	return st.Err()
}

// Reason reads the reason of a status error; REASON_UNSPECIFIED when it carries none of ours.
func Reason(err error) errorsv1.Reason {
	if info := Info(err); info != nil {
		return errorsv1.Reason(errorsv1.Reason_value[prefix+info.GetReason()])
	}
	return errorsv1.Reason_REASON_UNSPECIFIED
}

// Level is how a broken stream that is taken up again belongs in a log. Its server said before that it would end, since it
// shuts down or the connection had its time: INFO, nobody has to do anything. Anything else: WARN.
func Level(err error) slog.Level {
	switch {
	case errors.Is(err, io.EOF), Reason(err) == errorsv1.Reason_REASON_DRAINING:
		return slog.LevelInfo
	case status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), plannedGoAway):
		return slog.LevelInfo
	}
	return slog.LevelWarn
}

// plannedGoAway is all that grpc-go says about a stream whose connection a server closed after it announced that.
const plannedGoAway = "received prior goaway: code: NO_ERROR"

// Info reads the ErrorInfo of a status error; nil when it carries none of ours.
func Info(err error) *errdetails.ErrorInfo {
	st, ok := status.FromError(err)
	if !ok {
		return nil
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == Domain {
			return info
		}
	}
	return nil
}

// Retry tells whether the same call may be made again and how long to wait before: the server's RetryInfo, or zero when
// nothing answered (UNAVAILABLE without one). Only for calls that are idempotent.
func Retry(err error) (wait time.Duration, ok bool) {
	st, isStatus := status.FromError(err)
	if err == nil || !isStatus {
		return 0, false
	}
	for _, d := range st.Details() {
		if info, isRetry := d.(*errdetails.RetryInfo); isRetry {
			return info.GetRetryDelay().AsDuration(), true
		}
	}
	return 0, st.Code() == codes.Unavailable
}
