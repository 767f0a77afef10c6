package rpc

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	middleware "github.com/grpc-ecosystem/go-grpc-middleware/v2"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/rpc/auth"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// buildChain puts the interceptors in their order, outermost first. A panic is recovered inside the log, the metrics and
// the sanitiser, so that it is counted and answered like every other fault.
func (s *Server) buildChain() {
	metrics := newCallMetrics(s.cfg.Metrics)
	recovered := recovery.WithRecoveryHandlerContext(s.panicked)

	s.unary = chainUnary(
		s.traceUnary,
		s.logUnary,
		metrics.unary,
		s.sanitiseUnary,
		recovery.UnaryServerInterceptor(recovered),
		s.authUnary,
		deadlineUnary,
	)
	s.inner = chainUnary(append([]grpc.UnaryServerInterceptor{s.validateUnary}, s.cfg.Unary...)...)
	s.stream = chainStream(append([]grpc.StreamServerInterceptor{
		s.traceStream,
		s.logStream,
		s.boundedStream(metrics.stream),
		s.sanitiseStream,
		recovery.StreamServerInterceptor(recovered),
		s.authStream,
		deadlineStream,
		s.validateStream,
	}, s.cfg.Stream...)...)
}

func chainUnary(interceptors ...grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		for _, intercept := range slices.Backward(interceptors) {
			next := handler
			handler = func(ctx context.Context, req any) (any, error) { return intercept(ctx, req, info, next) }
		}
		return handler(ctx, req)
	}
}

func chainStream(interceptors ...grpc.StreamServerInterceptor) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		for _, intercept := range slices.Backward(interceptors) {
			next := handler
			handler = func(srv any, ss grpc.ServerStream) error { return intercept(srv, ss, info, next) }
		}
		return handler(srv, ss)
	}
}

// withContext replaces a stream's context.
func withContext(ctx context.Context, ss grpc.ServerStream) grpc.ServerStream {
	return &middleware.WrappedServerStream{ServerStream: ss, WrappedContext: ctx}
}

// Logging.

func (s *Server) logUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	reply, err := handler(ctx, req)
	s.logCall(ctx, info.FullMethod, start, err)
	return reply, err
}

func (s *Server) logStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	start := time.Now()
	err := handler(srv, ss)
	s.logCall(ss.Context(), info.FullMethod, start, err)
	return err
}

func (s *Server) logCall(ctx context.Context, method string, start time.Time, err error) {
	level := levelOf(err)
	if !s.log.Enabled(ctx, level) {
		return
	}
	s.log.LogAttrs(ctx, level, "call ended",
		slog.String("method", s.logName(method)),
		slog.String("code", status.Code(err).String()),
		slog.String("reason", rpcerr.Info(err).GetReason()),
		slog.Float64("duration_ms", float64(time.Since(start).Microseconds())/1000))
}

// levelOf keeps answers that a healthy service gives all day out of the log: a sold-out drop is no incident, and neither
// is a process that starts or stops.
func levelOf(err error) slog.Level {
	switch rpcerr.Reason(err) {
	case errorsv1.Reason_REASON_DRAINING:
		return slog.LevelInfo
	case errorsv1.Reason_REASON_STREAM_IDLE:
		return slog.LevelDebug
	}
	switch status.Code(err) {
	case codes.Unknown, codes.Internal, codes.DataLoss:
		return slog.LevelError
	case codes.Unavailable, codes.DeadlineExceeded:
		return slog.LevelWarn
	case codes.Unauthenticated, codes.PermissionDenied, codes.Unimplemented, codes.ResourceExhausted:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

// Metrics.

// unknownLabel stands for methods whose names only callers know: a label that they choose would grow without bound.
const unknownLabel = "/unknown/unknown"

func (s *Server) label(fullMethod string) string {
	if s.methods[fullMethod] {
		return fullMethod
	}
	if _, ok := methodDescriptor(fullMethod); ok { // forwarded
		return fullMethod
	}
	if service, _ := split(fullMethod); slices.Contains(s.cfg.Forwarded, service) {
		return "/" + service + "/unknown"
	}
	return unknownLabel
}

// logName is a method as the log calls it: a log is not bounded by its texts, but strangers do not write it either.
func (s *Server) logName(fullMethod string) string {
	if service, _ := split(fullMethod); slices.Contains(s.cfg.Forwarded, service) {
		return fullMethod
	}
	return s.label(fullMethod)
}

// boundedStream needs no sibling for unary calls: those are registered, hence known.
func (s *Server) boundedStream(intercept grpc.StreamServerInterceptor) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		bounded := *info
		bounded.FullMethod = s.label(info.FullMethod)
		return intercept(srv, ss, &bounded, handler)
	}
}

// Recovery.

func (s *Server) panicked(ctx context.Context, p any) error {
	s.log.ErrorContext(ctx, "handler panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	return errInternal()
}

// Roles.

func (s *Server) authUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, err := s.authorise(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (s *Server) authStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, err := s.authorise(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return handler(srv, withContext(ctx, ss))
}

func (s *Server) authorise(ctx context.Context, method string) (context.Context, error) {
	role, shown := s.roleOf(ctx)
	if shown {
		ctx = auth.NewContext(ctx, role)
	}
	needed, ruled := s.cfg.Rules[method]
	switch {
	case !ruled || slices.Contains(needed, auth.FromContext(ctx)):
		return ctx, nil
	case !shown:
		return nil, rpcerr.New(codes.Unauthenticated, errorsv1.Reason_REASON_UNAUTHENTICATED,
			"this call needs a bearer token of the deployment")
	}
	names := make([]string, len(needed))
	for i, r := range needed {
		names[i] = string(r)
	}
	return nil, rpcerr.New(codes.PermissionDenied, errorsv1.Reason_REASON_ROLE_NOT_ALLOWED,
		fmt.Sprintf("role %s may not do this, it needs %s", role, strings.Join(names, " or ")),
		rpcerr.Meta("role", string(role)), rpcerr.Meta("needed", strings.Join(names, ",")))
}

// roleOf reads the bearer token. A token that is not ours is as good as none.
func (s *Server) roleOf(ctx context.Context) (auth.Role, bool) {
	for _, value := range metadata.ValueFromIncomingContext(ctx, "authorization") {
		scheme, token, ok := strings.Cut(value, " ")
		if !ok || !strings.EqualFold(scheme, "bearer") {
			continue
		}
		if role, ok := s.cfg.Tokens.RoleOf(strings.TrimSpace(token)); ok {
			return role, true
		}
	}
	return "", false
}
