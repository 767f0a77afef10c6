package rpc

import (
	"context"
	"errors"
	"fmt"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

func (s *Server) validateUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := s.validate(req); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (s *Server) validateStream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return handler(srv, &validatedStream{ServerStream: ss, validate: s.validate})
}

// validatedStream checks every message that it receives.
type validatedStream struct {
	grpc.ServerStream
	validate func(any) error
}

// RecvMsg implements grpc.ServerStream.
func (v *validatedStream) RecvMsg(m any) error {
	if err := v.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return v.validate(m)
}

// validate holds a message against the rules in its proto. Frames are not decoded here, so whoever decodes them checks.
func (s *Server) validate(m any) error {
	msg, ok := m.(proto.Message)
	if !ok {
		return nil
	}
	err := s.validator.Validate(msg)
	if err == nil {
		return nil
	}
	var invalid *protovalidate.ValidationError
	if !errors.As(err, &invalid) || len(invalid.Violations) == 0 {
		return fmt.Errorf("validating a %s: %w", msg.ProtoReflect().Descriptor().FullName(), err)
	}
	options := make([]rpcerr.Option, 0, len(invalid.Violations))
	for _, v := range invalid.Violations {
		options = append(options, rpcerr.Violation(protovalidate.FieldPathString(v.Proto.GetField()), v.Proto.GetMessage()))
	}
	first := invalid.Violations[0].Proto
	return rpcerr.New(codes.InvalidArgument, errorsv1.Reason_REASON_INVALID_REQUEST,
		fmt.Sprintf("the request breaks a rule of its message: %s: %s",
			protovalidate.FieldPathString(first.GetField()), first.GetMessage()), options...)
}
