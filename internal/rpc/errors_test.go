package rpc

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// closing is a stream whose connection ends under a message, before its context says so.
type closing struct {
	grpc.ServerStream
	ctx context.Context
}

func (c closing) Context() context.Context { return c.ctx }

func (closing) SendMsg(any) error { return status.Error(codes.Unavailable, "transport is closing") }

// Only whoever sends can tell a caller that is gone from a service behind this one that is.
func TestAMessageThatNobodyHearsIsNoError(t *testing.T) {
	const method = "/rimlight.test.Known/Watch"
	for _, c := range []struct {
		rule   string
		handle grpc.StreamHandler
		reason errorsv1.Reason
		logged bool
	}{
		{"the caller is gone", func(_ any, ss grpc.ServerStream) error { return ss.SendMsg(nil) }, errorsv1.Reason_REASON_CANCELLED, false},
		{"the caller is gone, in the service's words", func(_ any, ss grpc.ServerStream) error {
			return errors.New("sending: " + ss.SendMsg(nil).Error())
		}, errorsv1.Reason_REASON_CANCELLED, false},
		{"a service behind this one is gone", func(any, grpc.ServerStream) error {
			return status.Error(codes.Unavailable, "transport is closing")
		}, errorsv1.Reason_REASON_UPSTREAM_UNREACHABLE, true},
	} {
		var log bytes.Buffer
		s := &Server{log: slog.New(slog.NewTextHandler(&log, nil)), services: map[string]*service{"rimlight.test.Known": {}}}
		err := s.sanitiseStream(nil, closing{ctx: t.Context()}, &grpc.StreamServerInfo{FullMethod: method}, c.handle)
		if got := rpcerr.Reason(err); got != c.reason || log.Len() > 0 != c.logged {
			t.Errorf("%s: got %v, and the log says %q; want %v", c.rule, err, log.String(), c.reason)
		}
	}
}
