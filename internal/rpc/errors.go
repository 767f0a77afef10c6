package rpc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// errDraining is the cause with which the contexts of streams end when their listener shuts down.
var errDraining = errors.New("rpc: draining")

func errInternal() error {
	return rpcerr.New(codes.Internal, errorsv1.Reason_REASON_INTERNAL, "the service failed; its log says why")
}

func errMalformed() error {
	return rpcerr.New(codes.InvalidArgument, errorsv1.Reason_REASON_MALFORMED,
		"the bytes are no message of the method's type")
}

func errTooLarge(limit int) error {
	return rpcerr.New(codes.ResourceExhausted, errorsv1.Reason_REASON_MESSAGE_TOO_LARGE,
		fmt.Sprintf("the message is larger than %d bytes", limit), rpcerr.Meta("limit_bytes", strconv.Itoa(limit)))
}

func errUnknownMethod(method, why string) error {
	return rpcerr.New(codes.Unimplemented, errorsv1.Reason_REASON_UNKNOWN_METHOD, why, rpcerr.Meta("method", method))
}

func errCancelled() error {
	return rpcerr.New(codes.Canceled, errorsv1.Reason_REASON_CANCELLED, "the caller went away")
}

func errDeadline() error {
	return rpcerr.New(codes.DeadlineExceeded, errorsv1.Reason_REASON_DEADLINE_EXCEEDED, "the deadline ended before an answer")
}

func (s *Server) sanitiseUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	reply, err := handler(ctx, req)
	if err != nil {
		return nil, s.sanitise(ctx, info.FullMethod, err)
	}
	return reply, nil
}

func (s *Server) sanitiseStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	heard := &heardStream{ServerStream: ss}
	err := handler(srv, heard)
	switch {
	case err == nil:
		return nil
	case heard.unsent.Load(): // the connection went away under a message, and its context may not know yet
		err = errors.Join(err, context.Canceled)
	}
	return s.sanitise(ss.Context(), info.FullMethod, err)
}

// heardStream knows whether a message found nobody who could hear it.
type heardStream struct {
	grpc.ServerStream
	unsent atomic.Bool
}

// SendMsg implements grpc.ServerStream.
func (h *heardStream) SendMsg(m any) error {
	err := h.ServerStream.SendMsg(m)
	if status.Code(err) == codes.Unavailable {
		h.unsent.Store(true)
	}
	return err
}

// sanitise makes sure that an error is a status with one of our reasons, or one of somebody else's service. Whatever
// text surrounds a status stays inside.
func (s *Server) sanitise(ctx context.Context, method string, err error) error {
	var carrier interface{ GRPCStatus() *status.Status }
	var st *status.Status // stays nil, hence code OK, for an error that is no status
	if errors.As(err, &carrier) {
		st = carrier.GRPCStatus()
	}
	cancelled := st.Code() == codes.Canceled || errors.Is(err, context.Canceled)
	switch {
	case cancelled && errors.Is(context.Cause(ctx), errDraining):
		return rpcerr.New(codes.Unavailable, errorsv1.Reason_REASON_DRAINING, "the server is shutting down; call again")
	case st != nil && (s.foreign(method) || rpcerr.Reason(st.Err()) != errorsv1.Reason_REASON_UNSPECIFIED):
		return st.Err()
	case cancelled, st.Code() == codes.Unavailable && errors.Is(ctx.Err(), context.Canceled): // what a Send says on a connection that is gone
		return errCancelled()
	case st.Code() == codes.DeadlineExceeded, errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return errDeadline()
	case st.Code() == codes.Unimplemented:
		return errUnknownMethod(method, "the service does not implement this method")
	}
	s.log.ErrorContext(ctx, "call failed without a reason", "method", s.label(method), "error", err.Error())
	if st.Code() == codes.Unavailable {
		// A client of ours lost its server: trying again is right, and INTERNAL would say it is not.
		return rpcerr.New(codes.Unavailable, errorsv1.Reason_REASON_UPSTREAM_UNREACHABLE, "a service behind this one could not be reached")
	}
	return errInternal()
}

// receiveError types what a listener says about bytes that it could not turn into a message.
func receiveError(ctx context.Context, err error, code codes.Code, limit int) error {
	switch {
	case ctx.Err() != nil, code == codes.Canceled, code == codes.DeadlineExceeded, errors.Is(err, os.ErrDeadlineExceeded):
		return errors.Join(err, ctx.Err())
	case code == codes.ResourceExhausted:
		return errTooLarge(limit)
	default:
		return errMalformed()
	}
}

// foreign tells whether a method is not the platform's own: forwarded, or gRPC's infrastructure. Such statuses are
// somebody else's contract.
func (s *Server) foreign(method string) bool {
	service, _ := split(method)
	_, registered := s.services[service]
	return !registered || strings.HasPrefix(service, "grpc.")
}

// methodDescriptor finds a method that this binary was built with.
func methodDescriptor(fullMethod string) (protoreflect.MethodDescriptor, bool) {
	service, method := split(fullMethod)
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service + "." + method))
	if err != nil {
		return nil, false
	}
	m, ok := d.(protoreflect.MethodDescriptor)
	return m, ok
}
