package rpc

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

const (
	// defaultDeadline is what a unary call gets that names none: ten times what a viewer waits, and short enough that
	// abandoned calls do not pile up.
	defaultDeadline = 2 * time.Second
	// deadlineFloor is less than a redemption's fsync takes: work started with less time left is work for nobody.
	deadlineFloor = 5 * time.Millisecond
)

func deadlineUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, cancel, err := budget(ctx, info.FullMethod, true)
	if err != nil {
		return nil, err
	}
	defer cancel()
	return handler(ctx, req)
}

// deadlineStream serves the unary methods that are forwarded, hence look like streams.
func deadlineStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, cancel, err := budget(ss.Context(), info.FullMethod, isUnary(info.FullMethod))
	if err != nil {
		return err
	}
	defer cancel()
	return handler(srv, withContext(ctx, ss))
}

// budget gives a unary call of the platform a deadline, or refuses one that has no chance. Streams end by idle time,
// other people's services by their own rules.
func budget(ctx context.Context, method string, unary bool) (context.Context, context.CancelFunc, error) {
	if !unary || !strings.HasPrefix(method, "/rimlight.") {
		return ctx, func() {}, nil
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		ctx, cancel := context.WithTimeout(ctx, defaultDeadline)
		return ctx, cancel, nil
	}
	if remaining := time.Until(deadline); remaining < deadlineFloor {
		return nil, nil, rpcerr.New(codes.DeadlineExceeded, errorsv1.Reason_REASON_DEADLINE_BELOW_FLOOR,
			fmt.Sprintf("the call arrived with %v left, too little to answer", remaining.Round(time.Microsecond)),
			rpcerr.Meta("remaining_ms", strconv.FormatInt(remaining.Milliseconds(), 10)),
			rpcerr.Meta("floor_ms", strconv.FormatInt(deadlineFloor.Milliseconds(), 10)))
	}
	return ctx, func() {}, nil
}

func isUnary(fullMethod string) bool {
	m, ok := methodDescriptor(fullMethod)
	return ok && !m.IsStreamingClient() && !m.IsStreamingServer()
}
