package rpc

import (
	"context"
	"log/slog"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/telemetry"
)

// Keys of what the spans of calls say.
const (
	attrCode   = "rpc.grpc.status_code"
	attrReason = "rimlight.reason"
)

func (s *Server) traceUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, span := s.serveSpan(ctx, info.FullMethod)
	reply, err := handler(ctx, req)
	endSpan(span, err)
	return reply, err
}

// traceStream serves streams of answers, whose spans end with the first, and the unary methods that are forwarded, hence look
// like streams. A stream that its caller talks on has no span: nobody can tell when an answer is due.
func (s *Server) traceStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if s.cfg.Traces == nil {
		return handler(srv, ss)
	}
	method, known := methodDescriptor(info.FullMethod)
	if !known || method.IsStreamingClient() {
		return handler(srv, ss)
	}
	ctx, span := s.serveSpan(ss.Context(), info.FullMethod)
	if !span.On() {
		return handler(srv, ss)
	}
	first := &untilFirst{ServerStream: withContext(ctx, ss), unary: !method.IsStreamingServer(), span: span}
	err := handler(srv, first)
	if !first.over {
		endSpan(span, err)
	}
	return err
}

// untilFirst ends a stream's span with the first message: what comes later comes when it happens, and has spans where it does.
type untilFirst struct {
	grpc.ServerStream
	unary bool // it ends with its status
	span  telemetry.Span
	over  bool
}

// SendMsg implements grpc.ServerStream.
func (s *untilFirst) SendMsg(m any) error {
	err := s.ServerStream.SendMsg(m)
	if err == nil && !s.unary && !s.over {
		s.over = true
		s.span.End()
	}
	return err
}

func (s *Server) serveSpan(ctx context.Context, method string) (context.Context, telemetry.Span) {
	if s.cfg.Traces == nil {
		return ctx, telemetry.Span{}
	}
	var parent string
	if values := metadata.ValueFromIncomingContext(ctx, telemetry.Header); len(values) == 1 { // more than one says nothing
		parent = values[0]
	}
	return s.cfg.Traces.Serve(ctx, strings.TrimPrefix(method, "/"), parent, s.cfg.Public)
}

// endSpan says how a call ended. It failed where the log would have a warning of it: a sold-out drop is no fault.
func endSpan(span telemetry.Span, err error) {
	if err != nil {
		span.SetInt(attrCode, int64(status.Code(err)))
		reason := rpcerr.Info(err).GetReason()
		if reason != "" {
			span.Set(attrReason, reason)
		}
		if levelOf(err) >= slog.LevelWarn {
			span.Fail(reason)
		}
	}
	span.End()
}

// traceCall makes a span of a unary call that is part of a trace, and lets the trace go on behind it.
func traceCall(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	ctx, span := telemetry.StartCall(ctx, strings.TrimPrefix(method, "/"))
	err := invoke(WithTrace(ctx), method, req, reply, cc, options...)
	endSpan(span, err)
	return err
}

// traceStreamCall lets a trace go on behind a stream.
func traceStreamCall(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
	return open(WithTrace(ctx), desc, cc, method, options...)
}

// WithTrace is a context whose calls carry its trace on. A caller's own header is not among its metadata.
func WithTrace(ctx context.Context) context.Context {
	parent := telemetry.Traceparent(ctx)
	if parent == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, telemetry.Header, parent)
}
