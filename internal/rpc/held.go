package rpc

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
)

// streamIdle is how long a port for strangers keeps a stream on which nothing moves. WatchDrops says every 10 s that it
// lives, so this ends what a region forgot, and purchases that wait; clients resume both.
const streamIdle = 5 * time.Minute

func errStreamIdle() error {
	return rpcerr.New(codes.Unavailable, errorsv1.Reason_REASON_STREAM_IDLE,
		fmt.Sprintf("nothing went through the stream for %v; begin it again with its resume token", streamIdle),
		rpcerr.Meta("idle_ms", strconv.FormatInt(streamIdle.Milliseconds(), 10)))
}

// held is a handler of streams behind a port for strangers: so many at a time, and none for ever. Unary calls have a
// deadline instead, so that purchases go through while every stream is taken. Streams of other people's services end by
// their own rules, but they count.
func (l *listener) held(method string, handler grpc.StreamHandler) grpc.StreamHandler {
	if !l.cfg.Public {
		return handler
	}
	return func(srv any, ss grpc.ServerStream) error {
		defer l.streams.Add(-1)
		if l.streams.Add(1) > int64(l.limits.totalStreams) {
			l.edgeMetrics.refused.WithLabelValues(refusedStream).Inc()
			return errOverloaded("streams")
		}
		l.edgeMetrics.streams.Inc()
		defer l.edgeMetrics.streams.Dec()
		if !strings.HasPrefix(method, "/rimlight.") {
			return handler(srv, ss)
		}
		ctx, cancel := context.WithCancelCause(ss.Context())
		defer cancel(nil)
		idle := errStreamIdle()
		timer := time.AfterFunc(streamIdle, func() { cancel(idle) })
		defer timer.Stop()
		err := handler(srv, &quietStream{ServerStream: withContext(ctx, ss), timer: timer})
		if err != nil && errors.Is(context.Cause(ctx), idle) {
			l.edgeMetrics.gaveUp.WithLabelValues(gaveUpIdle).Inc()
			return idle
		}
		return err
	}
}

// quietStream pushes its end away with every message.
type quietStream struct {
	grpc.ServerStream
	timer *time.Timer
}

// SendMsg implements grpc.ServerStream.
func (q *quietStream) SendMsg(m any) error {
	err := q.ServerStream.SendMsg(m)
	if err == nil {
		q.timer.Reset(streamIdle)
	}
	return err
}

// RecvMsg implements grpc.ServerStream.
func (q *quietStream) RecvMsg(m any) error {
	err := q.ServerStream.RecvMsg(m)
	if err == nil {
		q.timer.Reset(streamIdle)
	}
	return err
}
