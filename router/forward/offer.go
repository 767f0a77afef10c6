package forward

import (
	"cmp"
	"context"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	errorsv1 "github.com/rimlight/rimlight/gen/go/rimlight/errors/v1"
	"github.com/rimlight/rimlight/internal/rpc/frame"
	"github.com/rimlight/rimlight/internal/rpc/rpcerr"
	"github.com/rimlight/rimlight/internal/telemetry"
	"github.com/rimlight/rimlight/router/measure"
)

// offer forwards a call of OfferService: one request, one answer or a stream of them.
func (f *Forwarder) offer(stream grpc.ServerStream, name string, m method) error {
	ctx := stream.Context()
	request := new(frame.Frame)
	if err := stream.RecvMsg(request); err != nil {
		return received(ctx, err)
	}
	h := ReadHints(request.Payload)
	if err := h.refused(); err != nil {
		return err
	}
	c := f.newCall(ctx, name, m.label, m.kind, h)
	c.retriable, c.awaited = m.retriable, !m.stream
	if m.stream {
		return c.serverStream(stream, request)
	}
	ctx, cancel, err := f.budget(ctx)
	if err != nil {
		c.record(err)
		return err
	}
	defer cancel()
	return c.unary(outgoing(ctx), stream, request)
}

// budget shaves a unary call's deadline for the way back and refuses what cannot be answered in time anyway.
func (f *Forwarder) budget(ctx context.Context) (context.Context, context.CancelFunc, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		ctx, cancel := context.WithTimeout(ctx, f.config.DefaultTimeout)
		return ctx, cancel, nil
	}
	if remaining := time.Until(deadline); remaining < f.config.Floor+f.config.ReturnTrip {
		return nil, nil, rpcerr.New(codes.DeadlineExceeded, errorsv1.Reason_REASON_DEADLINE_BELOW_FLOOR,
			"The call arrived with too little time left to be answered.",
			rpcerr.Meta("remaining_ms", strconv.FormatInt(remaining.Milliseconds(), 10)),
			rpcerr.Meta("floor_ms", strconv.FormatInt((f.config.Floor+f.config.ReturnTrip).Milliseconds(), 10)))
	}
	ctx, cancel := context.WithDeadline(ctx, deadline.Add(-f.config.ReturnTrip))
	return ctx, cancel, nil
}

func (c *call) unary(ctx context.Context, stream grpc.ServerStream, request *frame.Frame) error {
	var failed result
	for {
		n := c.choose(ctx)
		if n == nil {
			return c.nobody(stream, failed)
		}
		var a, hedged attempted
		if c.asked == 1 && c.retriable && n.others > 0 && c.f.config.HedgeShare > 0 {
			a, hedged = c.race(ctx, n, request)
		} else {
			a.n = n
			a.answer, a.r = c.invoke(ctx, n, request, c.attemptTimeout(ctx, n))
		}
		c.keep(a.n, a.r)
		if hedged.n != nil {
			c.keep(hedged.n, hedged.r)
			if a.r.err != nil && (hedged.r.err == nil || hedged.r.weight >= a.r.weight) {
				a = hedged
			}
		}
		if c.again(ctx, failed, a.r) {
			failed = heavier(failed, a.r)
			continue
		}
		r := heavier(failed, a.r)
		c.f.earn(r)
		c.record(r.err)
		if err := c.prepare(stream, a.n, r); err != nil || r.err != nil {
			return cmp.Or(err, r.err)
		}
		return stream.SendMsg(a.answer)
	}
}

// invoke makes one attempt and tells the measurements how it went. The node gets the whole deadline; giving up after the
// timeout is the router's affair. 0: never.
func (c *call) invoke(ctx context.Context, n *node, request *frame.Frame, timeout time.Duration) (*frame.Frame, result) {
	ctx, span := telemetry.StartCall(ctx, "router.attempt")
	defer span.End()
	attemptCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	if timeout > 0 {
		defer time.AfterFunc(timeout, cancel).Stop()
	}
	var header, trailer metadata.MD
	options := append([]grpc.CallOption{grpc.Header(&header), grpc.Trailer(&trailer)}, c.f.options...)
	answer := new(frame.Frame)
	start := time.Now()
	err := n.conn.Invoke(attemptCtx, c.name, request, answer, options...)
	took := time.Since(start)
	r := judge(ctx, err, n.region.Name, took, c.patience(n))
	r.header, r.trailer, r.took = header, trailer, took
	if r.verdict == measure.Broken && ctx.Err() == nil && attemptCtx.Err() != nil { // by the timeout
		r.givenUp = true
	}
	c.tell(n, r, true)
	c.describe(span, n, r)
	return answer, r
}

// describe says of an attempt's span why it was made, and how it went.
func (c *call) describe(span telemetry.Span, n *node, r result) {
	if !span.On() {
		return
	}
	decision, verdict := c.decision.ID, r.verdict
	span.Later(func(span telemetry.Span) {
		span.Set("rimlight.decision", decision)
		span.Set("rimlight.region", n.region.Name)
		span.Set("rimlight.regime", n.regime.String())
		span.Set("rimlight.verdict", verdict.String())
		span.SetInt("rimlight.attempt", int64(n.attempt+1))
		span.SetInt("rimlight.expected_ms", n.expected.Milliseconds())
		if n.hedge {
			span.Set("rimlight.hedge", "true")
		}
	})
	if r.verdict == measure.Broken || r.verdict == measure.Failed {
		span.Fail(r.verdict.String())
	}
}
